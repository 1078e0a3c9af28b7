"""The leak rule: growth that does not end is found, everything that only looks like it is not."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import START, make_memory

from baselines.leak import LeakPolicy, LeakWatch, judge_memory
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import MemorySample

MB = 1e6
MINUTE = 60.0
HOUR = 3600.0
STEP_S = 30.0
POLICY = LeakPolicy()


def clock(hours: float) -> np.ndarray:
    return np.arange(0.0, hours * HOUR, STEP_S)


def background(times: np.ndarray, seed: int = 0) -> np.ndarray:
    """3 GB that wanders by 5 MB, with activations in flight half of the time."""
    rng = np.random.default_rng(seed)
    wander = np.zeros(len(times))
    steps = rng.normal(0.0, 5 * MB * np.sqrt(1 - 0.95**2), len(times))
    for i in range(1, len(times)):
        wander[i] = 0.95 * wander[i - 1] + steps[i]
    in_flight = (rng.random(len(times)) < 0.5) * rng.lognormal(np.log(60 * MB), 0.6, len(times))
    return 3000 * MB + wander + in_flight


def judge(points: list[MemorySample], policy: LeakPolicy = POLICY) -> Verdict:
    return judge_memory(points, policy, now=points[-1].at)


def ever_worse(used: np.ndarray, policy: LeakPolicy = POLICY) -> bool:
    """Follow a life and judge it every ten minutes, as a daemon would."""
    watch = LeakWatch(policy)
    for number, point in enumerate(make_memory(used), 1):
        watch.take([point])
        if number % 20 == 0 and watch.judge(now=point.at).status is Status.WORSE:
            return True
    return False


def sawtooth(times: np.ndarray) -> np.ndarray:
    """A cache that fills by 300 MB in 50 minutes and is dropped."""
    return 300 * MB * (times % 3000.0) / 3000.0


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(lambda t: 0 * t, id="flat"),
        pytest.param(sawtooth, id="sawtooth"),
        pytest.param(lambda t: 600 * MB * (t > 6 * HOUR), id="one step up"),
        pytest.param(lambda t: 150 * MB * np.floor(t / (5 * HOUR)), id="plateaus"),
        pytest.param(lambda t: 900 * MB * (1 - np.exp(-t / (20 * MINUTE))), id="quick warm-up"),
        pytest.param(lambda t: 900 * MB * (1 - np.exp(-t / (60 * MINUTE))), id="slow warm-up"),
        pytest.param(lambda t: -10 * MB * t / HOUR, id="shrinking"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_leak_is_seen_where_there_is_none(shape: object, seed: int) -> None:
    """Judged every ten minutes of a day, none of these shapes is ever called a leak."""
    times = clock(24)
    assert not ever_worse(background(times, seed) + shape(times))  # type: ignore[operator]


@pytest.mark.parametrize("rate_mb_per_minute", [1.0, 10.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_leak_is_found_with_its_slope(rate_mb_per_minute: float, seed: int) -> None:
    """After three hours a steady leak is WORSE, its slope is right within 10 % and inside the interval."""
    times = clock(3)
    verdict = judge(make_memory(background(times, seed) + rate_mb_per_minute * MB * times / MINUTE))
    assert (verdict.check, verdict.subject, verdict.life) == (Check.MEMORY, "slot 0", "7@1")
    assert (verdict.status, verdict.reason, verdict.cause) == (Status.WORSE, Reason.LEAKING, Cause.MODEL)
    truth = rate_mb_per_minute * MB * 60
    evidence = verdict.evidence
    assert evidence["slope_bytes_per_hour"] == pytest.approx(truth, rel=0.10)
    assert evidence["slope_low"] <= truth <= evidence["slope_high"]  # type: ignore[operator]
    assert evidence["channel"] == "host_anon_bytes"


def test_a_fast_leak_is_urgent_before_the_window_is_full() -> None:
    """50 MB a minute leaves 90 minutes in all: seen after an hour, with the time that is left."""
    times = clock(1.05)
    verdict = judge(make_memory(background(times) + 50 * MB * times / MINUTE))
    assert (verdict.status, verdict.level) == (Status.WORSE, Level.URGENT)
    left = (8000 * MB - (3000 * MB + 50 * MB * times[-1] / MINUTE)) / (50 * MB / MINUTE)
    assert verdict.evidence["seconds_to_capacity"] == pytest.approx(left, rel=0.1)


@pytest.mark.parametrize(("rate_mb_per_minute", "status"), [(10.0, Status.WORSE), (3.0, Status.UNKNOWN)])
def test_a_rise_that_took_a_tenth_of_the_room_does_not_wait(rate_mb_per_minute: float, status: Status) -> None:
    """After 65 minutes 650 MB of 5 GB are gone, or 195 MB, as a cache may take before it is swept."""
    times = clock(65 / 60)
    verdict = judge(make_memory(background(times) + rate_mb_per_minute * MB * times / MINUTE))
    assert verdict.status is status


@pytest.mark.parametrize(
    ("capacity", "level"),
    [
        pytest.param(int(3_700 * MB), Level.URGENT, id="in two hours"),
        pytest.param(int(8_000 * MB), Level.PAGE, id="in three days"),
        pytest.param(int(80_000 * MB), Level.WATCH, id="in two months"),
        pytest.param(None, Level.WATCH, id="capacity not known"),
    ],
)
def test_level_follows_the_time_that_is_left(capacity: int | None, level: Level) -> None:
    """1 MB a minute for ten hours: urgent within 4 h, page within 7 days, else watch."""
    times = clock(10)
    verdict = judge(make_memory(background(times) + MB * times / MINUTE, capacity=capacity, load=0.5))
    assert (verdict.status, verdict.level) == (Status.WORSE, level)
    left = verdict.evidence["seconds_to_capacity"]
    if capacity is None:
        assert left is None
    else:
        assert verdict.evidence["seconds_to_capacity_low"] <= left <= verdict.evidence["seconds_to_capacity_high"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("hours", "busy", "firm"),
    [(10, (0.5, 0.5), True), (10, None, False), (10, (0.1, 0.9), False), (25, None, True)],
    ids=["steady load", "load not known", "load moved", "a day was seen"],
)
def test_a_date_has_a_late_end_only_where_it_is_firm(
    hours: int, busy: tuple[float, float] | None, *, firm: bool
) -> None:
    """Else growth may be the morning's, and "at least so long" is all that can be said."""
    times = clock(hours)
    points = make_memory(background(times) + MB * times / MINUTE)
    if busy is not None:
        points = [replace(p, load=busy[i // 240 % 2]) for i, p in enumerate(points)]
    evidence = judge(points).evidence
    left, soonest, latest = (evidence[f"seconds_to_capacity{end}"] for end in ("", "_low", "_high"))
    assert isinstance(left, float)
    assert isinstance(soonest, float)
    assert soonest <= left
    assert (latest is not None) is firm


def test_the_policys_capacity_wins() -> None:
    """A capacity that a person configured replaces the one that was found."""
    times = clock(10)
    points = make_memory(background(times) + MB * times / MINUTE)
    verdict = judge(points, LeakPolicy(capacity_bytes=int(3_700 * MB)))
    assert (verdict.level, verdict.evidence["capacity_bytes"]) == (Level.URGENT, 3_700 * MB)


def test_a_window_never_spans_two_lives() -> None:
    """A restart into a bigger footprint is not growth: the new life is warming up, the old one is not judged."""
    old = make_memory(background(clock(10)))
    new = [replace(p, at=p.at + 10 * HOUR, life="9@2") for p in make_memory(background(clock(3), 2) + 900 * MB)]
    assert judge([*old, *new[:40]]).reason is Reason.WARMING_UP
    for end in range(80, len(new), 20):
        assert judge([*old, *new[:end]]).status is not Status.WORSE
    assert judge([*old, *new]).status is Status.OK


def test_a_leak_before_a_restart_is_not_the_new_workers() -> None:
    """Ten hours of leak, then a fresh process: nothing is left of the verdict."""
    times = clock(10)
    leaking = make_memory(background(times) + MB * times / MINUTE)
    fresh = [replace(p, at=p.at + 10 * HOUR, life="9@2") for p in make_memory(background(clock(3), 3))]
    assert judge(leaking).status is Status.WORSE
    assert judge([*leaking, *fresh]).status is Status.OK


def test_warm_up_counts_from_the_start_of_the_life() -> None:
    """An uptime that is known beats the first sample: an old process is judged as soon as there is enough to see."""
    times = clock(2.2)
    used = background(times) + MB * times / MINUTE
    young = judge(make_memory(used[:50]))
    assert (young.status, young.reason) == (Status.UNKNOWN, Reason.WARMING_UP)
    old = [replace(p, uptime_s=86400.0 + p.at - START) for p in make_memory(used)]
    assert judge(old).status is Status.WORSE
    assert judge(make_memory(used)).reason is Reason.TOO_FEW_SAMPLES


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        pytest.param(make_memory(background(clock(0.4))), Reason.WARMING_UP, id="warming up"),
        pytest.param(make_memory(background(clock(1.5))), Reason.TOO_FEW_SAMPLES, id="less than half a window"),
        pytest.param(
            make_memory(background(clock(8))[::480], step_s=480 * 30), Reason.TOO_FEW_SAMPLES, id="too sparse"
        ),
        pytest.param([replace(p, host_anon_bytes=None) for p in make_memory(clock(4))], Reason.NO_DATA, id="no figure"),
        pytest.param(
            [
                replace(p, host_anon_bytes=None) if p.at > START + 6 * HOUR else p
                for p in make_memory(background(clock(8)))
            ],
            Reason.NO_DATA,
            id="the figure stopped coming",
        ),
    ],
)
def test_missing_evidence_is_unknown(points: list[MemorySample], reason: Reason) -> None:
    """No verdict before half a window after the warm-up."""
    verdict = judge(points)
    assert (verdict.status, verdict.reason, verdict.level) == (Status.UNKNOWN, reason, Level.INFO)


def test_steady_reports_its_slope_and_no_date() -> None:
    """OK shows the slope with its interval around zero; a steady worker has no time to capacity."""
    evidence = judge(make_memory(background(clock(8)))).evidence
    assert evidence["slope_low"] < 0 < evidence["slope_high"]  # type: ignore[operator]
    assert evidence["seconds_to_capacity"] is None


def test_the_worst_channel_is_reported() -> None:
    """Flat host memory beside a leaking device: the device is named, with the device's capacity."""
    times = clock(4)
    host, device = background(times), background(times, 2) + 10 * MB * times / MINUTE
    points = [
        replace(p, gpu_used_bytes=int(used), gpu_capacity_bytes=int(20_000 * MB))
        for p, used in zip(make_memory(host), device, strict=True)
    ]
    verdict = judge(points)
    assert (verdict.status, verdict.level) == (Status.WORSE, Level.PAGE)
    assert (verdict.evidence["channel"], verdict.evidence["capacity_bytes"]) == ("gpu_used_bytes", 20_000 * MB)


def test_of_two_leaks_the_sooner_end_is_reported() -> None:
    """Both leak at page level; the host is full first."""
    times = clock(4)
    leak = background(times) + MB * times / MINUTE
    points = [
        replace(p, gpu_used_bytes=int(used), gpu_capacity_bytes=int(9_000 * MB))
        for p, used in zip(make_memory(leak), leak, strict=True)
    ]
    assert judge(points).evidence["channel"] == "host_anon_bytes"


def test_one_step_that_carries_half_the_rise_is_refused() -> None:
    """The same 120 MB, as a ramp and as a step: one number decides."""
    ramp = make_memory(np.linspace(3000 * MB, 3240 * MB, 480))
    assert judge(ramp).status is Status.WORSE
    stepped = np.linspace(3000 * MB, 3040 * MB, 480) + 200 * MB * (np.arange(480) > 240)
    assert judge(make_memory(stepped)).status is Status.OK


@pytest.mark.parametrize(("gain_mb", "status"), [(15.0, Status.OK), (18.0, Status.WORSE)])
def test_a_rise_below_the_least_gain_is_no_leak(gain_mb: float, status: Status) -> None:
    """16 MB a window is the floor of what matters."""
    times = clock(5.5)  # the window of 4 h and what it takes to break its record, but no longer window
    used = 3000 * MB + gain_mb * MB * times / (4 * HOUR)
    assert judge(make_memory(used)).status is status


def test_windows_of_seconds_work_the_same() -> None:
    """The demonstration's window of 12 s with a warm-up of 3 s, two samples a second."""
    policy = LeakPolicy(window_s=12.0, warmup_s=3.0, min_gain_bytes=8 * MB)
    times = np.arange(0.0, 15.0, 0.5)
    leaking = make_memory(300 * MB + 4 * MB * times, step_s=0.5)
    assert judge(leaking, policy).status is Status.WORSE
    assert judge(make_memory(300 * MB + 0 * times, step_s=0.5), policy).status is Status.OK
    assert judge(leaking[:6], policy).reason is Reason.WARMING_UP


@settings(max_examples=30)
@given(st.integers(-8, 8), st.floats(0.3, 10.0), st.integers(0, 20))
def test_verdict_does_not_depend_on_the_unit_of_time(power: int, rate: float, seed: int) -> None:
    """Stretching the clock, the policy and the slope together changes no word of the verdict."""
    factor = 2.0**power  # exact in floating point, so that no sample changes its bucket
    times = clock(4)
    used = background(times, seed) + rate * MB * times / MINUTE
    plain = judge(make_memory(used))
    policy = LeakPolicy(
        horizon_s=POLICY.horizon_s * factor,
        urgent_s=POLICY.urgent_s * factor,
        warmup_s=POLICY.warmup_s * factor,
        window_s=POLICY.window_s * factor,
    )
    points = [replace(p, at=(p.at - START) * factor) for p in make_memory(used)]
    stretched = judge(points, policy)
    assert stretched.status is plain.status
    expected = plain.evidence["slope_bytes_per_hour"] / factor  # type: ignore[operator]
    assert stretched.evidence["slope_bytes_per_hour"] == pytest.approx(expected)


def test_impossible_policies_are_refused() -> None:
    """A window needs a length."""
    with pytest.raises(ValueError, match="window_s"):
        LeakPolicy(window_s=0.0)


def test_what_was_called_a_leak_is_one_until_it_stopped() -> None:
    """It goes on being said while it goes on; half a window after it stopped it is over, and may begin again."""
    times = clock(40)
    rising = np.minimum(times, 10 * HOUR) + np.maximum(times - 25 * HOUR, 0.0)
    watch, said = LeakWatch(POLICY), []
    for point in make_memory(background(times) + 2 * MB * rising / MINUTE, capacity=80_000_000_000):
        watch.take([point])
        status = watch.judge(now=point.at).status
        if not said or said[-1][1] is not status:
            said.append(((point.at - START) / HOUR, status))
    assert [status for _, status in said[-3:]] == [Status.WORSE, Status.OK, Status.WORSE]
    assert 10 < said[-2][0] < 25, "over some hours after it stopped"
    assert 25 < said[-1][0] < 30, "and found again"


def test_a_leak_that_was_given_back_is_over_soon() -> None:
    """A cache that was cleared, a trim: hours later nobody is told that it grows, and never by less than nothing."""
    times = clock(40)
    used = background(times) + MB * np.minimum(times, 20 * HOUR) / MINUTE - np.where(times > 20 * HOUR, 1000 * MB, 0.0)
    watch, worse = LeakWatch(POLICY), []
    for point in make_memory(used, capacity=80_000_000_000):
        watch.take([point])
        verdict = watch.judge(now=point.at)
        if verdict.status is Status.WORSE:
            worse.append((point.at - START) / HOUR)
            assert float(verdict.evidence["slope_bytes_per_hour"] or 0) > 0
    assert worse[0] < 4
    assert 20 < worse[-1] < 27


def test_reading_a_life_again_comes_to_the_same_verdict() -> None:
    """After a restart of the daemon. A sample that comes twice, as when a transaction is tried again, is harmless."""
    times = clock(6)
    points = make_memory(background(times) + MB * times / MINUTE)
    followed = LeakWatch(POLICY)
    for point in points:
        followed.take([point])
        followed.take([point])
    again = judge(points)
    now = points[-1].at
    assert replace(followed.judge(now=now), evidence={}) == replace(again, evidence={})
    assert followed.judge(now=now).evidence["slope_bytes_per_hour"] == again.evidence["slope_bytes_per_hour"]


def test_load_that_is_known_explains_a_days_swing() -> None:
    """300 MB that come and go with the requests: never a leak when the load is known; a leak under it is found."""
    times = clock(72)
    load = 0.55 + 0.4 * np.sin(2 * np.pi * times / (24 * HOUR))
    swing = background(times, 4) + 300 * MB * load

    def judged(used: np.ndarray) -> set[Status]:
        watch, statuses = LeakWatch(POLICY), set()
        for point, now_load in zip(make_memory(used), load, strict=True):
            watch.take([replace(point, load=float(now_load))])
            if (point.at - START) % 300 == 0:
                statuses.add(watch.judge(now=point.at).status)
        return statuses

    assert Status.WORSE not in judged(swing)
    assert Status.WORSE in judged(swing + MB * times / MINUTE)


def test_a_state_stays_small() -> None:
    """However long a life is, what is kept of it has a limit."""
    watch = LeakWatch(POLICY)
    watch.take(make_memory(background(clock(24))))
    day = len(pickle.dumps(watch._channels["host_anon_bytes"]._scales))
    watch.take([replace(p, at=p.at + 24 * HOUR) for p in make_memory(background(clock(96)))])
    assert len(pickle.dumps(watch._channels["host_anon_bytes"]._scales)) < 4 * day < 400_000


def test_a_clock_that_is_set_back_hides_no_leak() -> None:
    """The age of the process goes on, whatever the time of day says."""
    times = clock(6)
    points = make_memory(background(times) + 2 * MB * times / MINUTE)
    moved = [replace(p, uptime_s=p.at - START, at=p.at - (86400.0 if p.at > START + HOUR else 0.0)) for p in points]
    verdict = judge(moved)
    assert (verdict.status, verdict.reason) == (Status.WORSE, Reason.LEAKING)
    assert verdict.evidence["samples"] == len(points)
