"""What is normal: figures of a baseline against known truths, and what a few bad bursts may not do to them."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import NOISE, noise, steady

from baselines.noise import (
    LEVEL_SPAN,
    MAX_SPREAD,
    MIN_RATE,
    MIN_SD,
    Noise,
    count_slow,
    levels,
    location,
    noise_of,
    side_by_side,
)


def noise_in(bursts: np.ndarray, threshold: float = 0.2) -> Noise:
    return noise_of(tuple(map(tuple, bursts.tolist())), threshold=threshold)


def sd_of(found: Noise) -> float:
    return math.sqrt(float(found.variance(found.size)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 3.0], 2.0),
        ([1.0, 2.0, 9.0], 1.5),
        ([1.0, 2.0, 3.0, 4.0, 99.0], 2.5),
        ([0.0, *range(1, 8), 99.0, 99.0], 4.0),
        ([0.0, 0.0, *range(1, 15), 99.0, 99.0, 99.0, 99.0], 7.5),
    ],
    ids=["one", "two", "three", "five", "ten", "twenty"],
)
def test_location_is_a_mean_without_the_fastest_tenth_and_the_slowest_fifth(
    values: list[float], expected: float
) -> None:
    """Whatever the order; of a small burst what a tenth or a fifth of it comes to."""
    shuffled = np.random.default_rng(0).permutation(np.array(values, dtype=np.float64))
    assert float(location(shuffled)) == pytest.approx(expected)
    assert location(np.stack([shuffled, shuffled + 1])).tolist() == pytest.approx([expected, expected + 1])


def test_variance_is_split_into_what_more_requests_lower_and_what_they_do_not() -> None:
    """Bursts that differ by 8 % and requests by 20 %: found within a third of it, over many baselines."""
    rng = np.random.default_rng(1)
    within, total = [], []
    for _ in range(20):
        found = noise_in(0.05 * np.exp(rng.normal(0, 0.08, (60, 1)) + rng.normal(0, 0.2, (60, 10))))
        within.append(float(found.within))
        total.append(float(found.variance(10)))
        assert float(found.variance(40)) == pytest.approx(float(found.between) + float(found.within) / 4)
    of_ten = np.var(location(rng.normal(0, 0.2, (20000, 10))))
    assert np.median(within) == pytest.approx(of_ten, rel=0.33)
    assert np.median(total) == pytest.approx(of_ten + 0.08**2, rel=0.4)


def test_no_host_is_trusted_to_be_quieter_than_a_percent() -> None:
    """Equal latencies: a deviation above 1 %, and more with few bursts, that tell little."""
    many, few = (sd_of(noise_in(np.full((bursts, 10), 0.05))) for bursts in (200, 3))
    assert MIN_SD <= many < few < 0.05


def test_neighbours_that_resemble_each_other_count_for_more() -> None:
    """The same bursts in a random order are more certain than in the order in which they wander."""
    steps = np.cumsum(np.random.default_rng(2).normal(0, 0.03, 60))
    rows = 0.05 * np.exp(np.tile(steps[:, None], (1, 10)))
    shuffled = np.random.default_rng(3).permutation(rows)
    assert sd_of(noise_in(rows)) > 1.3 * sd_of(noise_in(shuffled))


@pytest.mark.parametrize("factor", [3.0, 30.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_bad_bursts_make_no_detector_blind(factor: float, count: int) -> None:
    """Up to one in twenty: center, deviation, p95 and lines stay about what they are without it."""
    rows = steady(np.random.default_rng(4), 60)
    plain = noise_in(rows)
    rows[10 : 10 + count] *= factor
    spoilt = noise_in(rows)
    assert float(spoilt.center) == pytest.approx(float(plain.center), abs=0.01)
    assert sd_of(spoilt) < 1.5 * sd_of(plain)
    for name in ("p95", "tail_line", "shape_line"):
        assert getattr(spoilt, name) == pytest.approx(getattr(plain, name), abs=0.02), name
    for name in ("tail_rate", "shape_rate"):
        assert getattr(spoilt, name) < 2 * getattr(plain, name), name


def test_lines_and_rates_are_of_the_slow_requests() -> None:
    """One request in twenty-five at 1.4 times the others: above a line at 1.15 times the p95, at that rate about."""
    rows = np.full((100, 10), 0.05)
    rows[::5, 0], rows[1::5, 0] = 0.07, 0.07
    found = noise_in(rows)
    assert math.exp(float(found.p95)) == pytest.approx(0.05)
    assert 0.05 < math.exp(float(found.tail_line)) < 0.07
    assert 0.04 < float(found.tail_rate) < 0.055
    assert float(found.tail_spread) == 1.0
    rows = np.full((100, 10), 0.05)
    rows[::10, :4] = 0.07
    assert 1.5 < float(noise_in(rows).tail_spread) <= MAX_SPREAD  # they come together, but 2 of a burst count at most


def test_a_rate_is_never_zero() -> None:
    """None seen among many is no promise."""
    found = noise_in(np.full((1000, 10), 0.05))
    assert (found.tail_rate, found.shape_rate) == (MIN_RATE, MIN_RATE)
    assert noise_in(np.full((3, 10), 0.05)).tail_rate > 5 * MIN_RATE


@pytest.mark.parametrize(("size", "most"), [(1, 1), (5, 2), (10, 2), (11, 3), (40, 8)])
def test_a_stalled_burst_is_one_event(size: int, most: int) -> None:
    """Of all its requests above the line a fifth count, two at least."""
    assert float(count_slow(np.ones(size), 0.0)) == most
    assert float(count_slow(np.ones(size), 1.0)) == 0


def test_levels_are_medians_of_the_last_seven() -> None:
    """Before there are seven the first stands in for those that are missing."""
    values = np.random.default_rng(5).normal(size=30)
    padded = [values[0]] * (LEVEL_SPAN - 1) + values.tolist()
    assert levels(values).tolist() == [float(np.median(padded[i : i + LEVEL_SPAN])) for i in range(30)]


@settings(max_examples=30)
@given(st.sampled_from(sorted(NOISE)), st.integers(1, 12), st.integers(1, 12), st.floats(1e-4, 1e4), st.integers(0, 99))
def test_every_figure_is_finite_and_moves_with_the_unit(
    kind: str, bursts: int, size: int, factor: float, seed: int
) -> None:
    """Baselines of one burst of one request too: levels shift by the logarithm, spreads and rates stay."""
    rows = noise(kind, np.random.default_rng(seed), bursts, size)
    plain, scaled = noise_in(rows), noise_in(rows * factor)
    for field in fields(Noise):
        value, other = getattr(plain, field.name), getattr(scaled, field.name)
        assert math.isfinite(value)
        moved = math.log(factor) if field.name in ("center", "p95", "tail_line") else 0.0
        assert other == pytest.approx(value + moved, abs=1e-6), field.name
    assert plain.between > 0
    assert 0 <= plain.within < plain.between + plain.within
    assert 1 <= plain.tail_spread <= MAX_SPREAD


def test_bursts_of_different_sizes_are_one_baseline() -> None:
    """size is their mean."""
    found = noise_of(((0.05,), (0.05, 0.06, 0.055), (0.05, 0.052)), threshold=0.2)
    assert (found.bursts, found.size) == (3, 2.0)


def test_side_by_side_is_an_array_each() -> None:
    """With the shared figures as they are."""
    noises = [noise_in(steady(np.random.default_rng(seed), 30, sd=0.03 * (seed + 1))) for seed in range(3)]
    together = side_by_side(noises)
    assert (together.threshold, together.bursts, together.size) == (0.2, 30, 10.0)
    assert np.asarray(together.center).tolist() == [each.center for each in noises]
    assert together.variance(20).tolist() == [float(each.variance(20)) for each in noises]
