"""The webhook receiver of the crash benchmark: real HTTP; it can fail, hang or be slow, and it forgets nothing."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_S = 0.25  # within the notifier's time-out
HANG_S = 5.0


@dataclass(kw_only=True)
class Attempt:
    """One request as it came. accepted: it was taken, whoever still listened. Times on the monotonic clock."""

    key: str
    payload: dict[str, Any]
    mode: str
    began: float
    ended: float | None = None

    @property
    def accepted(self) -> bool:
        return self.ended is not None and self.mode in ("ok", "slow")


class Receiver:
    """Behaves as `modes` says, one per request, then well: ok, slow, fail (500), hang (answers nothing)."""

    def __init__(self, modes: Sequence[str]) -> None:
        self.attempts: list[Attempt] = []
        self._modes = deque(modes)
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def get_well(self) -> None:
        """From now on every request is answered at once."""
        self._modes.clear()

    def in_flight(self) -> bool:
        return any(attempt.ended is None for attempt in list(self.attempts))

    def accepted(self) -> list[Attempt]:
        """In the order in which they were taken."""
        taken = [attempt for attempt in list(self.attempts) if attempt.accepted]
        return sorted(taken, key=lambda attempt: attempt.ended or 0.0)

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        mode = self._modes.popleft() if self._modes else "ok"
        key = handler.headers["Idempotency-Key"]
        attempt = Attempt(key=key, payload=json.loads(body), mode=mode, began=time.monotonic())
        self.attempts.append(attempt)
        if mode in ("slow", "hang"):
            self._closing.wait(SLOW_S if mode == "slow" else HANG_S)
        attempt.ended = time.monotonic()
        if mode != "hang":
            with suppress(OSError):  # the watchdog was killed meanwhile
                handler.send_response(500 if mode == "fail" else 200)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
