"""Serving processes with an agent, and the daemon's own client asking them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from probes.agent import AgentClient, AgentSpec
from probes.messages import Life
from probes.process import life_of
from probes.reading import Reading

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 30.0
TOKEN = "a token of the tests"
Found = TypeVar("Found")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: that of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="agent-") as path:
        yield Path(path)


def client(folder: Path, *, timeout_s: float = 2.0) -> AgentClient:
    return AgentClient(AgentSpec(folder=folder, timeout_s=timeout_s), monotonic=time.monotonic)


@contextmanager
def started(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path = ROOT, python: str = sys.executable
) -> Iterator[subprocess.Popen[str]]:
    """A process of this tree; ended by pid, with whatever it started in its session."""
    clean = {name: value for name, value in os.environ.items() if name not in ("XDG_RUNTIME_DIR", "WATCHDOG_AGENT_DIR")}
    process = subprocess.Popen(
        command if command[0] != "python" else [python, *command[1:]],
        env=clean | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(env or {}),
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def script(code: str, *argv: str, python: str = sys.executable) -> Iterator[subprocess.Popen[str]]:
    """A script that says "ready"; it lives until its stdin closes, if it ends with `sys.stdin.read()`."""
    with started(["python", "-c", code, *argv], python=python) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def life(pid: int) -> Life:
    found = life_of(pid)
    assert found is not None
    return found


def wait_for(look: Callable[[], Found | None], what: str, *, within_s: float = PATIENCE_S) -> Found:
    """What `look` finds, as soon as it finds something true."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)


def answer_of(folder: Path, worker: Life) -> Reading:
    """The first report of that worker."""
    last: list[Reading] = []

    def look() -> Reading | None:
        last[:] = [client(folder).ask([worker])[worker]]
        return last[0] if last[0].report is not None else None

    try:
        return wait_for(look, f"an agent of {worker.key}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from None


def stop(pid: int) -> None:
    """SIGSTOP, until it has taken effect in every thread."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_for(
        lambda: all(t.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for t in tasks.iterdir()),
        f"{pid} is stopped",
    )


def children_of(pid: int) -> list[int]:
    """Its children, oldest first."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]
