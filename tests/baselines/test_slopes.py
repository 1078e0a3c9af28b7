"""What earlier lives tell: with which version a leak came, that it is gone, and nothing learned twice."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from alerts.leak_words import say_appearance, say_gone
from baselines import memory_store, slope_store, verdict_store
from baselines.database import Database
from baselines.leak import LeakPolicy, LeakWatch
from baselines.slopes import MAX_SLOPES, Former, SlopeHistory
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import MemorySample

MB = 10**6
HOUR = 3600.0
POLICY = LeakPolicy()


def life(
    rate_mb_per_hour: float, *, hours: float, key: str = "8@2", seed: int = 3, load: float | None = 0.5
) -> list[MemorySample]:
    times = np.arange(0.0, hours * HOUR, 30.0)
    noise = np.random.default_rng(seed).normal(0, 4 * MB, len(times))
    return [
        MemorySample(
            target="chat",
            slot=0,
            life=key,
            at=float(at),
            uptime_s=float(at),
            host_anon_bytes=int(3000 * MB + rate_mb_per_hour * MB * at / HOUR + off),
            capacity_bytes=16_000 * MB,
            load=load,
        )
        for at, off in zip(times, noise, strict=True)
    ]


def judge(samples: list[MemorySample], history: SlopeHistory) -> Verdict:
    watch = LeakWatch(POLICY)
    watch.inherit(history)
    watch.take(samples)
    return watch.judge(now=samples[-1].at)


def slopes_of(samples: list[MemorySample]) -> dict[tuple[str, int], list[float]]:
    watch = LeakWatch(POLICY)
    watch.take(samples)
    return {key: list(slopes) for key, slopes in watch.drain().items()}


def test_a_leak_that_came_with_a_version_is_told_so() -> None:
    before = slopes_of(life(0.0, hours=40))
    history = SlopeHistory(version="0.24", version_before="0.23", before=before)
    evidence = judge(life(60.0, hours=8), history).evidence
    assert (evidence["appeared_with"], evidence["version_before"]) == ("0.24", "0.23")
    assert abs(float(evidence["slope_before_bytes_per_hour"] or 0)) < 3 * MB


def test_a_leak_that_was_there_before_did_not_come_with_the_version() -> None:
    before = slopes_of(life(60.0, hours=40))
    history = SlopeHistory(version="0.24", version_before="0.23", before=before)
    verdict = judge(life(60.0, hours=8), history)
    assert verdict.status is Status.WORSE
    assert "appeared_with" not in verdict.evidence


def test_nothing_is_said_of_a_version_that_hardly_ran() -> None:
    before = slopes_of(life(0.0, hours=1))
    history = SlopeHistory(version="0.24", version_before="0.23", before=before)
    assert "appeared_with" not in judge(life(60.0, hours=8), history).evidence


@pytest.mark.parametrize(("rate", "reason"), [(0.0, Reason.LEAK_GONE), (60.0, Reason.LEAKING)])
def test_the_life_after_a_leak_says_whether_it_is_gone(rate: float, reason: Reason) -> None:
    former = Former(figure="host_anon_bytes", slope=60 * MB / HOUR, version="0.24")
    verdict = judge(life(rate, hours=8), SlopeHistory(version="0.25", former=former))
    assert verdict.reason is reason
    if reason is Reason.LEAK_GONE:
        assert verdict.status is Status.OK
        assert verdict.evidence["former_slope_bytes_per_hour"] == pytest.approx(60 * MB)
        assert verdict.evidence["former_version"] == "0.24"


def counted(per_hour: float, *, hours: float, load: float | None = 0.5) -> list[MemorySample]:
    """A worker that opens so many descriptors an hour and keeps them."""
    return [
        replace(sample, fds=int(100 + per_hour * sample.at / HOUR), fd_limit=1024, host_anon_bytes=3000 * MB)
        for sample in life(0.0, hours=hours, load=load)
    ]


def test_of_what_is_counted_the_same_is_said() -> None:
    """With which version it came, in descriptors and not in bytes; and a young life is not the end of it."""
    before = slopes_of(counted(0.0, hours=40))
    history = SlopeHistory(version="0.24", version_before="0.23", before=before)
    leaked = judge(counted(60.0, hours=8), history)
    assert leaked.evidence["slope_before_per_hour"] == pytest.approx(0.0, abs=1.0)
    assert say_appearance(leaked.evidence) == "It appeared with version 0.24: 0.23 grew by 0/h."
    after = SlopeHistory(version="0.25", former=Former.of(leaked))
    assert judge(counted(0.0, hours=4, load=None), after).reason is Reason.LEAK_NOT_RULED_OUT
    gone = judge(counted(0.0, hours=8), after)
    assert gone.reason is Reason.LEAK_GONE
    assert say_gone(gone.evidence) == "The worker before (version 0.24) grew by 60/h, this one (version 0.25) by 0/h."


def test_while_it_cannot_be_said_that_a_leak_is_gone_nothing_is_said() -> None:
    """Growth that may be half of the former one, or a load that may explain it: neither steady nor gone yet."""
    former = Former(figure="host_anon_bytes", slope=60 * MB / HOUR, version="0.24")
    history = SlopeHistory(version="0.25", former=former)
    undecided = (Status.UNKNOWN, Reason.LEAK_NOT_RULED_OUT)
    slow = replace(history, former=replace(former, slope=1 * MB / HOUR))
    verdict = judge(life(0.0, hours=4), slow)
    assert (verdict.status, verdict.reason) == undecided
    verdict = judge(life(0.0, hours=8, load=None), history)
    assert (verdict.status, verdict.reason) == undecided
    assert judge(life(0.0, hours=25, load=None), history).reason is Reason.LEAK_GONE
    assert judge(life(0.0, hours=25), slow).reason in (Reason.STEADY, Reason.LEAK_GONE)


def test_a_leak_of_this_life_is_not_the_one_before() -> None:
    """That stopped here says nothing of a fix; nor when the life is read again after a restart, without a judgement."""
    stopped = [
        replace(sample, host_anon_bytes=(sample.host_anon_bytes or 0) + int(60 * MB * min(sample.at / HOUR, 6)))
        for sample in life(0.0, hours=20)
    ]
    assert judge(stopped[: 5 * 120], SlopeHistory()).reason is Reason.LEAKING
    former = Former(figure="host_anon_bytes", slope=60 * MB / HOUR)
    assert judge(stopped, SlopeHistory(former=former)).reason is Reason.STEADY


@pytest.mark.parametrize("begins_h", [20, 0, 2, 4, 10])
def test_a_leak_that_is_slow_at_night_is_not_called_gone(begins_h: int) -> None:
    """It leaks per request: half the requests, half the slope."""
    watch = LeakWatch(POLICY)
    watch.inherit(SlopeHistory(former=Former(figure="host_anon_bytes", slope=60 * MB / HOUR)))
    used, due, said = 3000.0 * MB, 0.0, set()
    for sample, off in zip(life(0.0, hours=30), np.random.default_rng(begins_h).normal(0, 3, 30 * 120), strict=True):
        load = 0.5 - 0.45 * math.cos(2 * math.pi * (begins_h + sample.at / HOUR - 4) / 24)
        used += 60 * MB * load / 0.5 * 30 / HOUR
        watch.take([replace(sample, host_anon_bytes=int(used + off * MB), load=load)])
        if sample.at >= due:
            due = sample.at + POLICY.judge_every_s
            said.add(watch.judge(now=sample.at).reason)
    assert Reason.LEAKING in said
    assert Reason.LEAK_GONE not in said


def test_a_life_too_young_to_be_judged_does_not_say_that_a_leak_is_gone() -> None:
    former = Former(figure="host_anon_bytes", slope=60 * MB / HOUR)
    assert judge(life(0.0, hours=1), SlopeHistory(former=former)).reason is Reason.TOO_FEW_SAMPLES


def test_a_restart_relearns_nothing() -> None:
    """A rise such as earlier lives had many of, up and down, is not called a leak on the first day of a new one."""
    worker = life(12.0, hours=7)
    wide = {("host_anon_bytes", scale): [sign * 10 * MB / HOUR for sign in (-1.0, 1.0) * 10] for scale in range(7)}
    assert judge(worker, SlopeHistory()).status is Status.WORSE
    assert judge(worker, SlopeHistory(own=wide)).status is Status.OK


def swept(*, hours: float, seed: int = 3, every_h: float = 5.0, rate_mb_per_hour: float = 60.0) -> list[MemorySample]:
    """A heap that grows at that rate and is swept every so many hours."""
    lost = int(every_h * rate_mb_per_hour * MB)
    return [
        replace(s, host_anon_bytes=(s.host_anon_bytes or 0) - int(s.at // (every_h * HOUR)) * lost)
        for s in life(rate_mb_per_hour, hours=hours, seed=seed)
    ]


def alarms(samples: list[MemorySample], history: SlopeHistory) -> list[float]:
    """Hours at which it was called a leak, looked at every ten minutes."""
    watch = LeakWatch(POLICY)
    watch.inherit(history)
    told = []
    for sample in samples:
        watch.take([sample])
        if sample.at % 600 == 0 and watch.judge(now=sample.at).status is Status.WORSE:
            told.append(sample.at / HOUR)
    return told


def test_a_heap_that_is_swept_every_few_hours_is_learned_once() -> None:
    """In its first life it is a line until it is swept; the next one is known to be swept as well."""
    history = SlopeHistory(version="1", own=slopes_of(swept(hours=72)))
    assert alarms(swept(hours=5, seed=4), SlopeHistory())
    assert not alarms(swept(hours=30, seed=4), history)


@pytest.mark.parametrize(
    ("rate", "earlier", "within_h"),
    [
        pytest.param(180.0, "swept", 4.0, id="three times as fast as it ever grew"),
        pytest.param(60.0, "leaking", 4.0, id="what earlier lives did was a leak too"),
        pytest.param(60.0, "flat", 4.0, id="what earlier lives did not do"),
        pytest.param(60.0, "swept", 24.0, id="as fast as it always grew, and nothing sweeps it any more"),
        pytest.param(300.0, "swept fast", 6.0, id="the same, and a tenth of the room is gone"),
    ],
)
def test_a_leak_is_no_heap_that_will_be_swept(rate: float, earlier: str, within_h: float) -> None:
    before = {
        "swept": lambda: swept(hours=72),
        "swept fast": lambda: swept(hours=72, every_h=3.0, rate_mb_per_hour=300.0),
        "leaking": lambda: life(60.0, hours=72),
        "flat": lambda: life(0.0, hours=72),
    }[earlier]()
    told = alarms(life(rate, hours=within_h + 2, seed=4), SlopeHistory(version="1", own=slopes_of(before)))
    assert told
    assert told[0] <= within_h


def test_slopes_that_nobody_takes_over_do_not_pile_up() -> None:
    """A life of twelve days, replayed at once: of each width the newest are left."""
    assert max(len(slopes) for slopes in slopes_of(life(0.0, hours=288)).values()) == MAX_SLOPES


def test_slopes_are_kept_by_version(database: Database) -> None:
    key = ("host_anon_bytes", 3)
    with database.write() as connection:
        slope_store.add_slopes(connection, "chat", "0.23", {key: [1.0, 2.0]}, at=10.0)
        slope_store.add_slopes(connection, "chat", "0.24", {key: [3.0]}, at=20.0)
        slope_store.add_slopes(connection, "chat", "0.24", {key: [float(i) for i in range(50)]}, at=30.0)
        slope_store.add_slopes(connection, "other", None, {key: [9.0]}, at=40.0)
        history = slope_store.slope_history(connection, "chat", "0.24", subject="slot 0", life="8@2")
        unknown = slope_store.slope_history(connection, "other", None, subject="slot 0", life="8@2")
    assert (history.version, history.version_before) == ("0.24", "0.23")
    assert history.before[key] == [1.0, 2.0]
    assert history.own[key] == [float(i) for i in range(50)][-MAX_SLOPES:]
    assert (unknown.version_before, unknown.own[key]) == (None, [9.0])


@pytest.mark.parametrize(("ended", "former"), [(Reason.LEAKING, 2.0), (Reason.STEADY, None)])
def test_the_former_life_is_the_last_one_in_the_slot(database: Database, ended: Reason, former: float | None) -> None:
    """But for those of which nothing is known: a life too short to be judged does not make a leak forgotten."""
    leaking = ended is Reason.LEAKING
    last = Verdict(
        target="chat",
        check=Check.MEMORY,
        subject="slot 0",
        at=100.0,
        status=Status.WORSE if leaking else Status.OK,
        reason=ended,
        cause=Cause.MODEL if leaking else Cause.UNKNOWN,
        level=Level.PAGE if leaking else Level.INFO,
        life="7@1",
        evidence={"channel": "host_anon_bytes", "slope_bytes_per_hour": 7200.0},
    )
    with database.write() as connection:
        verdict_store.save_verdict(connection, replace(last, at=50.0, life="6@0", reason=Reason.STEADY))
        verdict_store.save_verdict(connection, last)
        short = replace(last, at=150.0, life="7@9", status=Status.UNKNOWN, reason=Reason.LEAK_NOT_RULED_OUT)
        verdict_store.save_verdict(connection, short)
        verdict_store.save_verdict(connection, replace(last, at=200.0, life="8@2", reason=Reason.WARMING_UP))
        memory_store.add_memory(connection, life(0.0, hours=0.1))
        history = slope_store.slope_history(connection, "chat", None, subject="slot 0", life="8@2")
    assert (history.former.slope if history.former else None) == former
