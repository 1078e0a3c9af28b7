"""A real server of one page, such as a metrics endpoint, that can be told to be wrong, silent or something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Page:
    """status, text: what it says. silent: it says nothing. headers: of each request. on_ask: called before each."""

    text: str = ""
    status: int = 200
    silent: bool = False
    on_ask: Callable[[], object] = lambda: None
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page.on_ask()
            page.headers.append(dict(self.headers.items()))
            if page.silent:
                page.closing.wait(60)
                return
            self.send_response(page.status)
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked hangs up on too much
                self.wfile.write(page.text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    page.url = f"http://127.0.0.1:{server.server_port}/metrics"
    yield page
    page.closing.set()
    server.shutdown()
    server.server_close()
    thread.join(10)
