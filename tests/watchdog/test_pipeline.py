"""One trip of the data on a real database: what a result means is stored with it, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from builders import NOW, make_incident
from pipeline_stage import HUNG, WORKER, Bench
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import GateReason, Outcome, RecyclePolicy, State, Trigger
from alerts.incident import State as IncidentState
from alerts.recycle_store import Episode
from alerts.store import Silence
from baselines import verdict_store
from baselines.database import Database
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Life, MemorySample
from probes.messages import Outcome as Answer


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


def host_sample(life: str, minute: float, *, at: float, mb_per_minute: float) -> MemorySample:
    """Of a worker that holds 3 GB and so much more each minute."""
    return MemorySample(
        target="chat",
        slot=0,
        life=life,
        at=at,
        host_anon_bytes=int(3e9 + mb_per_minute * 1e6 * minute),
        capacity_bytes=int(20e9),
        uptime_s=60 * minute,
        load=0.5,
    )


class TestFiring:
    def test_availability_fires_on_three_bad_bursts_of_five(self, bench: Bench) -> None:
        """Two change nothing but a pending incident that nobody hears of; the third is told, once."""
        for outcomes in ([Answer.TIMEOUT], [], [Answer.TIMEOUT], []):
            bench.take(*outcomes, **HUNG)
            assert [i.state for i in bench.incidents] == [IncidentState.PENDING]
            assert (bench.told, bench.recycles, bench.woken) == ([], [], 0)
        bench.take(Answer.TIMEOUT, **HUNG)
        (incident,) = bench.incidents
        assert (incident.state, incident.check, incident.reason) == (
            IncidentState.FIRING,
            Check.AVAILABILITY,
            Reason.TIMEOUT,
        )
        assert bench.told == ["firing"]
        assert bench.woken == 1
        bench.take(Answer.TIMEOUT, **HUNG)
        assert bench.told == ["firing"]

    def test_two_bad_bursts_of_six_never_fire(self, bench: Bench) -> None:
        """The first has left the window when the third comes."""
        for outcomes in ([Answer.TIMEOUT], [Answer.TIMEOUT], [], [], [], [Answer.TIMEOUT]):
            bench.take(*outcomes, **HUNG)
        assert bench.told == []

    def test_a_wrong_output_fires_at_the_second_running(self, bench: Bench) -> None:
        """In one burst or in two."""
        bench.take(Answer.GOOD, Answer.DRIFTED)
        assert bench.told == []
        bench.take(Answer.DRIFTED)
        assert bench.told == ["firing"]
        assert [(i.check, i.cause) for i in bench.incidents] == [(Check.OUTPUT, Cause.MODEL)]

    def test_a_slowdown_fires_when_its_detector_says_so(self, bench: Bench) -> None:
        """Slow bursts against the stored baseline; a new baseline counts at once."""
        bench.baseline()
        for _ in range(5):
            bench.take(latency_s=0.065)
        (incident,) = bench.incidents
        assert (incident.check, incident.reason, incident.state) == (
            Check.LATENCY,
            Reason.REGRESSED,
            IncidentState.FIRING,
        )
        assert incident.since == NOW + 60
        assert bench.verdicts(Check.LATENCY)[-1] == (Status.WORSE, Reason.REGRESSED)

    def test_memory_is_judged_per_worker_and_stored(self, bench: Bench) -> None:
        """Each life by itself, as `slot N`; a limit on the share of memory fires at once."""
        limits = replace(bench.target.policies.limits, memory_ratio=0.9)
        bench.target.policies = replace(bench.target.policies, limits=limits)
        samples = [
            MemorySample(
                target="chat", slot=slot, life=life, at=NOW, host_anon_bytes=used, capacity_bytes=100, uptime_s=9999.0
            )
            for slot, life, used in ((0, WORKER.key, 50), (1, "8@100", 95))
        ]
        bench.pipeline.take_memory("chat", samples)
        (incident,) = bench.incidents
        assert (incident.check, incident.subject, incident.life, incident.reason) == (
            Check.MEMORY,
            "slot 1",
            "8@100",
            Reason.LIMIT_EXCEEDED,
        )
        assert bench.count("memory_samples") == 2
        assert bench.count("lives") == 2

    def test_a_leak_is_followed_on_after_a_restart(self, bench: Bench) -> None:
        """A life is read from the store once; samples between two judgements count; a life that ended is forgotten."""

        def take(minute: float, life: str = "7@100") -> None:
            bench.clock.at = NOW + 60 * minute
            sample = host_sample(life, minute, at=bench.clock.at, mb_per_minute=5)
            bench.pipeline.take_memory("chat", [sample])

        for half_minutes in range(420):
            take(half_minutes / 2)
        assert bench.verdicts(Check.MEMORY)[-1] == (Status.WORSE, Reason.LEAKING)
        bench.start()
        take(210.0)
        watch = bench.target.leaks["7@100"]
        verdict = watch.judge(now=bench.clock.at)
        assert (verdict.reason, verdict.evidence["samples"]) == (Reason.LEAKING, 421)
        assert verdict.evidence["slope_bytes_per_hour"] == pytest.approx(300e6, rel=0.01)
        take(212.0, life="9@200")
        assert list(bench.target.leaks) == ["9@200"]

    def test_the_next_version_is_told_from_the_one_that_leaked(self, bench: Bench) -> None:
        """The leak came with 0.24 and is gone with 0.25: the canary's answers say which version it is."""

        def serve(life: str, version: str, *, begun: float, hours: float, mb_per_minute: float) -> None:
            bench.take(provenance={"model_version": version})
            for minute in np.arange(0, 60 * hours, 0.5):
                bench.clock.at = NOW + 60 * (60 * begun + minute)
                sample = host_sample(life, minute, at=bench.clock.at, mb_per_minute=mb_per_minute)
                bench.pipeline.take_memory("chat", [sample])

        def newest() -> Verdict:
            with bench.database.read() as connection:
                return next(v for v in verdict_store.latest_verdicts(connection) if v.check is Check.MEMORY)

        serve("7@100", "0.23", begun=0, hours=10, mb_per_minute=0)
        bench.start()  # a restart of the watchdog forgets nothing of it
        serve("8@200", "0.24", begun=10, hours=5, mb_per_minute=5)
        told = newest()
        assert (told.status, told.reason, told.evidence["kind"]) == (Status.WORSE, Reason.LEAKING, "host")
        assert (told.evidence["appeared_with"], told.evidence["version_before"]) == ("0.24", "0.23")
        serve("9@300", "0.25", begun=15, hours=5, mb_per_minute=0)
        told = newest()
        assert (told.status, told.reason, told.evidence["former_version"]) == (Status.OK, Reason.LEAK_GONE, "0.24")
        assert told.evidence["former_slope_bytes_per_hour"] == pytest.approx(300e6, rel=0.01)
        assert bench.told == ["firing", "resolved"]
        over = json.dumps(bench.deliveries[-1].payload)
        assert "The worker before (version 0.24) grew by 300 MB/h, this one (version 0.25) by 0 B/h." in over

    def test_a_restart_does_not_end_the_incident_of_a_leak(self, bench: Bench) -> None:
        """The new worker is steady for hours because it is young; that says nothing, and nobody is told twice."""

        def serve(life: str, *, begun: float, hours: float) -> None:
            bench.workers.lives = [Life(pid=int(life[0]), start_ticks=int(life[2:]))]
            for minute in np.arange(0, 60 * hours, 1.25):
                bench.clock.at = NOW + 60 * (60 * begun + minute)
                sample = host_sample(life, minute, at=bench.clock.at, mb_per_minute=1)
                bench.pipeline.take_memory("chat", [sample])

        serve("7@100", begun=0, hours=5)
        assert bench.told == ["firing"]
        serve("8@200", begun=5, hours=5)
        assert bench.told == ["firing"]
        assert [i.state for i in bench.incidents] == [IncidentState.FIRING]
        assert bench.verdicts(Check.MEMORY)[-1] == (Status.WORSE, Reason.LEAKING)

    def test_memory_of_a_worker_that_is_gone_is_closed(self, bench: Bench) -> None:
        """A slot that nobody took gets no more samples: its incident ends and stands for nothing any more."""
        limits = replace(bench.target.policies.limits, memory_ratio=0.9)
        bench.target.policies = replace(bench.target.policies, limits=limits)
        full = MemorySample(target="chat", slot=1, life="8@100", at=NOW, host_anon_bytes=95, capacity_bytes=100)
        bench.workers.lives = [WORKER, Life(pid=8, start_ticks=100)]
        bench.pipeline.take_memory("chat", [full])
        bench.pipeline.tick()
        assert [i.state for i in bench.incidents] == [IncidentState.FIRING]
        bench.workers.lives = [WORKER]
        bench.pipeline.tick()
        assert [i.state for i in bench.incidents] == [IncidentState.FIRING], "it may just be restarting"
        bench.clock.at += 600.0
        bench.pipeline.tick()
        assert [i.state for i in bench.incidents] == [IncidentState.RESOLVED]
        assert bench.told == ["firing", "resolved"]
        assert bench.metric("watchdog_verdict", target="chat", check="memory", status="WORSE") == 0
        assert bench.verdicts(Check.MEMORY)[-1] == (Status.UNKNOWN, Reason.NO_DATA)

    def test_it_resolves_after_three_good_bursts_and_tells_who_was_told(self, bench: Bench) -> None:
        """Two thresholds: one good answer ends nothing."""
        for _ in range(3):
            bench.take(Answer.REFUSED, workers_alive=1)
        for _ in range(2):
            bench.take()
        assert bench.told == ["firing"]
        bench.take()
        assert bench.told == ["firing", "resolved"]
        assert [i.state for i in bench.incidents] == [IncidentState.RESOLVED]
        assert len({d.incident_id for d in bench.deliveries}) == 1


class TestOneTransaction:
    @pytest.fixture
    def broken(self, bench: Bench) -> Iterator[Bench]:
        """The third bad burst is about to come, and the outbox refuses every row."""
        for _ in range(2):
            bench.take(Answer.TIMEOUT, **HUNG)
        with bench.database.write() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER full BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
        return bench

    def mend(self, bench: Bench) -> None:
        with bench.database.write() as connection:
            connection.exec_driver_sql("DROP TRIGGER full")

    def test_without_its_message_nothing_of_a_result_is_stored(self, broken: Bench) -> None:
        """No sample, no verdict, no incident, no recycle; nobody is woken, no metric moves."""
        before = broken.counts()
        bad = broken.burst(Answer.TIMEOUT, at=NOW + 600, **HUNG)
        with pytest.raises(IntegrityError, match="full"):
            broken.pipeline.take_burst(bad)
        assert broken.counts() == before
        assert before["bursts"] == 2
        assert [i.state for i in broken.incidents] == [IncidentState.PENDING]
        assert broken.woken == 0
        assert broken.metric("watchdog_incident_open", target="chat", check="availability", level="page") == 0

    def test_taken_again_it_is_stored_whole(self, broken: Bench) -> None:
        """As the judge thread does while the database cannot be written: no verdict is lost, nothing is doubled."""
        bad = broken.burst(Answer.DRIFTED, Answer.DRIFTED, at=NOW + 600)
        with pytest.raises(IntegrityError, match="full"):
            broken.pipeline.take_burst(bad)
        self.mend(broken)
        broken.pipeline.take_burst(bad)
        assert broken.verdicts(Check.OUTPUT)[-1] == (Status.WORSE, Reason.DRIFTED)
        assert broken.count("bursts") == 3
        assert broken.told == ["firing"]

    def test_a_result_that_fires_is_written_durably(self, bench: Bench) -> None:
        """And one that says nothing new about a healthy target is not: an fsync each would wear the disk."""
        used: list[str] = []
        durable, fast = bench.database.durable, bench.database.fast
        for name, engine in (("durable", durable), ("fast", fast)):

            def noted(connection, cursor, statement, *_, name: str = name) -> None:
                if statement == "BEGIN IMMEDIATE":
                    used.append(name)

            event.listen(engine, "after_cursor_execute", noted)
        bench.take()
        bench.take(Answer.TIMEOUT, **HUNG)
        for _ in range(5):
            bench.take()
        bench.take()
        assert used[:2] == ["fast", "durable"]
        assert used[-1] == "fast"


class TestWhoIsNotTold:
    def test_observing_judges_and_tells_nobody(self, database: Database) -> None:
        """The incident is there to look at."""
        bench = Bench(database, mode="observe")
        for _ in range(4):
            bench.take(Answer.TIMEOUT, **HUNG)
        assert [i.state for i in bench.incidents] == [IncidentState.FIRING]
        assert bench.told == []
        bench.clock.at += 5 * 3600
        bench.pipeline.tick()
        assert bench.told == []

    @pytest.mark.parametrize("check", ["*", "availability"])
    def test_a_silence_mutes_and_what_still_fires_afterwards_is_told(self, bench: Bench, check: str) -> None:
        """At once when it is over, as firing and not as a reminder."""
        silence = Silence(target="chat", check=check, from_at=NOW, until_at=NOW + 600, by="ana", why="deploying")
        with bench.database.write() as connection:
            alert_store.add_silence(connection, silence)
        for _ in range(3):
            bench.take(Answer.TIMEOUT, **HUNG)
        bench.pipeline.tick()
        assert bench.told == []
        bench.clock.at = NOW + 601
        bench.pipeline.tick()
        assert bench.told == ["firing"]
        bench.pipeline.tick()
        assert bench.told == ["firing"]

    def test_a_silence_of_another_check_or_target_mutes_nothing(self, bench: Bench) -> None:
        """It is as narrow as it says."""
        with bench.database.write() as connection:
            for target, check in (("image", "*"), ("chat", "latency")):
                silence = Silence(target=target, check=check, from_at=NOW, until_at=NOW + 9e9, by="ana", why="")
                alert_store.add_silence(connection, silence)
        for _ in range(3):
            bench.take(Answer.TIMEOUT, **HUNG)
        assert bench.told == ["firing"]

    def test_reminders_come_every_four_hours(self, bench: Bench) -> None:
        """Until it is over."""
        for _ in range(3):
            bench.take(Answer.TIMEOUT, **HUNG)
        for hours in (3.9, 0.2, 3.7, 0.2):
            bench.clock.at += hours * 3600
            bench.pipeline.tick()
        assert bench.told == ["firing", "reminder"]
        bench.clock.at += 0.2 * 3600
        bench.pipeline.tick()
        assert bench.told == ["firing", "reminder", "reminder"]


class TestUnknown:
    def test_what_is_not_known_changes_nothing(self, bench: Bench) -> None:
        """A busy server, no answer to compare: neither a strike nor a good one; nothing fires, nothing resolves."""
        for _ in range(3):
            bench.take(Answer.TIMEOUT, **HUNG)
        before = bench.incidents
        bench.take(Answer.OVERLOADED_503)
        assert bench.incidents == before
        assert bench.told == ["firing"]
        assert bench.verdicts(Check.AVAILABILITY) == [(Status.WORSE, Reason.TIMEOUT), (Status.UNKNOWN, Reason.BUSY)]

    def test_no_baseline_is_unknown_and_shown_as_such(self, bench: Bench) -> None:
        """Never OK."""
        bench.take()
        assert bench.verdicts(Check.LATENCY) == [(Status.UNKNOWN, Reason.NO_BASELINE)]
        shown = {s: bench.metric("watchdog_verdict", target="chat", check="latency", status=s) for s in Status}
        assert shown == {"OK": 0, "WORSE": 0, "UNKNOWN": 1}
        assert bench.incidents == []


class TestVerdictRows:
    def test_a_row_is_stored_when_a_verdict_changes_and_not_otherwise(self, bench: Bench) -> None:
        """Not for its figures, which change with every burst."""
        for outcomes in ([], [], [Answer.TIMEOUT], [Answer.TIMEOUT], [Answer.REFUSED], [], []):
            bench.take(*outcomes, **HUNG)
        assert bench.verdicts(Check.AVAILABILITY) == [
            (Status.OK, Reason.GOOD),
            (Status.WORSE, Reason.TIMEOUT),
            (Status.WORSE, Reason.REFUSED),
            (Status.OK, Reason.GOOD),
        ]

    def test_a_change_of_cause_or_level_is_a_change(self, bench: Bench) -> None:
        """The same time-outs while the worker computes are load."""
        bench.take(Answer.TIMEOUT, Answer.OVERLOADED_503, **HUNG)
        bench.take(Answer.TIMEOUT, **HUNG)
        with bench.database.read() as connection:
            found = [v for v in verdict_store.verdict_history(connection, "chat") if v.check is Check.AVAILABILITY]
        assert [(v.cause, v.level) for v in reversed(found)] == [(Cause.LOAD, Level.INFO), (Cause.MODEL, Level.PAGE)]

    def test_a_restart_repeats_no_row(self, bench: Bench) -> None:
        """The standing verdicts are taken up from the store."""
        bench.take()
        before = bench.count("verdicts")
        bench.start()
        bench.take()
        assert bench.count("verdicts") == before == 3


class TestRecycleRequests:
    def test_the_request_is_stored_with_the_firing(self, bench: Bench) -> None:
        """In the same transaction, once; the gate is asked later, on another thread."""
        for _ in range(4):
            bench.take(Answer.TIMEOUT, **HUNG)
        (episode,) = bench.recycles
        (incident,) = bench.incidents
        assert (episode.state, episode.trigger, episode.reason, episode.incident_id, episode.requested_at) == (
            State.SUSPECT,
            Trigger.INCIDENT,
            Reason.TIMEOUT,
            incident.id,
            incident.fired_at,
        )

    @pytest.mark.parametrize(
        ("outcome", "about"),
        [
            (Answer.TIMEOUT, {"workers_alive": 1, "worker_cpu": 1.0}),
            (Answer.REFUSED, {"workers_alive": 0}),
            (Answer.STATUS_404, {}),
            (Answer.OUT_OF_MEMORY, {}),
        ],
        ids=["working", "no worker", "our own mistake", "the isolated worker"],
    )
    def test_what_is_not_the_models_fault_asks_for_none(
        self, bench: Bench, outcome: Answer, about: dict[str, object]
    ) -> None:
        """It may fire, and a person is told; nothing is recycled for it."""
        for _ in range(4):
            bench.take(outcome, **about)
        assert bench.recycles == []

    def test_a_tick_asks_again_once_the_refusal_may_have_passed(self, database: Database) -> None:
        """And wakes the desk; a tick with nothing to ask wakes nobody."""
        bench = Bench(database, mode="act", recycler=object())
        for _ in range(3):
            bench.take(Answer.TIMEOUT, **HUNG)
        (first,) = bench.recycles
        blocked = replace(first, state=State.BLOCKED, outcome=Outcome.BLOCKED, detail=GateReason.TOO_YOUNG)
        with bench.database.write() as connection:
            recycle_store.save_episode(connection, blocked)
        bench.woken = 0
        bench.clock.at += 1
        bench.pipeline.tick()
        assert [e.state for e in bench.recycles] == [State.BLOCKED, State.SUSPECT]
        assert bench.woken == 1
        bench.pipeline.tick()
        assert (len(bench.recycles), bench.woken) == (2, 1)


class TestAfterARecycle:
    def ended(self, outcome: Outcome, **about: object) -> Episode:
        values = {"id": "r1", "target": "chat", "trigger": Trigger.INCIDENT, "reason": "timeout", "outcome": outcome}
        times = {"requested_at": NOW, "updated_at": NOW, "acted_at": NOW, "ended_at": NOW + 5}
        return Episode(**{**values, **times, "state": State.COOLDOWN, **about})

    def save(self, bench: Bench, *episodes: Episode) -> None:
        with bench.database.write() as connection:
            for episode in episodes:
                recycle_store.save_episode(connection, episode)

    def test_it_is_told_in_the_transaction_that_ends_it(self, bench: Bench) -> None:
        """With the target and how it ended."""
        with bench.database.write(durable=True) as connection:
            bench.effects.tell_recycle(connection, self.ended(Outcome.NOT_HELPED, detail="still 1.2 x"))
        (delivery,) = bench.deliveries
        assert delivery.event == "recycle"
        assert "was recycled and it did not help" in delivery.payload["text"]

    def test_a_verified_recycle_for_memory_ends_its_incident(self, bench: Bench) -> None:
        """The new life is judged hours later; the proof is what there is, and a leak in it will be a new incident."""
        incident = make_incident("m1", check=Check.MEMORY, subject="slot 0", told_at=NOW)
        with bench.database.write() as connection:
            alert_store.save_incident(connection, incident)
            bench.effects.tell_recycle(connection, self.ended(Outcome.VERIFIED, incident_id="m1"))
        assert [i.state for i in bench.incidents] == [IncidentState.RESOLVED]

    def test_it_is_counted_by_reason_and_result(self, bench: Bench) -> None:
        """What only the mode held back is counted as such, and a person's words are no label."""
        for episode in (
            self.ended(Outcome.VERIFIED),
            self.ended(Outcome.VERIFIED, trigger=Trigger.HAND, reason="because I can"),
            self.ended(Outcome.BLOCKED, detail=GateReason.TOO_YOUNG),
            self.ended(Outcome.BLOCKED, detail=GateReason.MODE),
        ):
            bench.effects.recycle_ended(episode)
        counted = {
            (sample.labels["reason"], sample.labels["result"]): sample.value
            for sample in next(iter(bench.metrics.recycles.collect())).samples
            if sample.name == "watchdog_recycles_total" and sample.value
        }
        assert counted == {("timeout", "verified"): 1, ("by_hand", "verified"): 1, ("timeout", "blocked"): 1}
        assert bench.metric("watchdog_would_recycle_total", target="chat", reason="timeout") == 1
        assert bench.woken == 4

    def test_the_breaker_shows_and_goes_on_showing_after_a_restart(self, bench: Bench) -> None:
        """1 while it is open."""
        assert bench.target.policy == RecyclePolicy()
        self.save(bench, self.ended(Outcome.NOT_HELPED), self.ended(Outcome.NOT_READY, id="r2", ended_at=NOW + 9))
        bench.effects.recycle_ended(self.ended(Outcome.NOT_READY))
        assert bench.metric("watchdog_breaker_open", target="chat") == 1
        bench.start()
        assert bench.metric("watchdog_breaker_open", target="chat") == 1
        with bench.database.write() as connection:
            recycle_store.reset_breaker(connection, "chat", at=NOW + 10, by="ana")
        bench.start()
        assert bench.metric("watchdog_breaker_open", target="chat") == 0


class TestRestart:
    def test_an_open_incident_goes_on(self, bench: Bench) -> None:
        """The same one: counted on, shown at once, resolved after three good bursts of the new run."""
        for _ in range(3):
            bench.take(Answer.TIMEOUT, **HUNG)
        (before,) = bench.incidents
        bench.start()
        assert bench.metric("watchdog_incident_open", target="chat", check="availability", level="page") == 1
        for _ in range(3):
            bench.take()
        (after,) = bench.incidents
        assert (after.id, after.state) == (before.id, IncidentState.RESOLVED)
        assert bench.told == ["firing", "resolved"]

    def test_strikes_are_remembered(self, bench: Bench) -> None:
        """Two before and one after make three."""
        for _ in range(2):
            bench.take(Answer.TIMEOUT, **HUNG)
        bench.start()
        bench.take(Answer.TIMEOUT, **HUNG)
        assert bench.told == ["firing"]


def test_a_good_answer_of_another_worker_ends_nothing(bench: Bench) -> None:
    """While the worker that failed still lives; once it is gone, its fault is gone with it."""
    for _ in range(3):
        bench.take(Answer.DRIFTED, Answer.DRIFTED, life=WORKER.key)
    for _ in range(4):
        bench.take(life="8@100")
    assert bench.told == ["firing"]
    bench.workers.lives = [Life(pid=8, start_ticks=100)]
    for _ in range(3):
        bench.take(life="8@100")
    assert bench.told == ["firing", "resolved"]


def test_every_verdict_of_a_burst_is_judged_before_it_is_stored(bench: Bench) -> None:
    """The window is the history before it and the burst itself, once."""
    bench.baseline()
    for _ in range(2):
        bench.take(latency_s=0.065)
    assert bench.verdicts(Check.LATENCY) == [(Status.UNKNOWN, Reason.TOO_FEW_SAMPLES)]
    bench.take(latency_s=0.065)
    assert bench.verdicts(Check.LATENCY)[-1] == (Status.WORSE, Reason.REGRESSED)


def test_a_message_names_the_incident_it_is_about(bench: Bench) -> None:
    """Its id, so that the outbox keeps what belongs together in order, and the log says it too."""
    with capture_logs() as logs:
        for _ in range(3):
            bench.take(Answer.TIMEOUT, **HUNG)
    (delivery,) = bench.deliveries
    assert delivery.incident_id == bench.incidents[0].id == delivery.payload["incident"]["id"]
    assert [line["target"] for line in logs if line["event"] == "incident"] == ["chat"]
