"""A running daemon has loaded neither torch nor scipy, nor, on an up-to-date database, Alembic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from builders import wait_until
from little_server import Model, serving
from ports import free_port

from baselines.database import open_database
from watchdog.migrations.migrate import bring_up_to_date

FORBIDDEN = ("torch", "scipy", "alembic")

# `watchdog run` as it is, in an interpreter that tells what it has loaded when it is asked to (SIGUSR1).
RUN = """
import json, pathlib, signal, sys
def tell(*_):
    pathlib.Path(sys.argv[-1]).with_name("modules.json").write_text(json.dumps(sorted(sys.modules)))
signal.signal(signal.SIGUSR1, tell)
from watchdog.cli.main import main
main()
"""

CONFIG = """
[store]
url = "sqlite:///{folder}/watchdog.db"
[web]
listen = "127.0.0.1:{web_port}"
[[notifier]]
name = "hook"
kind = "webhook"
url = "http://127.0.0.1:1/"
[[target]]
name = "chat"
[[target.canary]]
url = "{url}"
json = {{ inputs = [1, 2] }}
interval = "100ms"
timeout = "{timeout}"
max_busy = 1.0
[target.canary.expect]
json_path = "outputs"
rtol = 0.01
[target.process]
parent_pid = {pid}
workers = "self"
[target.leak]
interval = "100ms"
warmup = "500ms"
window = "2s"
"""


@contextmanager
def watching(folder: Path, model: Model, *, timeout: str = "5s") -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A daemon on the model, and the address of its web side."""
    web_port = free_port()
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder, web_port=web_port, url=model.url, pid=os.getpid(), timeout=timeout))
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([sys.executable, "-c", RUN, "run", "-c", str(config)], stdout=log, stderr=log)
    try:
        yield child, f"http://127.0.0.1:{web_port}"
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(10)


def answers(url: str) -> str:
    """What is served there; empty while nobody does."""
    try:
        return httpx.get(url, timeout=5.0).text
    except httpx.HTTPError:
        return ""


@pytest.fixture
def up_to_date(tmp_path: Path) -> Path:
    """A folder with a database of the present schema."""
    database = open_database(f"sqlite:///{tmp_path}/watchdog.db")
    bring_up_to_date(database)
    database.close()
    return tmp_path


def test_running_daemon_has_loaded_nothing_heavy(up_to_date: Path) -> None:
    """By the modules of the interpreter, and by the libraries that the kernel has mapped for it."""
    with serving(Model()) as model, watching(up_to_date, model) as (child, web):
        wait_until(lambda: "watchdog_last_success_timestamp_seconds{" in answers(f"{web}/metrics"), "a good burst")
        wait_until(lambda: '"chat"' in answers(f"{web}/api/v1/verdicts"), "verdicts were stored")
        wait_until(lambda: "watchdog_memory_bytes{" in answers(f"{web}/metrics"), "memory was sampled")
        assert "watchdog_worker_fds{" in answers(f"{web}/metrics"), "and whatever else a worker holds"
        assert answers(f"{web}/").startswith("<!doctype html>")

        child.send_signal(signal.SIGUSR1)
        told = up_to_date / "modules.json"
        wait_until(lambda: told.exists() and told.read_text().endswith("]"), "the daemon tells its modules")
        modules = json.loads(told.read_text())
        assert "watchdog.daemon" in modules
        assert [m for m in modules if m.partition(".")[0] in FORBIDDEN] == []

        maps = Path(f"/proc/{child.pid}/maps").read_text()
        assert "_multiarray_umath" in maps, "numpy's library shows, so torch's would"
        assert "libtorch" not in maps
        assert "/scipy/" not in maps


def test_hung_probe_does_not_hold_up_the_end(up_to_date: Path) -> None:
    """SIGTERM while a request hangs for a minute: the daemon ends in order, now, with exit code 0."""
    with serving(Model(silent=True)) as model, watching(up_to_date, model, timeout="60s") as (child, web):
        wait_until(lambda: answers(f"{web}/healthz"), "the daemon answers")
        wait_until(lambda: model.requests, "a request hangs")
        child.terminate()
        assert child.wait(20) == 0
        assert "stopped" in (up_to_date / "log").read_text()
