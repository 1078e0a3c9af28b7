"""What sweeps leave: a leak below the teeth of a cache is seen there, and a tooth is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from synthetic import START, make_memory

from baselines.leak import LeakPolicy, LeakWatch
from baselines.troughs import FEWEST, Troughs
from baselines.verdict import Status, Verdict

MB = 1e6
MINUTE, HOUR = 60.0, 3600.0
STEP_S, WIDTH_S = 30.0, 300.0


def clock(hours: float) -> np.ndarray:
    return np.arange(0.0, hours * HOUR, STEP_S)


def teeth(times: np.ndarray, minutes: float = 70.0, height: float = 300 * MB) -> np.ndarray:
    """A cache that fills and is dropped."""
    return height * (times % (minutes * MINUTE)) / (minutes * MINUTE)


def course(memory: np.ndarray, seed: int = 0) -> Iterator[tuple[float, Verdict]]:
    """The hour and the verdict of every five minutes. memory: above 3 GB."""
    watch = LeakWatch(LeakPolicy())
    noise = np.random.default_rng(seed).normal(0, 5 * MB, len(memory))
    for number, point in enumerate(make_memory(3000 * MB + noise + memory, capacity=80_000_000_000)):
        watch.take([point])
        if number % 10 == 0:
            yield (point.at - START) / HOUR, watch.judge(now=point.at)


def leaking(memory: np.ndarray, seed: int = 0) -> list[tuple[float, Verdict]]:
    return [(hour, verdict) for hour, verdict in course(memory, seed) if verdict.status is Status.WORSE]


def fed(floors: np.ndarray) -> Troughs:
    """floors: of five minutes each."""
    troughs = Troughs(WIDTH_S, min_gain=16 * MB)
    for index, floor in enumerate(floors):
        troughs.take(index, float(floor))
    return troughs


def levels_of(left: np.ndarray, *, buckets: int = 12) -> np.ndarray:
    """Floors that rise by 200 MB in so many buckets and are swept down to each of these levels in turn."""
    tooth = np.linspace(0.0, 200 * MB, buckets, endpoint=False)
    return np.concatenate([tooth, *(level + tooth for level in left), left[-1:]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("minutes", [50.0, 70.0, 110.0])
def test_a_leak_below_teeth_is_found_by_the_eighth_sweep_with_its_slope(minutes: float, seed: int) -> None:
    """Longer than any bucket of a window of eight hours; the interval holds the truth, and it is said what was seen."""
    times = clock(9 * minutes / 60)
    found = leaking(teeth(times, minutes) + MB * times / MINUTE, seed)
    assert found
    hour, verdict = found[0]
    assert FEWEST * minutes / 60 < hour < 8.5 * minutes / 60
    slope, low, high = (
        float(verdict.evidence[key] or 0) for key in ("slope_bytes_per_hour", "slope_low", "slope_high")
    )
    assert slope == pytest.approx(60 * MB, rel=0.1)
    assert low <= 60 * MB <= high
    assert FEWEST <= int(verdict.evidence["sweeps"] or 0) <= 8
    assert verdict.since is not None
    assert verdict.since - START == pytest.approx(minutes * MINUTE, abs=minutes * MINUTE + WIDTH_S)


def test_it_is_called_a_leak_all_the_time() -> None:
    """A window of floors that falls between two teeth is no end of it."""
    times = clock(48)
    verdicts = list(course(teeth(times) + MB * times / MINUTE))
    first = next(number for number, (_, verdict) in enumerate(verdicts) if verdict.status is Status.WORSE)
    assert {verdict.status for _, verdict in verdicts[first:]} == {Status.WORSE}


@pytest.mark.parametrize("minutes", [40.0, 100.0, 140.0])
def test_teeth_alone_are_no_leak(minutes: float) -> None:
    """Once it has been swept a tooth is a tooth, however straight it rises. Nobody can say so of the first one."""
    times = clock(48)
    assert not leaking(teeth(times, minutes))


def test_a_leak_that_stopped_below_teeth_is_over() -> None:
    """Some sweeps later what is left rises no more."""
    times = clock(30)
    found = leaking(teeth(times) + MB * np.minimum(times, 10 * HOUR) / MINUTE)
    assert found[0][0] < 9
    assert 10 < found[-1][0] < 20


def test_what_is_swept_no_more_is_judged_by_its_floors() -> None:
    """The cache is gone after ten hours, and something leaks from then on."""
    times = clock(20)
    late = times > 10 * HOUR
    found = leaking(np.where(late, MB * (times - 10 * HOUR) / MINUTE + 100 * MB, teeth(times)))
    assert found
    assert found[0][0] < 17
    assert "sweeps" not in found[0][1].evidence


def test_what_is_steeper_than_any_tooth_is_no_tooth() -> None:
    """A cache that is dropped once a day, and a leak in the middle of the second day: nobody waits for the evening."""
    times = clock(40)
    found = leaking(teeth(times, 24 * 60.0) + 2 * MB * np.maximum(times - 30 * HOUR, 0.0) / MINUTE)
    assert found[0][0] < 33


@pytest.mark.parametrize("peak_hour", [0.0, 3.0])
def test_a_peak_hides_no_sweep(peak_hour: float) -> None:
    """A gigabyte for five minutes, at the start or later: the sweeps are lower, and are seen all the same."""
    times = clock(12)
    at_peak = (times >= peak_hour * HOUR) & (times < peak_hour * HOUR + 5 * MINUTE)
    found = leaking(teeth(times) + MB * times / MINUTE + 1000 * MB * at_peak)
    assert found
    assert found[0][0] < 10


def test_a_slow_leak_within_the_day_of_a_cache_does_not_wait_for_the_night() -> None:
    """A cache that fills in an hour and is dropped at midnight: what rises later is not of it, however slowly."""
    times = clock(72)
    cache = 300 * MB * (1 - np.exp(-(times % (24 * HOUR)) / (0.5 * HOUR)))
    found = leaking(cache + 0.2 * MB * np.maximum(times - 49 * HOUR, 0.0) / MINUTE)
    assert found
    assert 49 < found[0][0] < 68


def test_a_level_that_was_reached_before_is_no_leak() -> None:
    """However long ago: small sweeps in one that comes once a week."""
    left = np.tile(np.arange(250) * 20 * MB, 2)[:490]
    troughs = Troughs(WIDTH_S, min_gain=16 * MB)
    leaks = []
    for index, floor in enumerate(levels_of(left)):
        if troughs.take(index, float(floor)):
            leaks.append(troughs.leak is not None)
    assert any(leaks[:250])
    assert not any(leaks[258:])


def test_a_tide_is_no_sweep() -> None:
    """What falls slowly was not swept."""
    times = np.arange(0, 400)
    assert fed(200 * MB * (1 + np.sin(times / 12))).swept_s is None


def test_noise_is_no_sweep() -> None:
    """Nor is a fall of less than what must have been gained, or of no more than the floors move by at all times."""
    rng = np.random.default_rng(1)
    assert fed(rng.normal(0, 40 * MB, 600)).leak is None
    assert fed(14 * MB * (np.arange(600) % 12) / 12).swept_s is None


def test_a_trough_is_the_lowest_of_its_sweep() -> None:
    """A request in flight hides it for a bucket or two; what comes later is the next tooth."""
    rising = np.arange(12) * 20 * MB
    troughs = fed(np.concatenate([rising, [60 * MB, 40 * MB, 60 * MB, 80 * MB, 100 * MB]]))
    assert troughs.swept_s == 13 * WIDTH_S


def test_it_is_not_asked_before_there_are_enough() -> None:
    """Four sweeps that left ever more are chance."""
    steps = np.arange(1.0, 10.0) * 60 * MB
    assert fed(levels_of(steps[: FEWEST - 1])).leak is None
    assert fed(levels_of(steps[: FEWEST - 1])).since(0.0) is None
    leak = fed(levels_of(steps[:FEWEST])).leak
    assert leak is not None
    assert (leak.sweeps, leak.gain, leak.begun_s) == (FEWEST, pytest.approx(240 * MB), 12 * WIDTH_S)
    assert leak.slope.estimate == pytest.approx(60 * MB / (12 * WIDTH_S))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(lambda n: 500 * MB * (1 - np.exp(-n / 3)), id="a warm-up"),
        pytest.param(lambda n: 400 * MB * (n > 8), id="a shift"),
        pytest.param(lambda n: 100 * MB * (n // 6), id="steps"),
        pytest.param(lambda n: 0.0 * n, id="nothing"),
    ],
)
@pytest.mark.parametrize("seed", range(10))
def test_what_sweeps_leave_may_settle(shape: object, seed: int) -> None:
    """None of them goes on."""
    left = shape(np.arange(1.0, 25.0))  # type: ignore[operator]
    noise = np.random.default_rng(seed).normal(0, 5 * MB, len(left))
    assert not any(fed(levels_of((left + noise)[:count])).leak for count in range(FEWEST, len(left)))


def test_a_logarithm_is_hardly_ever_called_a_leak() -> None:
    """Among the noise of few sweeps it looks like a line now and then; here of 40."""
    rng = np.random.default_rng(3)
    called = 0
    for _ in range(40):
        left = 80 * MB * np.log1p(np.arange(1.0, 25.0)) + rng.normal(0, 5 * MB, 24)
        called += any(fed(levels_of(left[:count])).leak for count in range(FEWEST, len(left)))
    assert called <= 6


def test_levels_that_wander_are_hardly_ever_called_a_leak() -> None:
    """A random walk is the worst that is harmless: one in thirty of 60 sweeps each, by simulation; here of 100."""
    rng = np.random.default_rng(2)
    called = 0
    for _ in range(100):
        troughs = Troughs(WIDTH_S, min_gain=16 * MB)
        found = []
        for index, floor in enumerate(levels_of(np.cumsum(rng.normal(0, 20 * MB, 60)))):
            if troughs.take(index, float(floor)):
                found.append(troughs.leak is not None)
        assert len(found) >= 50, "its sweeps are seen"
        called += any(found)
    assert called <= 8
