"""The isolated worker is killed, stopped, noisy, flooding: that is a result, nobody else waits, and nothing is left."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest
from daemon_stage import wait_until
from fault_stage import FaultStage

pytestmark = pytest.mark.slow

MODEL = """
import os, sys, time
from pathlib import Path
import torch

MODE = Path(__file__).with_name("mode")


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        torch.set_num_threads(1)
        self.linear = torch.nn.Linear(16, 4)

    def forward(self, x):
        mode = MODE.read_text() if MODE.exists() else ""
        if mode == "noise":
            print('{"v": 1, "kind": "timed"}')
            print("noise " * 1000, file=sys.stderr)
            os.write(1, b"raw noise")
        elif mode == "flood":
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                os.write(1, b"x" * 65536)
                os.write(2, b"x" * 65536)
        elif mode == "exit":
            os._exit(7)
        return self.linear(x)
"""


@dataclass(frozen=True)
class Apart:
    """A daemon with a model in an isolated worker, beside a server that is well."""

    stage: FaultStage
    daemon: subprocess.Popen[bytes]

    def mode(self, mode: str) -> None:
        part = self.stage.folder / "mode.new"
        part.write_text(mode)
        part.replace(self.stage.folder / "mode")

    def workers(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.daemon.pid).children():
            try:
                if "watchdog_agent.worker" in child.cmdline():
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def outcomes(self, name: str) -> float:
        return self.stage.value("watchdog_canary_requests_total", target="model", outcome=name)

    def heal(self) -> None:
        self.mode("")
        good = self.outcomes("good")
        wait_until(lambda: self.outcomes("good") > good, "the model answers again")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    stage = FaultStage(tmp_path_factory.mktemp("apart"))
    (stage.folder / "toy.py").write_text(MODEL)
    model = f"""
[[target]]
name = "model"
device = "cpu"
[[target.canary]]
kind = "torch"
model = "{stage.folder}/toy.py:Toy"
input = {{ shape = [2, 16], seed = 0 }}
interval = "500ms"
timeout = "2s"
burst = 2
warmup = 0
max_busy = 1.0
load_timeout = "30s"
"""
    stage.write_config(model, stage.beats())
    try:
        apart = Apart(stage, stage.start_daemon())
        wait_until(lambda: apart.outcomes("good") >= 2, "the model answers")
        yield apart
    finally:
        stage.close()


def killed(apart: Apart) -> None:
    for worker in apart.workers():
        worker.kill()


def stopped(apart: Apart) -> None:
    for worker in apart.workers():
        worker.send_signal(signal.SIGSTOP)


def exits(apart: Apart) -> None:
    apart.mode("exit")


def noisy(apart: Apart) -> None:
    apart.mode("noise")


def floods(apart: Apart) -> None:
    apart.mode("flood")


@pytest.mark.parametrize(
    ("fault", "outcome", "times"),
    [
        (killed, "worker_crashed", 1),
        (stopped, "timeout", 1),
        (exits, "worker_crashed", 1),
        (noisy, "good", 4),
        (floods, "good", 4),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fault_of_the_worker_is_a_result_and_the_others_go_on(
    apart: Apart, fault: Callable[[Apart], None], outcome: str, times: int
) -> None:
    """The outcome says it, a new worker answers afterwards, and the canary beside it keeps its rhythm."""
    apart.heal()
    before = apart.outcomes(outcome)
    memory = apart.stage.resident_bytes(apart.daemon)
    with apart.stage.keeping_time():
        fault(apart)
        wait_until(lambda: apart.outcomes(outcome) >= before + times, outcome)
        apart.mode("")  # else it would load torch again and again
    apart.heal()
    assert apart.stage.resident_bytes(apart.daemon) - memory < 32 * 2**20
    assert len(apart.workers()) == 1
    zombies = [c for c in psutil.Process(apart.daemon.pid).children() if c.status() == psutil.STATUS_ZOMBIE]
    assert zombies == []
    assert apart.stage.health()["alive"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
def test_nothing_is_left_after_the_daemon(apart: Apart, how: signal.Signals) -> None:
    """Neither the worker nor what the model started, whether the daemon could see to it or not."""
    if apart.daemon.poll() is not None:
        apart = Apart(apart.stage, apart.stage.start_daemon())
        wait_until(lambda: apart.outcomes("good") >= 2, "the model answers")
    children = psutil.Process(apart.daemon.pid).children(recursive=True)
    assert children
    apart.daemon.send_signal(how)
    apart.daemon.wait(20)
    wait_until(lambda: not any(child.is_running() for child in children), "all children are gone")
