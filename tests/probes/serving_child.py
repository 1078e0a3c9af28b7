"""A program that serves, in one of the shapes real servers have. Prints its port (0: none) and waits for SIGTERM.

master N    opens a socket, forks N workers that answer on it, and replaces one that dies (gunicorn, uvicorn --workers)
single      answers by itself and has Python's resource tracker as a child (a server that uses multiprocessing)
plain       listens on nothing
parent N    listens on nothing and has N children that do not either (a queue worker with a pool)
reuse N     N processes that each open the same port for themselves, under a parent that answers on none

Answers carry the pid. /burn uses the CPU for 60 ms, /idle sleeps as long; /grow keeps 50 MB; /start has a process below
it keep as much and use the CPU until /stop.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import resource_tracker
from typing import NoReturn

KEPT: list[bytes] = []
PIPES: list[int] = []  # while one is open here, what was started lives


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def do_GET(self) -> None:
        if self.path == "/burn":
            until = time.process_time() + 0.06
            while time.process_time() < until:
                pass
        elif self.path == "/idle":
            time.sleep(0.06)
        elif self.path == "/grow":
            KEPT.append(os.urandom(50_000_000))
        elif self.path == "/start":
            start_below()
        elif self.path == "/stop":
            os.close(PIPES.pop())
            os.wait()
        elif self.path == "/hang":
            time.sleep(60)
        body = json.dumps({"pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def listen(*, reuse_port: bool = False, port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), reuse_port=reuse_port, backlog=64)


def serve(listening: socket.socket) -> NoReturn:
    server = HTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.serve_forever(poll_interval=5)
    raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a child does: it serves on `own`, or waits without one. unused: sockets it must not keep."""

    own: socket.socket | None = None
    unused: tuple[socket.socket, ...] = ()

    def start(self) -> int:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for listening in self.unused:
                listening.close()
            if self.own is None:
                rest()
            else:
                serve(self.own)
        return pid


def start_below() -> None:
    """Forks a child whose own child holds 50 MB and is busy; comes back when it does."""
    alive, held = os.pipe()
    ready, say = os.pipe()
    if os.fork() == 0:
        os.close(held)
        if os.fork() == 0:
            KEPT.append(os.urandom(50_000_000))
            os.write(say, b"!")
            while not select.select([alive], [], [], 0)[0]:
                pass
        else:
            os.wait()
        os._exit(0)
    for end in (alive, say):
        os.close(end)
    PIPES.append(held)
    os.read(ready, 1)
    os.close(ready)


def rest() -> NoReturn:
    while True:
        signal.pause()


def keep(children: list[Child]) -> NoReturn:
    """Starts the children and a new one for each that dies; ends them on SIGTERM."""
    running = {child.start(): child for child in children}

    def stop(*_: object) -> None:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    print(children[0].own.getsockname()[1] if children[0].own else 0, flush=True)
    while True:
        pid, _ = os.wait()
        child = running.pop(pid)
        running[child.start()] = child


def main(shape: str, count: int) -> None:
    if shape == "master":
        keep([Child(own=listen())] * count)
    elif shape == "parent":
        keep([Child()] * count)
    elif shape == "reuse":
        first = listen(reuse_port=True)
        port = first.getsockname()[1]
        sockets = [first, *(listen(reuse_port=True, port=port) for _ in range(count - 1))]
        children = [Child(own=own, unused=tuple(s for s in sockets if s is not own)) for own in sockets]
        keep(children)
    elif shape == "single":
        resource_tracker.ensure_running()
        listening = listen()
        print(listening.getsockname()[1], flush=True)
        serve(listening)
    else:
        print(0, flush=True)
        rest()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
