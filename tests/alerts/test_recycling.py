"""One recycle from request to proof, and from any crash to its end, on a real database."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from builders import DEADLINE_S, NOW, Clock, make_baseline, make_burst, make_incident, wait_until
from sqlalchemy import Connection, event, insert, select
from structlog.testing import capture_logs
from subject import NEW, OLD, Server

from alerts import recycle_store, schema
from alerts import store as alert_store
from alerts.episode import ENDED, GateReason, Outcome, RecyclePolicy, State, Trigger
from alerts.gate import gather_facts
from alerts.recovery import judge_recovery
from alerts.recycle_desk import RecycleDesk
from alerts.recycle_requests import request
from alerts.recycle_store import Episode
from alerts.recycling import Recycling
from alerts.store import Silence
from baselines import memory_store
from baselines.database import Database
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Cause, Check, Level, Reason
from probes.messages import Identity, Life, MemorySample
from probes.messages import Outcome as Answer


class Crash(BaseException):
    """The daemon is gone at this point."""


@dataclass
class Bench:
    """A database, a clock that moves with every wait, and a Recycling on both."""

    database: Database
    clock: Clock = field(default_factory=Clock)
    stopping: bool = False
    waits: list[float] = field(default_factory=list)
    on_wait: Callable[[], None] = lambda: None
    fail_telling: bool = False

    @property
    def recycling(self) -> Recycling:
        return Recycling(self.database, tell=self.tell, now=self.clock, monotonic=self.clock, wait=self.wait)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.clock.at += seconds
        self.on_wait()
        return self.stopping

    def tell(self, connection: Connection, episode: Episode) -> None:
        """One row in the outbox, as the daemon's would be."""
        values = {
            "key": f"{episode.id}/{next(NUMBERS)}",  # so that telling twice shows
            "notifier": "ops",
            "event": "recycle",
            "payload": {"state": episode.state},
            "state": "pending",
            "attempts": 0,
            "created_at": self.clock.at,
            "due_at": self.clock.at,
        }
        connection.execute(insert(schema.deliveries).values(values))
        if self.fail_telling:
            raise RuntimeError("the outbox is full")

    def told(self) -> list[str]:
        with self.database.read() as connection:
            return [p["state"] for p in connection.execute(select(schema.deliveries.c.payload)).scalars()]

    def ask(self, trigger: Trigger = Trigger.HAND, *, reason: str = "by hand", **about: object) -> Episode:
        """A stored request."""
        number = next(NUMBERS)
        asked = request("chat", trigger, reason, None, now=self.clock.at, new_id=lambda: f"r{number}")
        asked = replace(asked, **about)
        with self.database.write(durable=True) as connection:
            recycle_store.save_episode(connection, asked)
        return asked

    def ask_for_incident(self, server: Server, **about: object) -> Episode:
        """A stored firing incident and its request."""
        incident = make_incident(f"i{next(NUMBERS)}", **about)
        with self.database.write(durable=True) as connection:
            alert_store.save_incident(connection, incident)
        return self.ask(Trigger.INCIDENT, reason=incident.reason, incident_id=incident.id)

    def read(self, episode: Episode) -> Episode:
        with self.database.read() as connection:
            found = recycle_store.get_episode(connection, episode.id)
        assert found is not None
        return found

    def run(self, server: Server, **about: object) -> Episode:
        return self.recycling.run(self.ask(**about), server)


NUMBERS = itertools.count()


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


def states(episode: Episode) -> list[State]:
    return [step.state for step in episode.steps]


ALL_THE_WAY = [
    State.GATE,
    State.DRAIN,
    State.RECYCLE,
    State.WAIT_READY,
    State.WARM_UP,
    State.VERIFY,
    State.COOLDOWN,
]


class TestARun:
    def test_goes_all_the_way_to_a_proof(self, bench: Bench) -> None:
        """Each state in turn, one act on the workers that were there, and the figures before and after."""
        server = Server(drain_s=30.0)
        ended = bench.run(server)
        assert states(ended) == ALL_THE_WAY
        assert (ended.state, ended.outcome) == (State.COOLDOWN, Outcome.VERIFIED)
        assert ended.detail == "default at 1.00 x its baseline"
        assert server.acts == [(OLD,)] == [ended.lives_before]
        assert ended.evidence == {
            "before_memory_bytes": 900_000_000,
            "before_workers": 1,
            "after_memory_bytes": 500_000_000,
            "after_median_s.default": 0.05,
            "after_ratio.default": 1.0,
        }
        assert bench.read(ended) == ended

    def test_its_times_are_those_of_its_steps(self, bench: Bench) -> None:
        """Drained for as long as it was told, acted after that, ended when the proof was in."""
        ended = bench.run(Server(drain_s=30.0))
        assert ended.requested_at == NOW
        assert ended.acted_at == NOW + 30
        assert ended.ended_at == ended.updated_at == ended.steps[-1].at == bench.clock.at
        assert ended.steps[2].detail == "drained for 30 s"

    def test_every_state_is_on_disk_before_it_begins(self, bench: Bench) -> None:
        """At each thing it does, the row already names the state it does it in."""
        episode = bench.ask()
        seen: list[tuple[str, State]] = []
        server = Server()

        def look(what: str) -> None:
            seen.append((what, bench.read(episode).state))

        server.hook = look
        bench.recycling.run(episode, server)
        assert {state for what, state in seen if what in ("act", "acted")} == {State.RECYCLE}
        assert {state for what, state in seen if what == "judge"} == {State.VERIFY}
        bursts = [state for what, state in seen if what == "burst"]
        assert bursts == [State.WAIT_READY, State.WARM_UP, State.VERIFY, State.VERIFY]

    def test_the_first_burst_is_thrown_away_and_not_judged(self, bench: Bench) -> None:
        """One request until it answers, one whole burst to warm up, then those that prove."""
        server = Server(verify_bursts=3)
        bench.run(server)
        assert server.sizes == [1, None, None, None, None]

    def test_it_waits_until_the_replacement_answers(self, bench: Bench) -> None:
        """Starting takes a while; a wrong answer is an answer, and the proof's business."""
        server = Server(outcomes=(Answer.REFUSED,) * 5)
        busy = iter([Answer.REFUSED, Answer.OVERLOADED_503, Answer.TIMEOUT, Answer.STATUS_500])

        def start_up() -> None:
            server.outcomes = (next(busy, Answer.GOOD),) * 5

        bench.on_wait = start_up
        ended = bench.run(server)
        assert ended.outcome is Outcome.VERIFIED
        assert ended.steps[4].detail == "ready after 2.5 s"

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"outcomes": (Answer.REFUSED,)}, "canary default: refused"),
            ({"replacements": []}, "0 of 1 workers run"),
            ({"replacements": [OLD]}, "an old worker still runs"),
            ({"workers": [OLD, Life(pid=6, start_ticks=1)], "replacements": [NEW]}, "1 of 2 workers run"),
        ],
        ids=["no answer", "no worker", "the same worker", "too few workers"],
    )
    def test_a_replacement_that_never_gets_ready_escalates(
        self, bench: Bench, change: dict[str, object], problem: str
    ) -> None:
        """A person is told what was missing; nothing is recycled a second time."""
        server = Server(**change)
        ended = bench.run(server)
        assert (ended.state, ended.outcome) == (State.ESCALATED, Outcome.NOT_READY)
        assert ended.detail == f"not ready within 60 s: {problem}"
        assert len(server.acts) == 1
        assert bench.clock.at >= NOW + 60
        assert bench.told() == ["escalated"]

    def test_where_processes_are_not_watched_the_answers_decide(self, bench: Bench) -> None:
        """No identity can be proved then."""
        ended = bench.run(Server(workers=None, memory=[None]))
        assert ended.outcome is Outcome.VERIFIED
        assert ended.lives_before == ()

    def test_an_act_that_is_not_known_to_be_done_escalates(self, bench: Bench) -> None:
        """With what the recycler said; nothing is waited for."""
        ended = bench.run(Server(can_act=False))
        assert (ended.state, ended.outcome, ended.detail) == (State.ESCALATED, Outcome.ACT_FAILED, "it would not go")
        assert states(ended)[-2:] == [State.RECYCLE, State.ESCALATED]


class TestProof:
    def test_one_that_did_not_help_ends_without_a_proof(self, bench: Bench) -> None:
        """The first time it cools down; a person hears of it."""
        ended = bench.run(Server(latency_s=0.06))
        assert (ended.state, ended.outcome) == (State.COOLDOWN, Outcome.NOT_HELPED)
        assert ended.detail == "canary default is still 1.20 x its baseline"
        assert ended.evidence["after_ratio.default"] == pytest.approx(1.2)
        assert bench.told() == ["cooldown"]

    def test_a_leak_needs_less_memory_than_before(self, bench: Bench) -> None:
        """Judged on what was measured before the act."""
        ended = bench.run(Server(), reason=Reason.LEAKING)
        assert ended.detail == "default at 1.00 x its baseline, memory 900 -> 500 MB"
        bench.clock.at += 1e6
        ended = bench.run(Server(memory=[900_000_000]), reason=Reason.LEAKING)
        assert ended.outcome is Outcome.NOT_HELPED
        assert ended.detail == "memory is not below where it was (900 MB, before 900 MB)"

    def test_what_is_counted_must_be_fewer(self, bench: Bench) -> None:
        """A recycle for descriptors is not measured by memory, which a new worker may use as much of."""
        server = Server(memory=[900, 120])
        leak = {"channel": "fds", "slope_per_hour": 60.0}
        episode = bench.ask_for_incident(
            server, reason=Reason.LEAKING, check=Check.MEMORY, subject="slot 0", level=Level.PAGE, evidence=leak
        )
        ended = bench.recycling.run(episode, server)
        assert (ended.outcome, server.figures) == (Outcome.VERIFIED, {"fds"})
        assert ended.detail == "default at 1.00 x its baseline, file descriptors 900 -> 120"
        assert (ended.evidence["before_fds"], ended.evidence["after_fds"]) == (900, 120)

    @pytest.mark.parametrize(
        ("reason", "recovered"), [(Reason.DRIFTED, True), (Reason.REGRESSED, False)], ids=["wrong answers", "slowness"]
    )
    def test_a_busy_machine_excuses_slowness_unless_that_was_the_reason(self, reason: Reason, recovered: bool) -> None:
        """Canary and control are both stretched: the new worker is not to blame, but speed cannot be proven."""
        rows = ((0.05, 0.052, 0.051),) * 30
        baseline = replace(make_baseline(0.05), bursts=rows, controls=((0.002, 0.0021, 0.0022),) * 30)
        slow = make_burst(latency_s=0.08)
        slow = replace(slow, samples=tuple(replace(s, control_s=0.004) for s in slow.samples))
        recovery = judge_recovery(
            [replace(slow, identity=baseline.identity)],
            baselines={"default": baseline},
            policy=RegressionPolicy(),
            reason=reason,
            before=None,
            after=None,
        )
        assert recovery.recovered is recovered
        assert "but so is its control" in recovery.detail

    @pytest.mark.parametrize(
        ("bursts", "about", "recovered", "detail"),
        [
            ([make_burst()], {}, True, "default at 1.00 x its baseline"),
            ([make_burst(latency_s=0.057)], {}, True, "default at 1.14 x its baseline"),
            ([make_burst(latency_s=0.0571)], {}, False, "canary default is still 1.14 x its baseline"),
            ([make_burst(latency_s=s) for s in (0.05, 0.05, 0.5)], {}, True, "default at 1.00 x its baseline"),
            ([make_burst(Answer.GOOD, Answer.DRIFTED)], {}, False, "canary default still answers drifted"),
            ([make_burst(), make_burst(Answer.TIMEOUT)], {}, False, "canary default still answers timeout"),
            ([make_burst(canary="long")], {}, True, "long answers well (no baseline to compare with)"),
            (
                [make_burst(), make_burst(canary="long", latency_s=9.0)],
                {"reason": Reason.REGRESSED},
                True,
                "default at 1.00 x its baseline, long answers well (no baseline to compare with)",
            ),
            (
                [make_burst(identity=Identity(input_hash="other"))],
                {"reason": Reason.REGRESSED},
                False,
                "canary default has another input or device than its baseline, no proof",
            ),
            (
                [make_burst(identity=Identity(input_hash="other"), latency_s=9.0)],
                {"reason": Reason.TIMEOUT},
                True,
                "default answers well (no baseline to compare with)",
            ),
            (
                [replace(b := make_burst(), samples=tuple(replace(s, tainted=True) for s in b.samples))],
                {},
                False,
                "canary default: every sample was tainted, no proof",
            ),
            ([], {}, False, "no canary was asked, no proof"),
            (
                [make_burst()],
                {"reason": Reason.LEAKING, "before": 9_000_000, "after": 5_000_000},
                True,
                "default at 1.00 x its baseline, memory 9 -> 5 MB",
            ),
            (
                [make_burst()],
                {"reason": Reason.LIMIT_EXCEEDED, "before": 5_000_000, "after": 5_000_000},
                False,
                "memory is not below where it was (5 MB, before 5 MB)",
            ),
            (
                [make_burst()],
                {"reason": Reason.LEAKING, "figure": "fds", "before": 900, "after": 120},
                True,
                "default at 1.00 x its baseline, file descriptors 900 -> 120",
            ),
            (
                [make_burst()],
                {"reason": Reason.LEAKING, "figure": "threads", "before": 90, "after": 90},
                False,
                "threads are not fewer (90, before 90)",
            ),
            ([make_burst()], {"reason": Reason.LEAKING, "before": 9}, False, "memory cannot be read, no proof"),
            ([make_burst()], {"reason": Reason.LEAKING, "after": 9}, False, "memory cannot be read, no proof"),
            ([make_burst()], {"before": 5, "after": 9}, True, "default at 1.00 x its baseline"),
        ],
    )
    def test_back_in_the_baseline_or_not(
        self, bursts: list, about: dict[str, object], recovered: bool, detail: str
    ) -> None:
        """By the canaries and the baseline that condemned the worker; missing evidence is no proof."""
        values = {"baselines": {"default": make_baseline(0.05)}, "policy": RegressionPolicy(), "reason": "by hand"}
        recovery = judge_recovery(bursts, **{**values, "before": None, "after": None, **about})
        assert (recovery.recovered, recovery.detail) == (recovered, detail)


class TestBreaker:
    def test_the_second_in_a_row_that_does_not_help_opens_it(self, bench: Bench) -> None:
        """TRIPPED: nothing more is done, by hand neither, until a person closes it; then it counts from nothing."""
        server = Server(latency_s=0.06)
        assert bench.run(server).state is State.COOLDOWN
        bench.clock.at += 1e6
        tripped = bench.run(server)
        assert (tripped.state, tripped.outcome) == (State.TRIPPED, Outcome.NOT_HELPED)
        assert tripped.detail.endswith("; 2 in a row did not help, the breaker is open")
        blocked = bench.run(server)
        assert (blocked.state, blocked.detail) == (State.BLOCKED, GateReason.BREAKER_OPEN)
        assert len(server.acts) == 2
        bench.clock.at += 1
        with bench.database.write(durable=True) as connection:
            recycle_store.reset_breaker(connection, "chat", at=bench.clock.at, by="ana")
        assert bench.run(server).state is State.COOLDOWN
        assert len(server.acts) == 3

    @pytest.mark.parametrize(
        ("change", "outcome"),
        [
            ({"can_act": False}, Outcome.ACT_FAILED),
            ({"outcomes": (Answer.REFUSED,)}, Outcome.NOT_READY),
            ({"outcomes": (Answer.DRIFTED,) * 5}, Outcome.NOT_HELPED),
        ],
        ids=["cannot act", "not ready", "still wrong"],
    )
    def test_any_failure_after_another_trips_it(
        self, bench: Bench, change: dict[str, object], outcome: Outcome
    ) -> None:
        """From whichever state."""
        bench.run(Server(can_act=False))
        bench.clock.at += 1e6
        ended = bench.run(Server(**change))
        assert (ended.state, ended.outcome) == (State.TRIPPED, outcome)

    @pytest.mark.parametrize(
        ("outcomes", "count"),
        [
            ([], 0),
            ([Outcome.NOT_HELPED], 1),
            ([Outcome.NOT_HELPED, Outcome.ACT_FAILED, Outcome.NOT_READY], 3),
            ([Outcome.NOT_HELPED, Outcome.VERIFIED], 0),
            ([Outcome.NOT_HELPED, Outcome.VERIFIED, Outcome.NOT_READY], 1),
            ([Outcome.NOT_HELPED, Outcome.INTERRUPTED, Outcome.NOT_READY], 2),
            ([Outcome.NOT_HELPED, Outcome.BLOCKED, Outcome.NOT_HELPED], 2),
        ],
    )
    def test_what_counts_in_a_row(self, bench: Bench, outcomes: list[Outcome], count: int) -> None:
        """Only a proof or a person ends the row; refusals and interruptions are passed over."""
        for at, outcome in enumerate(outcomes):
            acted_at = None if outcome is Outcome.BLOCKED else NOW + at
            bench.ask(state=State.COOLDOWN, outcome=outcome, acted_at=acted_at, ended_at=NOW + at)
        bench.ask(target="image", state=State.COOLDOWN, outcome=Outcome.NOT_HELPED, acted_at=NOW, ended_at=NOW)
        with bench.database.read() as connection:
            assert recycle_store.ineffective_in_a_row(connection, "chat") == count

    def test_a_reset_is_for_one_target(self, bench: Bench) -> None:
        """And forgets only what was before it."""
        for target in ("chat", "image"):
            for at in (NOW, NOW + 10):
                about = {"outcome": Outcome.NOT_HELPED, "acted_at": at, "ended_at": at}
                bench.ask(target=target, state=State.COOLDOWN, **about)
        with bench.database.write() as connection:
            recycle_store.reset_breaker(connection, "chat", at=NOW + 5, by="ana")
            counts = [recycle_store.ineffective_in_a_row(connection, target) for target in ("chat", "image")]
        assert counts == [1, 2]


class TestGateOnRealFacts:
    @pytest.mark.parametrize(
        ("incident", "server", "reason"),
        [
            ({}, {}, GateReason.ALLOWED),
            ({}, {"has_recycler": False}, GateReason.NO_RECYCLER),
            ({}, {"mode": "alert"}, GateReason.MODE),
            ({}, {"uptimes": 60.0}, GateReason.TOO_YOUNG),
            ({}, {"workers": []}, GateReason.WORKER_GONE),
            ({}, {"missing_signal": "gpu"}, GateReason.EVIDENCE_MISSING),
            ({"cause": Cause.LOAD}, {}, GateReason.CAUSE_NOT_MODEL),
            ({"level": Level.WATCH}, {}, GateReason.LEVEL_TOO_LOW),
            ({"state": "resolved"}, {}, GateReason.INCIDENT_OVER),
        ],
    )
    def test_one_thing_wrong_blocks_with_its_reason(
        self, bench: Bench, incident: dict[str, object], server: dict[str, object], reason: GateReason
    ) -> None:
        """Nothing is done, and nobody is told: the incident's own messages say why."""
        subject = Server(**server)
        ended = bench.recycling.run(bench.ask_for_incident(subject, **incident), subject)
        if reason is GateReason.ALLOWED:
            assert ended.outcome is Outcome.VERIFIED
            return
        assert (ended.state, ended.outcome, ended.detail) == (State.BLOCKED, Outcome.BLOCKED, reason)
        assert states(ended) == [State.GATE, State.BLOCKED]
        assert (subject.acts, bench.told(), ended.acted_at) == ([], [], None)
        assert ended.ended_at == NOW

    def test_a_silence_holds_it_back(self, bench: Bench) -> None:
        """Somebody is working on it."""
        with bench.database.write() as connection:
            silence = Silence(target="chat", from_at=NOW - 1, until_at=NOW + 1, by="ana", why="deploying")
            alert_store.add_silence(connection, silence)
        subject = Server()
        assert bench.recycling.run(bench.ask_for_incident(subject), subject).detail == GateReason.SILENCED

    def test_cooldown_and_budget_count_what_was_done(self, bench: Bench) -> None:
        """Not what was refused."""
        policy = RecyclePolicy(cooldown_s=100.0, budget=2, budget_window_s=1000.0)

        def go() -> Episode:
            subject = Server(policy=policy)
            return bench.recycling.run(bench.ask_for_incident(subject), subject)

        assert go().outcome is Outcome.VERIFIED
        assert go().detail == GateReason.COOLING_DOWN
        bench.clock.at += 100
        assert go().outcome is Outcome.VERIFIED
        bench.clock.at += 100
        assert go().detail == GateReason.BUDGET_SPENT
        bench.clock.at += 900
        assert go().outcome is Outcome.VERIFIED

    def test_only_one_of_a_small_group_at_a_time(self, bench: Bench) -> None:
        """A request that waits its turn is not in an episode yet."""
        server = Server(peers=frozenset({"image"}))
        waiting = bench.ask(target="image")
        assert bench.run(server).outcome is Outcome.VERIFIED
        with bench.database.write() as connection:
            recycle_store.save_episode(connection, replace(waiting, state=State.WAIT_READY))
        assert bench.run(server).detail == GateReason.GROUP_BUSY
        assert bench.run(Server(peers=frozenset({"audio"}))).outcome is Outcome.VERIFIED

    def test_of_the_worker_the_incident_is_about(self, bench: Bench) -> None:
        """Its age counts and it alone is replaced; the others go on serving."""
        other = Life(pid=6, start_ticks=50)
        server = Server(workers=[other, OLD])
        ended = bench.recycling.run(bench.ask_for_incident(server, life=OLD.key), server)
        assert ended.lives_before == (OLD,)
        assert server.acts == [(OLD,)]
        assert server.workers == [other, NEW]

    def test_a_worker_that_has_gone_is_not_answered_by_replacing_the_others(self, bench: Bench) -> None:
        """Its supervisor was quicker; those that run now did nothing."""
        server = Server(workers=[NEW])
        sample = MemorySample(target="chat", slot=0, life=OLD.key, at=NOW - 60)
        with bench.database.write() as connection:
            memory_store.add_memory(connection, [sample])
        ended = bench.recycling.run(bench.ask_for_incident(server, life=OLD.key), server)
        assert (ended.detail, server.acts) == (GateReason.WORKER_GONE, [])

    def test_a_name_from_inside_a_container_means_all_workers(self, bench: Bench) -> None:
        """The agent there sees other pids than we do: which worker it is about is not known."""
        server = Server()
        ended = bench.recycling.run(bench.ask_for_incident(server, life="1@100"), server)
        assert (ended.outcome, server.acts) == (Outcome.VERIFIED, [(OLD,)])

    def test_the_facts_of_a_request_that_is_not_stored(self, bench: Bench) -> None:
        """`--dry-run` asks the gate and leaves no row."""
        asked = request("chat", Trigger.HAND, "why", None, now=NOW, new_id=lambda: "r")
        with bench.database.read() as connection:
            facts = gather_facts(connection, asked, Server(), now=NOW)
            assert recycle_store.list_episodes(connection) == []
        assert (facts.workers, facts.youngest_uptime_s, facts.in_flight, facts.acts) == (1, 7200.0, False, ())


class TestWritingAndTelling:
    def test_the_end_and_its_message_are_one_transaction(self, bench: Bench) -> None:
        """No message, no end: the row stays where it was and the end is written again on resuming."""
        bench.fail_telling = True
        episode = bench.ask()
        server = Server()
        with pytest.raises(RuntimeError, match="the outbox is full"):
            bench.recycling.run(episode, server)
        assert bench.read(episode).state is State.VERIFY
        assert bench.told() == []
        bench.fail_telling = False
        assert bench.recycling.resume(bench.read(episode), server).outcome is Outcome.VERIFIED
        assert bench.told() == ["cooldown"]
        assert len(server.acts) == 1

    def test_an_episode_comes_back_equal(self, bench: Bench) -> None:
        """Lives, steps, enums and evidence."""
        ended = bench.recycling.run(bench.ask_for_incident(server := Server()), server)
        with bench.database.read() as connection:
            assert recycle_store.list_episodes(connection, "chat") == [ended]
            assert recycle_store.list_episodes(connection, "image") == []
            assert recycle_store.last_of_incident(connection, str(ended.incident_id)) == ended
            assert recycle_store.under_way(connection) == []
            assert recycle_store.get_episode(connection, "none") is None
        assert type(ended.steps[0].state) is State


CRASH_POINTS = 22  # more than the things a run does to its target, so that the last ones never crash


class TestCrashes:
    @pytest.mark.parametrize("point", range(CRASH_POINTS))
    def test_whenever_it_dies_it_never_acts_twice_and_comes_to_an_end(self, bench: Bench, point: int) -> None:
        """Killed at the point-th thing it does; resumed from the row alone. The end is right for what was done."""
        server = Server(drain_s=30.0)
        countdown = itertools.count()

        def die(what: str = "wait") -> None:
            if next(countdown) == point:
                raise Crash

        server.hook, bench.on_wait = die, die
        episode = bench.ask()
        try:
            ended = bench.recycling.run(episode, server)
            assert point > 14
        except Crash:
            server.hook, bench.on_wait = (lambda _: None), (lambda: None)
            died_in = bench.read(episode).state
            ended = bench.recycling.resume(bench.read(episode), server)
            if died_in is State.RECYCLE and not server.acts:  # the order may have been given, for all it knows
                assert (ended.state, ended.outcome) == (State.ESCALATED, Outcome.INTERRUPTED)
                assert ended.detail.endswith("the old worker still runs; not repeated")
                assert bench.told() == ["escalated"]
                return
        assert ended.outcome is Outcome.VERIFIED
        assert server.acts == [(OLD,)]
        assert bench.told() == ["cooldown"]
        assert bench.read(ended) == ended

    @pytest.mark.parametrize("state", [s for s in State if s not in ENDED])
    def test_resuming_a_row_found_in_any_state(self, bench: Bench, state: State) -> None:
        """The old worker is gone by now: what was before the act is asked again, what was after goes on."""
        acted = state not in (State.SUSPECT, State.GATE, State.TRIM, State.DRAIN)
        server = Server(workers=[NEW], replacements=[Life(pid=9, start_ticks=300)])
        episode = bench.ask(
            state=state, lives_before=(OLD,), acted_at=NOW if acted else None, evidence={"before_memory_bytes": 9e8}
        )
        ended = bench.recycling.resume(episode, server)
        assert ended.outcome is Outcome.VERIFIED
        assert ended.steps[0].detail == f"resumed from {state}"
        assert server.acts == ([] if acted else [(NEW,)])

    @pytest.mark.parametrize(
        ("drain_s", "state"), [(30.0, State.DRAIN), (0.0, State.WAIT_READY)], ids=["draining", "waiting"]
    )
    def test_a_stop_leaves_it_where_it_is(self, bench: Bench, drain_s: float, state: State) -> None:
        """No end is written and nobody is told: the next start goes on."""
        server = Server(drain_s=drain_s, outcomes=(Answer.REFUSED,))
        bench.stopping = True
        left = bench.run(server)
        assert (left.state, left.outcome, left.ended_at) == (state, None, None)
        assert bench.read(left) == left
        assert bench.told() == []
        bench.stopping, server.outcomes = False, (Answer.GOOD,) * 5
        assert bench.recycling.resume(left, server).outcome is Outcome.VERIFIED
        assert len(server.acts) == 1

    def test_an_interrupted_one_is_not_asked_for_again_by_the_breaker(self, bench: Bench) -> None:
        """It is neither a proof nor a failure, and ends once."""
        server = Server()
        episode = bench.ask(state=State.RECYCLE, lives_before=(OLD,), acted_at=NOW)
        ended = bench.recycling.resume(episode, server)
        assert (ended.state, ended.outcome, server.acts) == (State.ESCALATED, Outcome.INTERRUPTED, [])
        with bench.database.read() as connection:
            assert recycle_store.ineffective_in_a_row(connection, "chat") == 0
            assert recycle_store.under_way(connection) == []


# --- the desk ---------------------------------------------------------------------------------------------------------


@dataclass
class Office:
    """A desk on real threads and a real clock; stop() and another start are a restart of the daemon."""

    bench: Bench
    servers: dict[str, Server]
    ended: list[Episode] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    desk: RecycleDesk | None = None

    def start(self) -> RecycleDesk:
        self.stopping = threading.Event()
        recycling = Recycling(
            self.bench.database,
            tell=self.bench.tell,
            now=self.bench.clock,
            monotonic=time.monotonic,
            wait=lambda seconds: self.stopping.wait(min(seconds, 0.01) if seconds < 60 else seconds),
        )
        self.desk = RecycleDesk(
            self.bench.database, recycling, self.servers, on_end=self.ended.append, on_error=self.errors.append
        )
        self.desk.start()
        return self.desk

    def stop(self) -> None:
        self.stopping.set()
        if self.desk is not None:
            self.desk.stop(DEADLINE_S)
            wait_until(lambda: not self.desk or not self.desk.taken(), "the desk's threads end")

    def wait_for_ends(self, count: int) -> list[Episode]:
        wait_until(lambda: len(self.ended) >= count, f"{count} episodes end")
        return self.ended


@pytest.fixture
def office(bench: Bench) -> Iterator[Office]:
    office = Office(bench, {"chat": Server(), "image": Server(name="image")})
    yield office
    office.stop()


ASK_FROM_OUTSIDE = """
import sys, time
from alerts import recycle_store
from alerts.episode import Trigger
from alerts.recycle_requests import request
from baselines.database import open_database
database = open_database(f"sqlite:///{sys.argv[1]}")
with database.write(durable=True) as connection:
    asked = request("chat", Trigger.HAND, "by hand", None, now=float(sys.argv[2]), new_id=lambda: "outside")
    recycle_store.save_episode(connection, asked)
"""


class TestDesk:
    def test_a_request_of_another_process_is_taken(self, office: Office) -> None:
        """Without being woken: it looks by itself."""
        office.start()
        subprocess.run(
            [sys.executable, "-c", ASK_FROM_OUTSIDE, office.bench.database.path, str(NOW)],
            check=True,
            timeout=60,
            cwd=Path(__file__).parents[2],
        )
        (ended,) = office.wait_for_ends(1)
        assert (ended.id, ended.outcome) == ("outside", Outcome.VERIFIED)
        assert office.bench.read(ended) == ended

    def test_a_wake_is_answered_at_once(self, office: Office) -> None:
        """The pipeline has just committed a request."""
        desk = office.start()
        office.bench.ask()
        desk.wake()
        assert office.wait_for_ends(1)[0].outcome is Outcome.VERIFIED

    def test_two_requests_of_one_target_are_never_at_work_together(self, office: Office) -> None:
        """The second waits and is then refused, the new worker being too young; another target is not held up."""
        release, acting = threading.Event(), threading.Event()
        chat = office.servers["chat"]

        def hold_up(what: str) -> None:
            if what == "act":
                acting.set()
                assert release.wait(DEADLINE_S)

        chat.hook = hold_up
        first = office.bench.ask()
        second = office.bench.ask_for_incident(chat, life=None)
        other = office.bench.ask(target="image")
        desk = office.start()
        assert acting.wait(DEADLINE_S)
        assert [e.id for e in office.wait_for_ends(1)] == [other.id]
        assert desk.taken() == {"chat"}
        for _ in range(3):
            desk.wake()
        assert office.bench.read(second).state is State.SUSPECT
        release.set()
        office.wait_for_ends(3)
        assert [(e.id, e.outcome) for e in office.ended[1:]] == [
            (first.id, Outcome.VERIFIED),
            (second.id, Outcome.BLOCKED),
        ]
        assert office.ended[2].detail == GateReason.TOO_YOUNG
        assert len(chat.acts) == 1

    def test_what_was_read_before_an_episode_ended_does_not_start_it_again(self, office: Office) -> None:
        """The desk reads, the episode ends, and only then does the desk go through what it read."""
        release, acting = threading.Event(), threading.Event()
        looked, ended = threading.Event(), threading.Event()
        chat = office.servers["chat"]

        def hold_up(what: str) -> None:
            if what == "act":
                acting.set()
                assert release.wait(DEADLINE_S)

        def after_reading(connection, cursor, statement, *_: object) -> None:
            on_desk = threading.current_thread().name == "recycle-desk" and "FROM recycles" in statement
            if on_desk and acting.is_set() and not release.is_set():
                looked.set()
                assert ended.wait(DEADLINE_S)

        chat.hook = hold_up
        event.listen(office.bench.database.fast, "after_cursor_execute", after_reading)
        office.bench.ask()
        desk = office.start()
        assert acting.wait(DEADLINE_S)
        desk.wake()
        assert looked.wait(DEADLINE_S)  # the desk has seen it under way
        release.set()
        office.wait_for_ends(1)
        wait_until(lambda: not desk.taken(), "the episode's thread is done")
        ended.set()
        office.bench.ask(target="image")  # once this has ended, the desk is through with what it read
        desk.wake()
        office.wait_for_ends(2)
        wait_until(lambda: not desk.taken(), "whatever it began ends")
        assert [e.target for e in office.ended] == ["chat", "image"]
        assert office.bench.told() == ["cooldown", "cooldown"]
        assert (len(chat.acts), office.errors) == (1, [])

    def test_stop_leaves_an_episode_and_the_next_start_resumes_it(self, office: Office) -> None:
        """Draining when the daemon stops; gated again and carried out once after its restart."""
        chat = office.servers["chat"]
        chat.drain_s = 3600.0
        episode = office.bench.ask()
        office.start()
        wait_until(lambda: office.bench.read(episode).state is State.DRAIN, "it drains")
        office.stop()
        assert office.bench.read(episode).state is State.DRAIN
        assert chat.acts == []
        chat.drain_s = 0.0
        office.ended.clear()
        office.start()
        (ended,) = office.wait_for_ends(1)
        assert (ended.id, ended.outcome, len(chat.acts)) == (episode.id, Outcome.VERIFIED, 1)
        assert [step.detail for step in ended.steps].count("resumed from drain") == 1

    def test_after_stop_nothing_is_begun(self, office: Office) -> None:
        """What is asked for meanwhile waits for the next start."""
        desk = office.start()
        office.stop()
        episode = office.bench.ask()
        desk.wake()
        assert office.bench.read(episode).state is State.SUSPECT
        office.start()
        assert office.wait_for_ends(1)[0].id == episode.id

    def test_an_error_is_counted_and_the_episode_taken_up_again(self, office: Office) -> None:
        """The thread lives on; the act, once done, is not repeated."""
        chat = office.servers["chat"]
        failures = iter([True])

        def break_once(what: str) -> None:
            if what == "burst" and next(failures, False):
                raise RuntimeError("the canary is held by somebody else")

        chat.hook = break_once
        office.bench.ask()
        with capture_logs() as logs:
            office.start()
            (ended,) = office.wait_for_ends(1)
        assert ended.outcome is Outcome.VERIFIED
        assert office.errors == ["recycle"]
        assert len(chat.acts) == 1
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["recycle failed"]

    def test_a_target_that_is_no_longer_configured_is_left_alone(self, office: Office) -> None:
        """Its row stays for a person to see; others go on."""
        gone = office.bench.ask(target="removed")
        office.bench.ask()
        office.start()
        assert office.wait_for_ends(1)[0].target == "chat"
        assert office.bench.read(gone).state is State.SUSPECT
        assert office.errors == []
