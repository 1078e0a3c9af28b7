"""A recycle with nothing made up: a master and its worker, HTTP, /proc, signals, SQLite."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from builders import DEADLINE_S, NOW, make_baseline, make_target, wait_until

from alerts import recycle_store
from alerts.episode import Outcome, State, Trigger
from alerts.recovery import MEMORY
from alerts.recycle_requests import request
from alerts.recycle_store import Episode
from alerts.recyclers.process import ProcessRecycler
from alerts.recycling import Recycling
from baselines import baseline_store
from baselines.database import Database
from baselines.verdict import Reason
from probes.canary.burst import CanaryPlan
from probes.canary.http import HttpCanary
from probes.expectation import Expectation
from probes.process import ProcessSpec, WorkerWatch, is_alive
from watchdog.target import Target

MASTER = Path(__file__).parents[1] / "probes" / "serving_child.py"
GROWN = 50_000_000


@pytest.fixture
def port() -> Iterator[int]:
    """Of a master with one worker, which it replaces when it dies."""
    with subprocess.Popen([sys.executable, str(MASTER), "master", "1"], stdout=subprocess.PIPE) as master:
        assert master.stdout is not None
        yield int(master.stdout.readline())
        master.terminate()
        master.wait(DEADLINE_S)


@pytest.fixture
def target(database: Database, port: int) -> Iterator[Target]:
    workers = WorkerWatch(ProcessSpec(port=port), target="chat")
    canary = HttpCanary(
        target="chat",
        name="default",
        plan=CanaryPlan(interval_s=60.0, timeout_s=5.0, size=10, warmup=0, max_busy=1.0),
        expectation=Expectation(json_path="pid"),
        method="GET",
        url=f"http://127.0.0.1:{port}/",
        headers={},
        body=None,
        content_type=None,
        control_url=None,
        workers=workers,
        now=time.time,
        monotonic=time.monotonic,
    )
    recycler = ProcessRecycler(
        grace_s=DEADLINE_S, allow_kill=False, alive=is_alive, monotonic=time.monotonic, wait=time.sleep
    )
    target = make_target(
        database,
        canaries={"default": canary},
        workers=workers,
        recycler=recycler,
        ready_timeout_s=DEADLINE_S,
        mode="act",
    )
    wait_until(target.lives, "the worker runs")
    yield target
    target.close()


@pytest.fixture
def recycling(database: Database) -> Recycling:
    def wait(seconds: float) -> bool:
        time.sleep(min(seconds, 0.05))
        return False

    return Recycling(database, tell=lambda *_: None, now=time.time, monotonic=time.monotonic, wait=wait)


def ask(target: Target, reason: str) -> Episode:
    asked = request(target.name, Trigger.HAND, reason, None, now=NOW, new_id=lambda: "r1")
    with target.database.write(durable=True) as connection:
        recycle_store.save_episode(connection, asked)
    return asked


def set_baseline(target: Target, latency_s: float) -> None:
    """An active baseline of the same input, so that latencies are comparable with it."""
    (burst,) = target.burst(size=1)
    with target.database.write() as connection:
        baseline = baseline_store.save_baseline(
            connection, make_baseline(latency_s, identity=burst.identity, golden=None)
        )
        baseline_store.promote(connection, baseline, at=NOW, by="ana", why="deploy")


def test_a_leaking_worker_is_replaced_and_proved_cured(target: Target, port: int, recycling: Recycling) -> None:
    """The worker alone ends, by TERM; its master starts another; a new life answers, with less memory."""
    set_baseline(target, DEADLINE_S)  # a machine that is busy with other tests is not what is tested here
    httpx.get(f"http://127.0.0.1:{port}/grow", trust_env=False)
    (old,) = target.lives() or []
    before = target.held(MEMORY)
    ended = recycling.run(ask(target, Reason.LEAKING), target)
    assert (ended.state, ended.outcome) == (State.COOLDOWN, Outcome.VERIFIED), ended.detail
    assert ended.lives_before == (old,)
    assert f"pid {old.pid} ended on TERM" in [step.detail for step in ended.steps]
    (new,) = target.lives() or []
    assert new != old
    assert not is_alive(old)
    assert target.burst(size=1)[0].life == new.key
    assert before is not None
    assert ended.evidence["before_memory_bytes"] == pytest.approx(before, rel=0.05)
    assert before - int(ended.evidence["after_memory_bytes"] or 0) > 0.9 * GROWN


def test_a_worker_that_is_as_slow_as_before_did_not_help(target: Target, recycling: Recycling) -> None:
    """It was replaced and answers well, and still: not verified, with the figure."""
    set_baseline(target, 1e-6)
    (old,) = target.lives() or []
    ended = recycling.run(ask(target, Reason.REGRESSED), target)
    assert (ended.state, ended.outcome) == (State.COOLDOWN, Outcome.NOT_HELPED)
    assert "canary default is still" in ended.detail
    assert target.lives() != [old]


def test_memory_that_cannot_be_read_is_not_known(target: Target) -> None:
    """None, and never the zero that would prove a leak cured."""
    assert (target.held(MEMORY) or 0) > 1_000_000
    target.workers = None
    assert target.held(MEMORY) is None
