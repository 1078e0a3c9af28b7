"""The daemon as a real process, beside a real server, telling a real receiver."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port

TOY_SERVER = Path(__file__).with_name("toy_server.py")
DEADLINE_S = 40.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """The first truthy value of the condition; fails with `what` when time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        threading.Event().wait(0.05)
    pytest.fail(f"not within {timeout_s:g} s: {what}")


@dataclass
class Webhook:
    """A receiver that can be told to fail or to hang; keeps every attempt."""

    mode: str = "ok"
    attempts: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)  # (mode, key, payload)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def taken(self, event: str) -> list[tuple[str, dict[str, Any]]]:
        """(idempotency key, payload) of what was answered with 200."""
        return [(key, p) for mode, key, p in list(self.attempts) if mode == "ok" and p["event"] == event]


@contextmanager
def receiving() -> Iterator[Webhook]:
    """A real HTTP server. Modes besides ok, fail and hang: drip, a byte of the headers every 0.1 s, for ever."""
    hook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            mode = hook.mode
            hook.attempts.append((mode, self.headers["Idempotency-Key"], payload))
            if mode == "hang":
                hook.release.wait()
                return
            if mode == "drip":
                self.drip()
                return
            self.send_response(200 if mode == "ok" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def drip(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            while not hook.release.wait(0.1):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hook.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hook
    finally:
        hook.release.set()
        server.shutdown()
        server.server_close()


@dataclass
class Stage:
    """Starts toy servers and daemons in a folder; ends them all."""

    folder: Path
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    web_port: int = field(default_factory=free_port)

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def database(self) -> Path:
        return self.folder / "watchdog.db"

    def start_server(self, name: str = "toy", port: int | None = None) -> int:
        """Start a toy server and wait for it; returns its port."""
        port = port or free_port()
        self.spawn([sys.executable, str(TOY_SERVER), str(port), str(self.folder / f"{name}.pid")])

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0).is_success
            except httpx.HTTPError:
                return False

        wait_until(answers, "the toy server answers")
        return port

    def write_config(self, *targets: str, webhook: Webhook | None = None) -> None:
        notifier = ""
        if webhook is not None:
            notifier = f'[[notifier]]\nname = "events"\nkind = "webhook"\nurl = "{webhook.url}"\ntimeout = "2s"\n'
        self.config.write_text(
            f'[store]\nurl = "sqlite:///{self.database}"\n[web]\nlisten = "127.0.0.1:{self.web_port}"\n'
            + notifier
            + "".join(targets)
        )

    def target(self, port: int, name: str = "toy", more: str = "", canary: str = "") -> str:
        """Asked four times a second. Only what is far slower counts: on a machine busy with other tests much is."""
        return f"""
[[target]]
name = "{name}"
device = "cpu"
{more}
[[target.canary]]
url = "http://127.0.0.1:{port}/predict"
json = [1]
interval = "250ms"
timeout = "1s"
max_busy = 1.0
burst = 3
{canary}
[target.canary.expect]
json_path = "numbers"
rtol = 0.01
[target.regression]
threshold = 10
evidence = 20
"""

    def spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"child-{len(self.children)}.log").open("wb") as log:
            child = subprocess.Popen(argv, stdout=log, stderr=log)
        self.children.append(child)
        return child

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*args), capture_output=True, text=True, check=False, timeout=60)

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "watchdog.cli.main", *args, "-c", str(self.config)]

    def take_baseline(self) -> None:
        done = self.run("baseline", "--quick", "--apart", "50ms", "--samples", "60")
        assert done.returncode == 0, done.stdout + done.stderr

    def start_daemon(self) -> subprocess.Popen[bytes]:
        daemon = self.spawn(self.argv("run"))
        wait_until(lambda: self.get("/healthz") is not None or daemon.poll() is not None, "the daemon answers")
        assert daemon.poll() is None, self.log_of(daemon)
        return daemon

    def log_of(self, child: subprocess.Popen[bytes]) -> str:
        return (self.folder / f"child-{self.children.index(child)}.log").read_text(errors="replace")

    def get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(f"http://127.0.0.1:{self.web_port}{path}", timeout=5.0)
        except httpx.HTTPError:
            return None

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read the database from outside."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def break_server(self, port: int, kind: str) -> None:
        httpx.post(f"http://127.0.0.1:{port}/fault", json={"kind": kind}, timeout=5.0).raise_for_status()

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait(10)
