"""Serves the page that the installation made, on the socket that it is given, or on $PORT or a free port."""

import os
import socket
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer

with open("public/index.html", "rb") as file:
    PAGE = file.read()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path == "/"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(PAGE if found else b"not found\n")


# Not an HTTPServer, which asks the name service for the host's name first.
TCPServer.allow_reuse_address = True
given = os.environ.get("LISTEN_PID") == str(os.getpid())
server = TCPServer(("127.0.0.1", int(os.environ.get("PORT") or 0)), Handler, bind_and_activate=not given)
if given:
    server.socket = socket.socket(fileno=3)
    server.server_address = server.socket.getsockname()
print(f"listening on http://127.0.0.1:{server.server_address[1]}/", flush=True)
server.serve_forever()
