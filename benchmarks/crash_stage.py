"""The stage of the crash benchmark: a folder, a real server, receiver and daemon, and a look from outside."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.crash_config import TORCH_MODEL, write_command, write_config
from benchmarks.crash_plan import Plan
from benchmarks.crash_receiver import Receiver

SERVER = Path(__file__).with_name("crash_server.py")
MARK = "WATCHDOG_CRASH_STAGE"  # in the environment of everything that is started here, and of what that starts
LOOK_S = 0.001
TICK_S = 0.02
PORTS = (10_000, 30_000)  # below those that the kernel gives to clients


class Stage:
    """Starts everything of one run and ends it; nothing here knows what is being tested."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.receiver = Receiver(plan.receiver)
        self.children: list[subprocess.Popen[bytes]] = []
        rng = random.Random(plan.seed)
        self.port, self.web_port = _free_port(rng), _free_port(rng)
        self._database: sqlite3.Connection | None = None
        (folder / "acts").touch()
        (folder / "tmp").mkdir()
        (folder / "config.toml").write_text(
            write_config(folder, plan, port=self.port, web_port=self.web_port, webhook=self.receiver.url)
        )
        (folder / "recycle.sh").write_text(write_command(folder, plan))
        (folder / "model.py").write_text(TORCH_MODEL)
        self.server = self.spawn([sys.executable, "-S", str(SERVER), str(folder), str(self.port), str(plan.workers)])
        self.wait(lambda: self._answers(self.port, "/health"), "the server answers")

    # --- processes ----------------------------------------------------------------------------------------------------

    def spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        environment = os.environ | {MARK: str(self.folder), "TMPDIR": str(self.folder / "tmp")}
        with (self.folder / f"child-{len(self.children)}.log").open("wb") as log:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self.children.append(child)
        return child

    def command(self, *args: str) -> subprocess.Popen[bytes]:
        """Start the command line."""
        return self.spawn([sys.executable, "-m", "watchdog.cli.main", *args, "-c", str(self.folder / "config.toml")])

    def watches(self, daemon: subprocess.Popen[bytes]) -> bool:
        """Whether the daemon is up. Raises AssertionError when it has ended instead."""
        assert daemon.poll() is None, f"the daemon ended with {daemon.returncode}: {self._log_of(daemon)[-500:]}"
        return self._answers(self.web_port, "/healthz")

    def close(self) -> None:
        """End what is left, by pid."""
        if self._database is not None:
            self._database.close()
        self.receiver.close()
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM if child is self.server else signal.SIGKILL)
            child.wait(10)
        for pid in self.marked():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def marked(self) -> list[int]:
        """Every process that was started here, directly or not, the server and its workers left out."""
        mark = f"{MARK}={self.folder}".encode()

        def is_ours(entry: Path) -> bool:
            with suppress(OSError):  # it has gone meanwhile
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    return os.fsencode(SERVER) not in (entry / "cmdline").read_bytes().split(b"\0")
            return False

        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and is_ours(entry)]

    # --- the world ----------------------------------------------------------------------------------------------------

    def break_server(self, kind: str, *, keeps: bool) -> None:
        part = self.folder / "fault.new"
        part.write_text(f"{kind} {int(keeps)}\n")
        part.rename(self.folder / "fault")

    def heal_server(self) -> None:
        (self.folder / "fault").unlink(missing_ok=True)

    def acts(self) -> list[tuple[float, tuple[int, ...]]]:
        """What the recycler really did: when, and to which pids."""
        lines = (line.split() for line in (self.folder / "acts").read_text().splitlines())
        return [(float(at), tuple(map(int, pids))) for _, at, *pids in lines]

    # --- the look from outside ----------------------------------------------------------------------------------------

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read the database, on a connection of our own; empty while it has no tables."""
        try:
            if self._database is None:
                self._database = sqlite3.connect(f"file:{self.folder}/watchdog.db?mode=ro", uri=True, timeout=5)
            return self._database.execute(query).fetchall()
        except sqlite3.OperationalError:
            if self._database is not None:
                self._database.close()
            self._database = None
            return []

    def wait(self, holds: Callable[[], Any], what: str, timeout_s: float = 45.0) -> Any:
        """The first truthy value; raises AssertionError when time is up."""
        value = self.wait_for(holds, timeout_s, every_s=TICK_S)
        assert value, f"not within {timeout_s:g} s: {what}"
        return value

    @staticmethod
    def wait_for(holds: Callable[[], Any], timeout_s: float, *, every_s: float = LOOK_S) -> Any:
        """The first truthy value, or the last one when time is up."""
        deadline = time.monotonic() + timeout_s
        while not (value := holds()) and time.monotonic() < deadline:
            time.sleep(every_s)
        return value

    @staticmethod
    def _answers(port: int, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _log_of(self, child: subprocess.Popen[bytes]) -> str:
        return (self.folder / f"child-{self.children.index(child)}.log").read_text(errors="replace")


def _free_port(rng: random.Random) -> int:
    """A port that nobody listens on. Drawn by the seed, so that runs side by side do not meet."""
    while True:
        port = rng.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
