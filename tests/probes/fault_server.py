"""A real HTTP server whose paths are the ways in which a server goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import SHUT_WR, SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import parse_qs, urlsplit

GOOD = b'{"data": [{"embedding": [0.5, -1.25, 3.0]}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it came; names of headers in lower case. connection: counts from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


class FaultServer(socketserver.ThreadingTCPServer):
    """Listens on a free port of 127.0.0.1 while it is entered. certificate: a PEM file with key, for https."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        self.scheme = "http" if certificate is None else "https"
        self.stopping = threading.Event()
        self.received: list[Received] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self) -> FaultServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join(10)
        self.server_close()

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def paths(self) -> list[str]:
        return [r.path for r in self.received]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this server is for."""


class _Handler(socketserver.StreamRequestHandler):
    server: FaultServer

    def handle(self) -> None:
        with self.server.lock:
            self.server.connections += 1
            number = self.server.connections
        with suppress(OSError):
            while self._handle_one(number):
                pass

    def _handle_one(self, number: int) -> bool:
        first = self.rfile.readline().split()
        if len(first) != 3:
            return False
        headers: dict[str, str] = {}
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", 0)))
        received = Received(
            method=first[0].decode(), path=first[1].decode(), headers=headers, body=body, connection=number
        )
        with self.server.lock:
            self.server.received.append(received)
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.in_flight, self.server.most_in_flight)
        try:
            parts = urlsplit(received.path)
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            return self.answer(parts.path, query, received)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def answer(self, path: str, query: dict[str, str], received: Received) -> bool:
        """Whether the connection stays open."""
        if path.startswith("/status/"):
            self.send(b'{"error": "no"}', status=int(path.removeprefix("/status/")))
            return True
        if path == "/flaky":  # hangs from the n-th request on
            after = int(query["after"])
            path = "/ok" if self.server.paths().count(received.path) <= after else "/hang"
        if path == "/slow":
            self.server.stopping.wait(float(query["s"]))
        return _ANSWERS[path](self, received)

    def send(self, body: bytes, *, status: int = 200, headers: str = "", length: int | None = None) -> bool:
        length = len(body) if length is None else length
        extra = headers + ("Content-Type: application/json\r\n" if status != 204 else "")
        sized = "" if status == 204 else f"Content-Length: {length}\r\n"
        self.wfile.write(f"HTTP/1.1 {status} X\r\n{extra}{sized}\r\n".encode() + body)
        return True

    def hang(self, _received: Received) -> bool:
        self.server.stopping.wait(60)
        return False

    def reset(self, _received: Received) -> bool:
        self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # at once: the server's own way of closing would first say farewell
        return False

    def half(self, _received: Received) -> bool:
        self.send(GOOD[:10], length=len(GOOD))
        return False

    def late_end(self, _received: Received) -> bool:
        self.server.stopping.wait(0.05)
        self.send(GOOD[:10], length=len(GOOD))
        self.server.stopping.wait(0.05)
        self.wfile.write(GOOD[10:])
        return True

    def drip(self, head: bytes, every_s: float = 0.02) -> bool:
        """A byte now and then, for ever: no single read times out."""
        self.wfile.write(head)
        while not self.server.stopping.wait(every_s):
            self.wfile.write(b"x")
        return False

    def half_close(self, _received: Received) -> bool:
        """It will say nothing more, and leaves its ear open."""
        self.connection.shutdown(SHUT_WR)
        self.server.stopping.wait(60)
        return False

    def endless_headers(self, _received: Received) -> bool:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.stopping.is_set():
            self.wfile.write(b"X-More: " + b"1" * 4000 + b"\r\n")
        return False

    def endless(self, _received: Received) -> bool:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"1" * 0x100000 + b"\r\n"
        while not self.server.stopping.is_set():
            self.wfile.write(chunk)
        return False

    def chunked(self, _received: Received) -> bool:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(GOOD), 7):
            part = GOOD[start : start + 7]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")
        return True

    def echo(self, received: Received) -> bool:
        return self.send(json.dumps({"headers": received.headers, "body": received.body.decode()}).encode())

    def close_after(self, _received: Received) -> bool:
        self.send(GOOD, headers="Connection: close\r\n")
        return False

    def raw(self, content: bytes) -> bool:
        self.wfile.write(content)
        return False


_ANSWERS: dict[str, Callable[[_Handler, Received], bool]] = {
    "/ok": lambda h, r: h.send(GOOD),
    "/slow": lambda h, r: h.send(GOOD),
    "/hang": _Handler.hang,
    "/reset": _Handler.reset,
    "/half": _Handler.half,
    "/late_end": _Handler.late_end,
    "/vanish": lambda h, r: False,
    "/drip_headers": lambda h, r: h.drip(b"HTTP/1.1 200 OK\r\nX-Drip: "),
    "/drip_slowly": lambda h, r: h.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", every_s=1.0),
    "/half_close": _Handler.half_close,
    "/endless_headers": _Handler.endless_headers,
    "/drip_body": lambda h, r: h.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "/endless": _Handler.endless,
    "/chunked": _Handler.chunked,
    "/echo": _Handler.echo,
    "/close": _Handler.close_after,
    "/garbage": lambda h, r: h.send(b'{"data": [{"embe'),
    "/not_http": lambda h, r: h.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "/nan": lambda h, r: h.send(b'{"data": [{"embedding": [0.5, NaN, 3.0]}]}'),
    "/strings": lambda h, r: h.send(b'{"data": [{"embedding": ["a"]}]}'),
    "/large": lambda h, r: h.send(b"[" + b"0.5," * 25_000 + b"0.5]"),
    "/other": lambda h, r: h.send(b'{"error": "none"}'),
    "/redirect": lambda h, r: h.send(b"", status=302, headers="Location: /ok\r\n"),
    "/cookie": lambda h, r: h.send(GOOD, headers="Set-Cookie: session=1\r\n"),
    "/gzip": lambda h, r: h.send(gzip.compress(GOOD), headers="Content-Encoding: gzip\r\n"),
    "/bomb": lambda h, r: h.send(gzip.compress(b"0" * 17 * 2**20), headers="Content-Encoding: gzip\r\n"),
    "/cut_gzip": lambda h, r: h.send(gzip.compress(GOOD)[:-9], headers="Content-Encoding: gzip\r\n"),
    "/brotli": lambda h, r: h.send(b"\x0b\x02\x80", headers="Content-Encoding: br\r\n"),
    "/named": lambda h, r: h.send(
        GOOD,
        headers="Server: toy/1\r\nX-Model-Version: v7\r\nX-Watchdog-Worker: 41@99;torch=2.13.0;cuda=13.0;Bad Key=1\r\n",
    ),
}
