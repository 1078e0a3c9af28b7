"""The daemon under measurement: a real process in a folder of its own, looked at from outside."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx

T = TypeVar("T")
HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], T | None], what: str, timeout_s: float = 60.0) -> T:
    """The first truthy value of the condition. Raises TimeoutError that says what did not happen."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.005)
    raise TimeoutError(f"not within {timeout_s:g} s: {what}")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Child:
    """A process that ends with the `with` block."""

    def __init__(self, argv: Sequence[str], *, log: Path, core: int | None = None) -> None:
        with log.open("wb") as file:
            self.process = subprocess.Popen(argv, stdout=file, stderr=file)
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core % (os.cpu_count() or 1)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_s(self) -> float:
        """User and system time of the process so far, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self, kind: str = "VmRSS") -> float:
        """VmRSS: resident now; VmHWM: the most it ever was."""
        found = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        assert found, f"no {kind}"
        return int(found[1]) / 1024

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


class PacedServer(Child):
    """`paced_server.py` on a free port, ready."""

    def __init__(self, folder: Path, *, median_ms: float = 7.0, spread: float = 0.15, core: int | None = None) -> None:
        self.port = free_port()
        argv = [sys.executable, str(HERE / "paced_server.py"), str(self.port)]
        super().__init__(
            [*argv, "--median-ms", str(median_ms), "--spread", str(spread)],
            log=folder / f"server-{self.port}.log",
            core=core,
        )
        wait_until(lambda: answers(self.port), "the server listens")

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


class Daemon(Child):
    """`watchdog run` on a configuration made of targets; web side on a free port, database in the folder."""

    def __init__(self, folder: Path, targets: Sequence[str], *, head: str = "", core: int | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.database = folder / "watchdog.db"
        self.config = folder / "config.toml"
        self.config.write_text(
            f'[store]\nurl = "sqlite:///{self.database}"\n[web]\nlisten = "127.0.0.1:{self.port}"\n'
            f'[log]\nlevel = "warning"\n{head}\n' + "\n".join(targets)
        )
        self.started_at = time.time()
        super().__init__(
            [sys.executable, "-m", "watchdog.cli.main", "run", "-c", str(self.config)],
            log=folder / "daemon.log",
            core=core,
        )

    def wait_ready(self) -> Self:
        wait_until(lambda: answers(self.port) or self.process.poll() is not None, "the daemon answers")
        if self.process.poll() is not None:
            raise RuntimeError((self.folder / "daemon.log").read_text())
        return self

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its whole name, labels included."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=60.0).raise_for_status().text
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def total(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)


def histogram_quantile(
    metrics: dict[str, float], name: str, q: float, *, since: dict[str, float] | None = None
) -> float:
    """The upper bound of the bucket that holds the quantile; since: an earlier look, to leave out what was before."""
    bounds: list[tuple[float, float]] = []
    for key, value in metrics.items():
        if key.startswith(f"{name}_bucket"):
            found = re.search(r'le="([^"]+)"', key)
            assert found
            bounds.append((float(found[1]), value - (since or {}).get(key, 0.0)))
    bounds.sort()
    count = bounds[-1][1]
    return next(bound for bound, below in bounds if below >= q * count)


def target(name: str, url: str, *, interval: str = "60s", more: str = "", canary: str = "") -> str:
    """One target of a configuration with one canary at default settings."""
    return (
        f'[[target]]\nname = "{name}"\ndevice = "cpu"\n{more}\n[[target.canary]]\nurl = "{url}"\njson = [1]\n'
        f'interval = "{interval}"\n{canary}\n[target.canary.expect]\njson_path = "y"\n'
    )


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with the benchmark."""
    return tempfile.TemporaryDirectory(prefix="watchdog-bench-", ignore_cleanup_errors=True)
