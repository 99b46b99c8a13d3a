// Serves the page that the installation made, on the socket that it is given, or on $PORT or a free port.
const http = require("http");
const page = require("fs").readFileSync("public/index.html");

const server = http.createServer((request, response) => {
  const found = request.url === "/";
  response.writeHead(found ? 200 : 404, { "Content-Type": "text/html; charset=utf-8", Connection: "close" });
  response.end(found ? page : "not found\n");
});
const given = process.env.LISTEN_PID === String(process.pid);
server.listen(given ? { fd: 3 } : { port: Number(process.env.PORT || 0), host: "127.0.0.1" }, () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}/`);
});
// Whoever was accepted is answered first.
process.on("SIGTERM", () => server.close(() => process.exit(0)));
