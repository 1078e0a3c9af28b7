"""Quantiles of histograms that were added up, against numpy on the latencies themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.histogram import LONGEST_S, MAX_ERROR, SHORTEST_S, Histogram, add_up, histogram_of

latency = st.floats(SHORTEST_S, LONGEST_S)
hours = st.lists(st.lists(latency, max_size=40), min_size=1, max_size=6)


@given(hours=hours, q=st.floats(0.01, 1.0))
def test_quantile_is_within_the_stated_error_of_the_true_one(hours: list[list[float]], q: float) -> None:
    """Of any latencies, however they were spread over histograms."""
    merged = add_up(histogram_of(hour) for hour in hours)
    pooled = [x for hour in hours for x in hour]
    assert merged.count == len(pooled)
    if not pooled:
        assert merged.quantile_s(q) is None
        return
    rank = max(1, math.ceil(q * len(pooled) - 1e-9))
    assert merged.quantile_s(q) == pytest.approx(sorted(pooled)[rank - 1], rel=MAX_ERROR + 1e-12)


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_quantile_is_numpys_within_the_stated_error(q: float) -> None:
    """A day of latencies in 24 hours of different speed: numpy's nearest rank, and what is stored."""
    rng = np.random.default_rng(1)
    days = [rng.lognormal(-3 + hour / 24, 0.4, 600) for hour in range(24)]
    true = float(np.quantile(np.concatenate(days), q, method="inverted_cdf"))
    assert add_up(histogram_of(day) for day in days).quantile_s(q) == pytest.approx(true, rel=MAX_ERROR)
    mean_of_quantiles = float(np.mean([np.quantile(day, q) for day in days]))
    assert mean_of_quantiles != pytest.approx(true, rel=MAX_ERROR)  # which is why quantiles are not what is kept


def test_the_stated_error_is_below_one_and_a_tenth_percent() -> None:
    """A twentieth of the slowdown that is looked for."""
    assert 0.010 < MAX_ERROR < 0.011


@given(hours=hours)
def test_adding_up_is_counting_at_once(hours: list[list[float]]) -> None:
    """In any order and any grouping: nothing is lost or counted twice."""
    at_once = histogram_of(x for hour in hours for x in hour)
    one_by_one = add_up(histogram_of(hour) for hour in hours)
    assert at_once == one_by_one == add_up([add_up(map(histogram_of, hours[1:])), histogram_of(hours[0])])
    assert list(one_by_one.counts) == sorted(one_by_one.counts)


@given(latencies=st.lists(st.floats(-1, 1e300), min_size=1))
def test_whatever_is_measured_the_buckets_are_bounded(latencies: list[float]) -> None:
    """Zero, a clock that stepped back, a century: counted as the shortest or the longest there is."""
    counts = histogram_of(latencies).counts
    assert sum(counts.values()) == len(latencies)
    assert min(counts) > -640
    assert max(counts) < 540


def test_an_empty_histogram_has_no_quantile() -> None:
    """An hour in which nothing was good is not an hour of fast answers."""
    assert Histogram().quantile_s(0.95) is None
    assert add_up([]) == histogram_of([]) == Histogram()
