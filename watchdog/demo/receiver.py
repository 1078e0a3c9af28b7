"""A local stand-in for Slack's incoming webhook: takes the POSTs, keeps them, lets the demo wait for one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MAX_BODY_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One accepted POST. headers: names in lower case; payload: the parsed JSON object."""

    path: str
    headers: Mapping[str, str]
    payload: Mapping[str, Any]


class Receiver:
    """Listens on a free loopback port from construction until `close` (or the end of a `with` block).

    Answers as Slack does: 200 "ok", or 400 "invalid_payload" / "no_text"; what it refuses it does not keep. Deliveries
    are made at least once, so the same one may be kept twice.
    """

    def __init__(self) -> None:
        self._received: list[Received] = []
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self._keep))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="receiver", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/services/demo"

    @property
    def received(self) -> tuple[Received, ...]:
        """Everything accepted so far, oldest first."""
        with self._changed:
            return tuple(self._received)

    def wait_for(self, wanted: Callable[[Received], bool], *, timeout_s: float, start: int = 0) -> Received | None:
        """The first wanted one from index `start` on, there already or still to come; None when time is up."""

        def found() -> Received | None:
            return next((r for r in self._received[start:] if wanted(r)), None)

        with self._changed:
            return self._changed.wait_for(found, timeout_s)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _keep(self, received: Received) -> None:
        with self._changed:
            self._received.append(received)
            self._changed.notify_all()


def _handler_for(keep: Callable[[Received], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30  # seconds a silent connection is kept open

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= MAX_BODY_BYTES:
                self.close_connection = True  # the body, if any, stays unread
                self._answer(400, "invalid_payload")
                return
            payload = _parse(self.rfile.read(length))
            if payload is None:
                self._answer(400, "invalid_payload")
            elif not ({"text", "blocks", "attachments"} & payload.keys()):
                self._answer(400, "no_text")
            else:
                headers = {name.lower(): value for name, value in self.headers.items()}
                keep(Received(path=self.path, headers=headers, payload=payload))
                self._answer(200, "ok")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Silent: the demo prints what it receives itself."""

    return Handler


def _parse(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
