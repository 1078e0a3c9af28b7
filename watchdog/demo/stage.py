"""The demo's stage: a model server under a supervisor, a Slack stand-in, the real command line, one folder."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from watchdog.demo.receiver import Received, Receiver

SERVER = Path(__file__).with_name("server.py")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
RESTART_DELAY_S = 0.2

CONFIG = """\
# What `watchdog demo` runs on. Windows and intervals are short so that it ends soon; every rule is the usual one.
[store]
url = "sqlite:///{folder}/watchdog.db"

[web]
listen = "127.0.0.1:{web_port}"

[[notifier]]
name = "slack"
kind = "slack"
url = "{receiver}/services/demo"

[[notifier]]
name = "events"
kind = "webhook"
url = "{receiver}/events"

[[target]]
name = "encoder"
device = "cpu"
mode = "act"

[[target.canary]]
url = "http://127.0.0.1:{server_port}/predict"
json = {{ tokens = {tokens} }}
control_url = "http://127.0.0.1:{server_port}/reference"
interval = "500ms"      # usually 60s
timeout = "1s"          # usually 10s
max_busy = 0.5          # usually 0.01: a burst every half second is far more than a server should be asked

[target.canary.expect]
json_path = "embedding"
rtol = 0.001
atol = 0.001

[target.process]
pid_file = "{folder}/server.pid"

[target.leak]
interval = "250ms"      # usually 15s
warmup = "3s"           # usually 30m
window = "12s"          # usually 4h
capacity = "4GB"

[target.recycle]
kind = "process"
grace = "2s"            # usually 30s
allow_kill = true
min_uptime = 0          # usually 30m
cooldown = 0            # usually 30m
budget = 10             # usually 3 in 6 h
"""


class StageError(Exception):
    """The demo could not be set up; the message says which part and shows what it printed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Stage:
    """Everything the demo starts; leaving the `with` block ends it, by pid, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.receiver = Receiver()
        self.server_port, self.web_port = free_port(), free_port()
        self.config = folder / "config.toml"
        self.config.write_text(
            CONFIG.format(
                folder=folder,
                web_port=self.web_port,
                server_port=self.server_port,
                receiver=self.receiver.url.removesuffix("/services/demo"),
                tokens=list(range(7, 31)),
            )
        )
        self.server = Supervisor(
            [
                sys.executable,
                str(SERVER),
                "--port",
                str(self.server_port),
                "--pid-file",
                str(folder / "server.pid"),
            ],
            folder / "server.log",
        )
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._daemon is not None:
            end(self._daemon)
        self.server.stop()
        self.receiver.close()

    def start_server(self) -> float:
        """Start it and wait for its first answer; returns the seconds that took."""
        began = time.monotonic()
        self.server.start()
        self._wait_for(f"http://127.0.0.1:{self.server_port}/health", "the model server", self.folder / "server.log")
        return time.monotonic() - began

    def start_daemon(self) -> None:
        """`watchdog run` as a process of its own; returns when its /healthz answers."""
        with (self.folder / "watchdog.log").open("wb") as log:
            self._daemon = subprocess.Popen(command("run", self.config), stdout=log, stderr=log)
        self._wait_for(f"http://127.0.0.1:{self.web_port}/healthz", "the watchdog", self.folder / "watchdog.log")

    def daemon_ended(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is not None

    def break_server(self, fault: dict[str, Any]) -> None:
        """Inject a fault. Raises StageError when the server is not there to take it."""
        try:
            httpx.post(f"http://127.0.0.1:{self.server_port}/fault", json=fault, timeout=10.0).raise_for_status()
        except httpx.HTTPError as error:
            raise StageError(f"the fault {fault['kind']} could not be injected: {error}") from error

    def health_status(self) -> int:
        """What /health of the server says. Raises StageError when it says nothing."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.server_port}/health", timeout=10.0).status_code
        except httpx.HTTPError as error:
            raise StageError(f"/health does not answer: {error}") from error

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a `watchdog` command to its end."""
        return subprocess.run(command(*args, self.config), capture_output=True, text=True, check=False)

    def ask(self, *args: str) -> Any:
        """Run a `watchdog` command with --json and parse what it prints."""
        done = self.run(*args, "--json")
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            raise StageError(f"watchdog {' '.join(args)} failed: {done.stderr.strip()}") from None

    def wait_for_event(self, event: str, *, check: str | None, start: int, timeout_s: float) -> Received | None:
        """The next webhook of that event (and check); None when time is up."""

        def wanted(received: Received) -> bool:
            payload = received.payload
            return (
                received.path == "/events"
                and payload["event"] == event
                and (check is None or payload["incident"]["check"] == check)
            )

        return self.receiver.wait_for(wanted, timeout_s=timeout_s, start=start)

    def _wait_for(self, url: str, what: str, log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if httpx.get(url, timeout=1.0).status_code == httpx.codes.OK:
                    return
            if self.daemon_ended():
                break
            time.sleep(0.05)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
        raise StageError(f"{what} did not come up at {url}:\n{tail}")


class Supervisor:
    """Starts a process again when it ends, as systemd's Restart=always does."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self._argv = argv
        self._log = log
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._child is not None:
            end(self._child)
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            with self._log.open("ab") as log:
                self._child = subprocess.Popen(self._argv, stdout=log, stderr=log)
            if self._stopping.is_set():
                end(self._child)
            self._child.wait()
            self._stopping.wait(RESTART_DELAY_S)


def command(*parts: str | Path) -> list[str]:
    """argv of a `watchdog` command; the last part is the configuration."""
    *words, config = parts
    return [sys.executable, "-m", "watchdog.cli.main", *map(str, words), "-c", str(config)]


def end(child: subprocess.Popen[bytes]) -> None:
    """TERM, a grace period, KILL."""
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
