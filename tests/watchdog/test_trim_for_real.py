"""A real worker grows; the daemon's own parts ask its agent to trim, and recycle it or not. Nothing is made up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from builders import make_incident, make_target, wait_until

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import GateReason, Outcome, RecyclePolicy, Trigger, may_recycle
from alerts.gate import gather_facts
from alerts.recycle_requests import ask_for_age, request
from alerts.recycle_store import Episode
from alerts.recyclers import Acted
from alerts.recycling import Recycling
from baselines import memory_store
from baselines.database import Database
from baselines.verdict import Check, Reason
from probes.agent import AgentClient, AgentSpec
from probes.messages import Life
from probes.process import ProcessSpec, WorkerWatch
from watchdog.policies import Policies
from watchdog.target import Target

ROOT = Path(__file__).resolve().parents[2]
GROWN = 100_000_000


class Recorder:
    """Notes whom it was told to recycle and refuses: what comes after an act is tested elsewhere."""

    one_by_one = True

    def __init__(self) -> None:
        self.told: list[Life] = []

    def plan(self, lives: object) -> list[str]:
        return []

    def act(self, lives: tuple[Life, ...]) -> Acted:
        self.told += lives
        return Acted(done=False, detail="only noted")


@pytest.fixture
def served(database: Database) -> Iterator[tuple[Target, int]]:
    """A target whose one worker has an agent, and its port."""
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("trimmed_child.py")), folder],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        port = int(child.stdout.readline())
        agents = AgentClient(AgentSpec(folder=Path(folder)), monotonic=time.monotonic)
        workers = WorkerWatch(ProcessSpec(port=port), target="chat", agents=agents)
        target = make_target(database, workers=workers, agents=agents, recycler=Recorder(), mode="act")
        wait_until(lambda: [s.agent for s in target.sample_memory()] == ["good"], "the agent answers")
        yield target, port
        target.close()
        child.kill()
        child.wait()
        child.stdout.close()


def grow(port: int, how: str) -> None:
    httpx.get(f"http://127.0.0.1:{port}/{how}", trust_env=False, timeout=30)


def recycle(target: Target) -> Episode:
    """The episode of a leak of GROWN that the detector has called."""
    (life,) = target.lives() or []
    evidence = {"channel": "host_anon_bytes", "gain_bytes": float(GROWN)}
    now = time.time()
    incident = make_incident(
        check=Check.MEMORY,
        reason=Reason.LEAKING,
        subject="slot 0",
        life=life.key,
        evidence=evidence,
        since=now,
        updated_at=now,
    )
    asked = request(target.name, Trigger.INCIDENT, incident.reason, incident.id, now=now, new_id=lambda: "r1")
    with target.database.write(durable=True) as connection:
        alert_store.save_incident(connection, incident)
        recycle_store.save_episode(connection, asked)
        memory_store.add_memory(connection, target.sample_memory())
    target.policies = _young_ones_too(target.policies)
    recycling = Recycling(
        target.database, tell=lambda *_: None, now=time.time, monotonic=time.monotonic, wait=lambda _: False
    )
    return recycling.run(asked, target)


def _young_ones_too(policies: Policies, **policy: object) -> Policies:
    return replace(policies, recycle=RecyclePolicy(min_uptime_s=0.0, **policy))  # type: ignore[arg-type]


def test_what_the_c_library_kept_comes_back_and_nothing_is_recycled(served: tuple[Target, int]) -> None:
    """By the kernel's figures, not the worker's word; the next sample says that it follows a trim."""
    target, port = served
    grow(port, "free")
    ended = recycle(target)
    assert ended.outcome is Outcome.TRIMMED, ended.detail
    assert ended.detail.startswith("trimmed: allocator retention, not a leak")
    back = int(ended.evidence["before_trim_bytes"] or 0) - int(ended.evidence["after_trim_bytes"] or 0)
    assert back == pytest.approx(GROWN, rel=0.2)
    assert target.recycler.told == []  # type: ignore[union-attr]
    (sample,) = target.sample_memory()
    assert sample.trimmed_bytes == pytest.approx(back, rel=0.2)
    assert [s.trimmed_bytes for s in target.sample_memory()] == [None]


def test_what_a_child_of_the_worker_holds_is_not_given_back(served: tuple[Target, int]) -> None:
    """The worker's own word after a trim is about itself alone; its figure is that of both."""
    target, port = served
    grow(port, "child")
    grow(port, "free")
    ended = recycle(target)
    back = int(ended.evidence["before_trim_bytes"] or 0) - int(ended.evidence["after_trim_bytes"] or 0)
    assert back == pytest.approx(GROWN, rel=0.2)


def test_what_somebody_holds_goes_with_the_worker(served: tuple[Target, int]) -> None:
    """The trim gives nothing back, and the recycler is told."""
    target, port = served
    grow(port, "keep")
    ended = recycle(target)
    assert ended.outcome is Outcome.ACT_FAILED  # the recorder's own word
    assert target.recycler.told == list(ended.lives_before)  # type: ignore[union-attr]
    assert any("it is held" in step.detail for step in ended.steps)


def test_a_worker_that_has_served_enough_is_due(served: tuple[Target, int]) -> None:
    """By its own count; one request earlier it is not."""
    target, port = served
    target.policies = _young_ones_too(target.policies, max_requests=5, max_requests_jitter=0.0)

    def asked() -> list[Episode]:
        with target.database.write() as connection:
            memory_store.add_memory(connection, target.sample_memory())
            return ask_for_age(connection, {"chat": target}, now=time.time(), new_id=lambda: "r1")

    for _ in range(4):
        grow(port, "")
    assert asked() == []
    grow(port, "")
    (episode,) = asked()
    assert (episode.trigger, episode.reason) == (Trigger.AGE, "max_requests")
    with target.database.read() as connection:
        facts = gather_facts(connection, episode, target, now=time.time())
    assert (facts.workers, may_recycle(facts, target.policy, now=time.time())) == (1, GateReason.ALLOWED)


def test_a_sample_holds_what_the_agent_said(served: tuple[Target, int]) -> None:
    """And it is stored and read back."""
    target, port = served
    grow(port, "")
    (sample,) = target.sample_memory()
    assert (sample.agent, sample.version, sample.requests, sample.in_flight) == ("good", "0.24", 1, 0)
    with target.database.write() as connection:
        memory_store.add_memory(connection, [sample])
        assert memory_store.latest_memory(connection, "chat") == [sample]
