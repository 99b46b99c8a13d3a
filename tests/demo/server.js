const { createServer } = require("node:http");
const { readFileSync } = require("node:fs");

createServer((_request, response) => {
  response.setHeader("Content-Type", "text/html");
  response.end(readFileSync("public/index.html"));
}).listen(Number(process.env.PORT), "127.0.0.1");
