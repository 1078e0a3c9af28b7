"""Several workers: one after another, and the proof must come from a new one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from builders import Clock
from subject import Server

from alerts import recycle_store
from alerts.episode import GateReason, Outcome, RecyclePolicy, State, Trigger
from alerts.recycle_requests import request
from alerts.recycle_store import Episode
from alerts.recycling import Recycling
from baselines.database import Database
from probes.messages import Burst, Life

A, B, C = (Life(pid=pid, start_ticks=100) for pid in (11, 12, 13))
STRANGER = "99@5"


@dataclass
class Pool(Server):
    """Answers carry the life that gave them: the newest worker, an old one, or a name that nobody here knows."""

    answering: str = "worker"

    def burst(self, *, size: int | None = None) -> list[Burst]:
        newest = self.workers[-1].key if self.workers else STRANGER
        life = {"worker": newest, "sibling": B.key, "stranger": STRANGER}[self.answering]
        return [replace(b, samples=tuple(replace(s, life=life) for s in b.samples)) for b in super().burst(size=size)]


class Aged(Pool):
    """A and C are past their age."""

    def uptime_s(self, life: Life) -> float | None:
        return {A: 4000.0, B: 100.0, C: 3700.0}.get(life, 0.0)


OLD_AGE = RecyclePolicy(max_age_s=3600.0, max_age_jitter=0.0)


def run(database: Database, server: Pool, trigger: Trigger = Trigger.HAND) -> Episode:
    clock = Clock()

    def wait(seconds: float) -> bool:
        clock.at += seconds
        return False

    recycling = Recycling(database, tell=lambda *_: None, now=clock, monotonic=clock, wait=wait)
    asked = request(server.name, trigger, "by hand", None, now=clock.at, new_id=lambda: "r1")
    return recycling.run(asked, server)


def test_workers_are_taken_one_after_another(database: Database) -> None:
    """Each worker is acted on alone, and the next only when the one before is replaced and answers."""
    server = Pool(workers=[A, B, C], one_by_one=True)
    ended = run(database, server)
    assert (ended.state, ended.outcome) == (State.COOLDOWN, Outcome.VERIFIED)
    assert server.acts == [(A,), (B,), (C,)]


def test_next_worker_is_spared_when_the_first_is_not_replaced(database: Database) -> None:
    """One worker did not come back: the others, which still serve, are left alone."""
    server = Pool(workers=[A, B, C], one_by_one=True, replacements=[])
    ended = run(database, server)
    assert (ended.state, ended.outcome) == (State.ESCALATED, Outcome.NOT_READY)
    assert server.acts == [(A,)]
    assert "2 of 3 workers run" in ended.detail


def test_a_recycler_that_takes_all_is_called_once(database: Database) -> None:
    """A restart command restarts everything by itself."""
    server = Pool(workers=[A, B])
    assert run(database, server).outcome is Outcome.VERIFIED
    assert server.acts == [(A, B)]


@pytest.mark.parametrize(
    ("answering", "outcome"),
    [("worker", Outcome.VERIFIED), ("sibling", Outcome.NOT_HELPED), ("stranger", Outcome.VERIFIED)],
    ids=["a new worker", "one that was left alone", "a name of another pid namespace"],
)
def test_only_an_answer_of_a_new_worker_is_proof(database: Database, answering: str, outcome: Outcome) -> None:
    """Good answers of workers that were never recycled prove nothing about the one that was."""
    server = Aged(workers=[A, B], one_by_one=True, answering=answering, policy=OLD_AGE)
    assert run(database, server, Trigger.AGE).outcome is outcome
    assert server.acts == [(A,)]


def test_what_a_person_asked_long_ago_is_not_begun_after_a_restart(database: Database) -> None:
    """The daemon was down for an hour with the request draining: nobody expects it to act now."""
    clock, server = Clock(), Pool(workers=[A])
    asked = request(server.name, Trigger.HAND, "by hand", None, now=clock.at - 3600.0, new_id=lambda: "r1")
    recycling = Recycling(database, tell=lambda *_: None, now=clock, monotonic=clock, wait=lambda _: False)
    for state in (State.SUSPECT, State.GATE, State.DRAIN):
        ended = recycling.resume(replace(asked, state=state), server)
        assert (ended.state, ended.detail, server.acts) == (State.BLOCKED, GateReason.REQUEST_STALE, [])


def test_age_takes_only_the_workers_that_are_too_old(database: Database) -> None:
    """Its siblings go on serving until their own time comes."""
    server = Aged(workers=[A, B, C], one_by_one=True, policy=OLD_AGE)
    assert run(database, server, Trigger.AGE).outcome is Outcome.VERIFIED
    assert server.acts == [(A,), (C,)]


def test_an_interrupted_roll_goes_on_with_the_workers_that_were_not_touched(database: Database) -> None:
    """The daemon stopped while the first replacement was loading: nobody is taken twice, nobody is forgotten."""
    clock, server = Clock(), Pool(workers=[A, B, C], one_by_one=True, hook=lambda _: None)
    stopping = True

    def wait(seconds: float) -> bool:
        clock.at += seconds
        return stopping

    recycling = Recycling(database, tell=lambda *_: None, now=clock, monotonic=clock, wait=wait)
    asked = request(server.name, Trigger.HAND, "by hand", None, now=clock.at, new_id=lambda: "r1")
    server.replacements = []  # the first is slow to come back
    left = recycling.run(asked, server)
    assert left.state is State.RECYCLE
    with database.read() as connection:
        (stored,) = recycle_store.under_way(connection)
    server.replacements, stopping = None, False
    server.workers = [*server.workers, Life(pid=50, start_ticks=900)]
    ended = recycling.resume(stored, server)
    assert ended.outcome is Outcome.VERIFIED
    assert server.acts == [(A,), (B,), (C,)]
