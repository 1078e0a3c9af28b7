"""The floor against brute force and against a bootstrap, and what lifts it."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import steady

from baselines.floor import (
    DEPTH,
    MAX_PAIRED,
    QUANTILE,
    Floor,
    Lift,
    depth_of,
    error_of,
    floor_of,
    lowest,
    paired,
)
from baselines.quantiles import quantile

LATENCY = st.floats(1e-3, 10.0)


@settings(max_examples=60)
@given(st.lists(LATENCY, min_size=1, max_size=9), st.integers(1, 9))
def test_lowest_is_the_mean_minimum_of_all_choices(latencies: list[float], depth: int) -> None:
    """Over every subset of that many requests; None with fewer of them."""
    found = lowest(latencies, depth)
    if depth > len(latencies):
        assert found is None
    else:
        minima = [math.log(min(chosen)) for chosen in combinations(latencies, depth)]
        assert found == pytest.approx(sum(minima) / len(minima), abs=1e-9)


def test_lowest_does_not_depend_on_the_size_of_the_burst() -> None:
    """On average: the minimum itself falls with more requests, and this does not."""
    rng = np.random.default_rng(0)
    small, large = ([lowest(row.tolist(), 7) for row in steady(rng, 3000, size, sd=0.2)] for size in (7, 40))
    assert np.mean(small) == pytest.approx(np.mean(large), abs=0.01)  # type: ignore[arg-type]
    assert np.std(large) < 0.7 * np.std(small)  # type: ignore[arg-type]


@pytest.mark.parametrize(("sizes", "depth"), [([10, 10], 7), ([10, 3], 2), ([1, 10], 1), ([40], 28)])
def test_depth_is_what_the_smallest_burst_spares(sizes: list[int], depth: int) -> None:
    """Seven tenths of it, one at least."""
    assert depth_of([(1.0,) * size for size in sizes]) == depth == max(1, int(DEPTH * min(sizes)))


def test_floor_is_a_low_quantile_of_the_minima() -> None:
    """The smallest that a fifth of the bursts reach."""
    bursts = [(float(i), 99.0) for i in range(1, 11)]
    assert floor_of(bursts) == 2.0
    assert floor_of([(5.0, 4.0)]) == 4.0


@pytest.mark.parametrize("count", [1, 2, 5, 10, 60])
@pytest.mark.parametrize("total", [1, 2, 7, 30])
def test_error_is_the_bootstraps(count: int, total: int) -> None:
    """Independent values drawn with replacement, their floor taken, twenty thousand times: the same deviation."""
    rng = np.random.default_rng(1)
    lows = rng.gamma(2.0, 0.1, total)
    while _resemblance(lows) > 0:
        lows = rng.permutation(lows)
    drawn = rng.choice(lows, size=(20000, count))
    floors = np.array([quantile(row, QUANTILE) for row in drawn])
    assert error_of(lows, count) == pytest.approx(float(floors.std()), rel=0.03, abs=1e-4)


def _resemblance(values: np.ndarray) -> float:
    """The sum that a correlation of neighbours has above its line, and its correction for few."""
    if len(values) <= 4:
        return 0.0
    off = values - values.mean()
    return float(len(values) * (off[1:] @ off[:-1]) / (off @ off) + 1)


def test_neighbours_that_resemble_each_other_count_for_fewer() -> None:
    """In the order of a slow wander the same values are less certain than in a random one."""
    wander = np.cumsum(np.random.default_rng(2).normal(0, 0.05, 60))
    assert error_of(wander, 30) > 1.3 * error_of(np.random.default_rng(3).permutation(wander), 30)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.integers(1, 240))
def test_an_error_is_a_number(lows: list[float], count: int) -> None:
    """Not below 0, at most half the range; 0 for equal values."""
    error = error_of(np.array(lows), count)
    assert 0 <= error <= (max(lows) - min(lows)) / 2 + 1e-9
    assert error_of(np.full(len(lows), 0.3), count) == pytest.approx(0.0, abs=1e-7)


def test_a_lift_is_the_ratio_of_floors() -> None:
    """Of bursts whose every request takes 1.3 times as long, with its error."""
    rows = steady(np.random.default_rng(4), 60)
    floor = Floor([tuple(row) for row in rows.tolist()])
    lows = [lowest(row, floor.depth) for row in (rows * 1.3).tolist()]
    lift = floor.lift([low for low in lows if low is not None])
    assert lift.ratio == pytest.approx(1.3)
    assert 0 < lift.error < 0.02
    assert lift.z(wander=0.03) == pytest.approx(math.log(1.3) / math.hypot(lift.error, 0.03))
    assert floor.expected_error(60) == pytest.approx(lift.error)


def test_contention_lifts_no_floor() -> None:
    """Nine requests in ten take up to three times as long; the one that did not wait is where it was."""
    rng = np.random.default_rng(5)
    rows = steady(rng, 90)
    floor = Floor([tuple(row) for row in rows[:60].tolist()])
    stretch = rng.uniform(1.0, 3.0, (30, 10))
    stretch[:, :3] = 1.0
    lows = [lowest(row, floor.depth) for row in (rows[60:] * stretch).tolist()]
    assert floor.lift([low for low in lows if low is not None]).ratio == pytest.approx(1.0, abs=0.06)


def test_the_error_is_the_larger_of_what_was_and_what_is() -> None:
    """A quiet baseline makes no busy hour certain, nor does a quiet hour a busy baseline."""
    rng = np.random.default_rng(6)
    quiet, busy = rng.normal(0, 0.01, 40), rng.normal(0, 0.2, 40)
    errors = {
        name: Floor([(math.exp(low),) for low in baseline]).lift(now.tolist()).error
        for name, baseline, now in [
            ("quiet", quiet, quiet),
            ("became busy", quiet, busy),
            ("became quiet", busy, quiet),
        ]
    }
    assert errors["quiet"] < 0.01 < min(errors["became busy"], errors["became quiet"])


@pytest.mark.parametrize(("together", "error"), [(0.0, 0.05), (0.5, math.sqrt(0.0013)), (0.9, math.sqrt(0.00034))])
def test_over_takes_the_controls_rise_off(together: float, error: float) -> None:
    """And of its error, what the two do not share."""
    left = Lift(rise=0.3, error=0.03).over(Lift(rise=0.1, error=0.04), paired=together)
    assert (left.rise, left.error) == (pytest.approx(0.2), pytest.approx(error))


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.8])
def test_floors_of_the_same_bursts_err_together(shared: float) -> None:
    """As much as a bootstrap that draws canary and control of a burst together says."""
    rng = np.random.default_rng(9)
    both, lows, others = rng.normal(size=(3, 2000))
    lows, others = (math.sqrt(shared) * both + math.sqrt(1 - shared) * own for own in (lows, others))
    drawn = rng.integers(0, 2000, size=(4000, 100))
    floors = [np.sort(each[drawn], axis=1)[:, 19] for each in (lows, others)]
    told = paired(lows.tolist(), others.tolist())
    assert told == pytest.approx(float(np.corrcoef(*floors)[0, 1]), abs=0.06)


def test_what_is_not_known_of_a_pair_says_nothing() -> None:
    """Only bursts with both count; none, or equal ones, are not correlated; more than MAX_PAIRED never is."""
    lows = np.random.default_rng(10).normal(size=60).tolist()
    assert paired(lows, lows) == MAX_PAIRED
    assert paired([None, *lows], [0.0, *lows]) == MAX_PAIRED
    assert paired(lows, [-low for low in lows]) == 0.0
    assert paired(lows, [None] * 60) == paired([], []) == paired([0.1] * 60, lows) == 0.0


def test_a_lift_without_any_error_still_wanders() -> None:
    """Equal latencies: as many deviations as the wander allows, and not infinitely many."""
    floor = Floor([(0.05, 0.05)] * 3)
    lift = floor.lift([math.log(0.06)])
    assert lift.error == 0
    assert lift.z(wander=0.03) == pytest.approx(math.log(1.2) / 0.03)
