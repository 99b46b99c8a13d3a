// Serves the page that the installation made, on $PORT or a free port.
const http = require("http");
const page = require("fs").readFileSync("public/index.html");

const server = http.createServer((request, response) => {
  const found = request.url === "/";
  response.writeHead(found ? 200 : 404, { "Content-Type": "text/html; charset=utf-8", Connection: "close" });
  response.end(found ? page : "not found\n");
});
server.listen(Number(process.env.PORT || 0), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}/`);
});
