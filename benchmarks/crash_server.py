"""The model server of the crash benchmark, a master and its workers: `python crash_server.py FOLDER PORT WORKERS`.

The master opens the port, forks the workers and forks a new one whenever one ends, as gunicorn does. It writes its pid
to FOLDER/server.pid. What is wrong stands in FOLDER/fault, one line "KIND KEEPS": it befalls the workers that were
running when it was written, and with KEEPS = 1 later ones too. KIND: wrong, error, hang, slow.

A worker that gets TERM says so in FOLDER/acts, "begin UNIX_SECONDS PID", works on for LINGER_S and ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

LOAD_S = 0.2  # so that a new worker is not ready at once
LINGER_S = 0.15
SLOW_S = 0.6  # longer than the canary waits
NEVER = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    folder = Path()
    born_at = 0.0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self._fault()
        if fault == "hang":
            NEVER.wait()
        if fault == "slow":
            time.sleep(SLOW_S)
        self._answer(500 if fault == "error" else 200, {"numbers": [1.0, 2.0] + [3.0] * (2 if fault == "wrong" else 1)})

    def do_GET(self) -> None:
        self._answer(200, {"status": "ok"})

    def _fault(self) -> str:
        try:
            path = self.folder / "fault"
            kind, keeps = path.read_text().split()
            return kind if keeps == "1" or self.born_at < path.stat().st_mtime else ""
        except (FileNotFoundError, ValueError):
            return ""

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        with suppress(OSError):  # the watchdog was killed meanwhile
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
        """Silent."""


def serve(listener: socket.socket, folder: Path) -> None:
    """One worker, until TERM."""
    Handler.folder, Handler.born_at = folder, time.time()

    def end(_number: int, _frame: FrameType | None) -> None:
        with (folder / "acts").open("a") as acts:
            acts.write(f"begin {time.time()} {os.getpid()}\n")
        time.sleep(LINGER_S)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    time.sleep(LOAD_S)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.daemon_threads = True
    server.serve_forever()


def main(folder: Path, port: int, workers: int) -> None:
    """The master, until TERM."""
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    children: set[int] = set()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            serve(listener, folder)
        children.add(child)

    def end(_number: int, _frame: FrameType | None) -> None:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os._exit(0)

    for _ in range(workers):
        fork()
    signal.signal(signal.SIGTERM, end)
    (folder / "server.pid").write_text(f"{os.getpid()}\n")
    while True:
        ended, _status = os.wait()
        children.discard(ended)
        fork()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
