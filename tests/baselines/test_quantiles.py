"""Order statistics, slopes and their intervals, against scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic import steady

from baselines.quantiles import quantile, quantile_bounds, quantile_ranks, quantile_ratio, sen_slope

positive = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=80)


@given(positive, st.floats(0.01, 1.0))
def test_quantile_is_numpys_nearest_rank(values: list[float], q: float) -> None:
    """The quantile is a value of the sample, and the one numpy calls inverted_cdf."""
    expected = np.quantile(values, q, method="inverted_cdf")
    assert quantile(values, q) == expected or quantile(values, q - 1e-9) == expected


@pytest.mark.parametrize("count", [20, 40, 60, 100, 300, 1000])
def test_p95_above_x_means_more_than_five_percent_above_x(count: int) -> None:
    """At sizes where 0.95 n is whole, exactly 5 % of the samples lie above p95, rounding errors notwithstanding."""
    values = np.arange(count, dtype=float)
    assert np.mean(values > quantile(values, 0.95)) == pytest.approx(0.05)


def test_rounding_does_not_move_a_whole_rank() -> None:
    """0.07 x 100 is 7.000000000000001 to a computer; the 7 % quantile of 1..100 is 7 all the same."""
    assert quantile(list(range(1, 101)), 0.07) == 7


def test_no_values_have_no_quantile() -> None:
    """An empty sample is refused instead of answered with a number."""
    with pytest.raises(ValueError, match="at least one"):
        quantile([], 0.95)


@pytest.mark.parametrize(("count", "ranks"), [(300, (277, 293)), (600, (559, 581)), (1200, (1125, 1155))])
def test_ranks_that_bound_p95(count: int, ranks: tuple[int, int]) -> None:
    """The two-sided 95 % ranks of p95 (97.5 % a side) are the published ones."""
    assert quantile_ranks(count, 0.95, 0.975) == ranks


@pytest.mark.parametrize(("count", "exists"), [(1, False), (58, False), (59, True), (60, True)])
def test_p95_has_no_upper_bound_below_59_samples(count: int, exists: bool) -> None:
    """0.95^58 is still above 5 %: no sample is surely above p95, and None says so."""
    assert (quantile_ranks(count, 0.95)[1] is not None) is exists


@given(st.integers(1, 400), st.sampled_from([0.05, 0.1, 0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.9, 0.95, 0.975]))
def test_ranks_are_the_tightest_that_the_binomial_allows(count: int, q: float, confidence: float) -> None:
    """Each rank keeps its promise, and its inner neighbour would break it."""
    low, high = quantile_ranks(count, q, confidence)
    below = stats.binom(count, q).cdf
    if low is not None:
        assert below(low - 1) <= 1 - confidence + 1e-9
    assert below(low or 0) > 1 - confidence - 1e-9
    if high is not None:
        assert below(high - 1) >= confidence - 1e-9
    assert below((high or count + 1) - 2) < confidence + 1e-9


def test_quantile_bounds_hold_as_often_as_promised() -> None:
    """Over 2000 Pareto samples each bound of p95 misses the true value in at most 5 % of cases, and not much less."""
    rng = np.random.default_rng(3)
    truth = stats.pareto(2.5).ppf(0.95)
    bounds = [quantile_bounds(row, 0.95) for row in stats.pareto(2.5).rvs((2000, 100), random_state=rng)]
    too_high = np.mean([low > truth for low, _ in bounds if low is not None])
    too_low = np.mean([high < truth for _, high in bounds if high is not None])
    assert 0.01 < too_high < 0.06
    assert 0.005 < too_low < 0.06


def groups_of(latencies: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, latencies.tolist()))


def test_ratio_interval_covers_the_true_ratio() -> None:
    """Five bursts that are 1.3 times slower than thirty: the interval holds 1.3 in at least 88 of 100 runs."""
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(100):
        ratio = quantile_ratio(groups_of(1.3 * steady(rng, 5, sd=0.12)), groups_of(steady(rng, 30, sd=0.12)), 0.95)
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= 1.3 <= ratio.high
    assert 88 <= held <= 100


def test_ratio_interval_is_wider_when_whole_bursts_differ() -> None:
    """Spread between bursts counts, though the pooled samples look the same: that is what the clusters are for."""
    rng = np.random.default_rng(5)
    together = np.sort(steady(rng, 1, 300, sd=0.12).reshape(30, 10), axis=None)
    bursty, mixed = groups_of(together.reshape(30, 10)), groups_of(together.reshape(10, 30).T)
    wide, narrow = (quantile_ratio(new, mixed, 0.95) for new in (bursty, mixed))
    assert np.log(wide.high / wide.low) > 1.5 * np.log(narrow.high / narrow.low)  # type: ignore[operator]


def test_ratio_of_one_burst_has_no_interval() -> None:
    """A single burst says nothing about how bursts vary."""
    one, many = groups_of(np.full((1, 10), 2.0)), groups_of(np.full((5, 10), 1.0))
    ratio = quantile_ratio(one, many, 0.95)
    assert (ratio.estimate, ratio.low, ratio.high) == (2.0, None, None)


@given(st.floats(0.01, 100.0), st.integers(0, 50))
def test_ratio_does_not_depend_on_the_unit(factor: float, seed: int) -> None:
    """Seconds or milliseconds: estimate and interval are the same."""
    rng = np.random.default_rng(seed)
    new, old = steady(rng, 6), steady(rng, 8, 7)
    plain = quantile_ratio(groups_of(new), groups_of(old), 0.95)
    scaled = quantile_ratio(groups_of(new * factor), groups_of(old * factor), 0.95)
    assert scaled.estimate == pytest.approx(plain.estimate)
    assert (scaled.low, scaled.high) == pytest.approx((plain.low, plain.high))


@pytest.mark.parametrize("count", [4, 12, 24, 60])
def test_sen_slope_is_scipys_when_residuals_alternate(count: int) -> None:
    """Without autocorrelation the slope and its interval are those of scipy.stats.theilslopes, to a rank."""
    times = np.arange(count, dtype=float)
    values = 2 * times + np.where(np.arange(count) % 2, 1.0, -1.0) + np.random.default_rng(6).normal(0, 0.1, count)
    ours, theirs = sen_slope(times, values), stats.theilslopes(values, times, 0.95)
    slopes = np.sort([(values[j] - values[i]) / (j - i) for i in range(count) for j in range(i + 1, count)])
    assert ours.estimate == pytest.approx(theirs.slope)
    if np.isfinite(ours.low):
        assert abs(np.searchsorted(slopes, ours.low) - np.searchsorted(slopes, theirs.low_slope)) <= 2
        assert abs(np.searchsorted(slopes, ours.high) - np.searchsorted(slopes, theirs.high_slope)) <= 2


def test_sen_slope_ignores_a_quarter_of_wild_points() -> None:
    """A median over pairs: 6 of 24 points at a million leave the slope near 3."""
    times = np.arange(24.0)
    values = 3 * times
    values[::4] = 1e6
    assert sen_slope(times, values).estimate == pytest.approx(3, abs=1.5)


def test_autocorrelation_widens_the_slope_interval() -> None:
    """A wandering series has fewer independent values than points, so its slope is less sure."""
    rng = np.random.default_rng(7)
    times = np.arange(40.0)
    wandering = np.cumsum(rng.normal(0, 1, 40))
    shuffled = rng.permutation(wandering)
    wide, narrow = sen_slope(times, wandering), sen_slope(times, shuffled)
    assert wide.high - wide.low > narrow.high - narrow.low


def test_too_few_points_leave_the_slope_unbounded() -> None:
    """Three points cannot bound a slope at 95 %: infinite, never a made-up number."""
    slope = sen_slope(np.arange(3.0), np.array([1.0, 2.0, 4.0]))
    assert (slope.low, slope.high) == (-np.inf, np.inf)
