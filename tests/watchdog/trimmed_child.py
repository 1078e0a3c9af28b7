"""A server whose memory grows in one of several ways, with an agent. Usage: FOLDER. Prints its port and waits.

/keep   100 MB that somebody holds on to. /free    100 MB that are freed, and that the C library keeps.
/swell  freed likewise, 8 MB more for each second since the first time. /child   60 MB that a child holds.
Answers carry the pid.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from watchdog_agent.attach import attach
from watchdog_agent.middleware import watching

HELD: list[object] = []
CHILDREN: list[subprocess.Popen[bytes]] = []
SWELLING: list[float] = []
CHILD = "import sys; held = b'x' * 60_000_000; print('!', flush=True); sys.stdin.read()"  # ends with its parent


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with watching():
            blocks: list[bytes] = []
            if self.path == "/swell":
                SWELLING.append(time.monotonic())
                blocks = [b"x" * 10_000 for _ in range(int(800 * (SWELLING[-1] - SWELLING[0])) + 1)]
            elif self.path == "/child":
                child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                assert child.stdout is not None
                child.stdout.readline()
                CHILDREN.append(child)
            elif self.path != "/":
                blocks = [bytes(1000) for _ in range(100_000)]
            HELD.append(blocks if self.path == "/keep" else blocks[-1:])  # the last one is above the others
            del blocks
            body = b'{"pid": %d}' % os.getpid()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


attach(folder=sys.argv[1], version="0.24")
server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever(poll_interval=5)
