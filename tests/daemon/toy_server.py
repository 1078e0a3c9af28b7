"""A model server without a model, for tests of the daemon: `python toy_server.py PORT PID_FILE`.

POST /predict answers numbers after a little work; POST /fault {"kind": "wrong" | "hang" | "none"} breaks it until it is
started again. GET /health and GET /control always answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NEVER = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fault = "none"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/fault":
            Handler.fault = json.loads(body)["kind"]
            self._answer({"fault": Handler.fault})
            return
        if Handler.fault == "hang":
            NEVER.wait()
        total = sum(i * i for i in range(20_000)) % 7
        self._answer({"numbers": [1.0, 2.0, 3.0 + total * 0 + (5.0 if Handler.fault == "wrong" else 0.0)]})

    def do_GET(self) -> None:
        self._answer({"status": "ok"})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    Path(sys.argv[2]).write_text(f"{os.getpid()}\n")
    server.serve_forever()
