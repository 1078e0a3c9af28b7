"""A small real HTTP server that computes something, and can be told to be slow, wrong, busy or silent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODULUS = 97


@dataclass
class Model:
    """What the server does with a question. POST /predict {"inputs": [...]} answers {"outputs": [...]}.

    delay_s: how long an answer takes. scale: what the answer is multiplied with. status: 200, or an error instead.
    busy: so many requests are answered with 503 before the first good answer. silent: questions are read, never
    answered. requests: bodies as they came, with their headers.
    """

    delay_s: float = 0.005
    scale: float = 1.0
    status: int = 200
    busy: int = 0
    silent: bool = False
    version: str = "v1"
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    port: int = 0
    _closing: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.requests.append(({k.lower(): v for k, v in handler.headers.items()}, body))
        if self.silent:
            self._closing.wait(60)
            handler.close_connection = True
            return
        if self.busy > 0:
            self.busy -= 1
            _send(handler, 503, {"error": "loading"})
            return
        time.sleep(self.delay_s)
        if self.status != 200:
            _send(handler, self.status, {"error": "told to fail"})
            return
        inputs = json.loads(body)["inputs"] if body else []
        outputs = [self.scale * (sum(x * x for x in inputs) + i * x) / MODULUS for i, x in enumerate(inputs)]
        _send(handler, 200, {"outputs": outputs}, version=self.version)


def _send(handler: BaseHTTPRequestHandler, status: int, value: Any, *, version: str = "") -> None:
    body = json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    if version:
        handler.send_header("X-Model-Version", version)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(model: Model, *, port: int = 0) -> Iterator[Model]:
    """Serve on a free port of 127.0.0.1 (or the given one) while the block runs; `model.url` is the question's."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        wbufsize = -1  # head and body in one packet: else each answer waits 40 ms for a delayed acknowledgement

        def do_POST(self) -> None:
            model.answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def do_GET(self) -> None:
            _send(self, 200, {"status": "ok"})

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that hang up are what this server is for."""

    server = Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    model.port = server.server_port
    model.url = f"http://127.0.0.1:{model.port}/predict"
    try:
        yield model
    finally:
        model._closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
