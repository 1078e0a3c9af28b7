"""The count of different things: exact at first, then close, never going back, and rising with what is really new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.leak_kind import follows_shapes
from watchdog_agent.distinct import EXACT, REGISTERS, Distinct

STANDARD_ERROR = 0.8326 / REGISTERS**0.5  # sqrt(ln 2 / registers), Ting 2014
SEED_BITS = 2**63


def counted(hashes: Iterator[int] | list[int]) -> Distinct:
    distinct = Distinct()
    for hashed in hashes:
        distinct.add(hashed)
    return distinct


def random_hashes(rng: np.random.Generator, count: int) -> list[int]:
    return [int(each) for each in rng.integers(-SEED_BITS, SEED_BITS, count, endpoint=False)]


@given(st.lists(st.integers(-SEED_BITS, SEED_BITS - 1), max_size=EXACT))
def test_the_first_are_counted_exactly(hashes: list[int]) -> None:
    """As a set does, however often and in whatever order they come."""
    assert counted(hashes + hashes[::-1]).count == len(set(hashes))


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(lambda: (((1, length),) for length in range(100_000)), id="lengths"),
        pytest.param(lambda: (((b, n), (b, n, 64)) for b, n in product(range(1, 33), range(1, 3126))), id="batches"),
        pytest.param(lambda: (((1, 3, h, w),) for h, w in product(range(250), range(400))), id="images"),
    ],
)
def test_shapes_are_counted_closely(shapes: Callable[[], Iterator[tuple[tuple[int, ...], ...]]]) -> None:
    """However regular their numbers are: within five standard errors of the 100 000 that they are."""
    assert counted(hash(shape) for shape in shapes()).count == pytest.approx(100_000, rel=5 * STANDARD_ERROR)


def test_it_never_goes_back_and_what_was_seen_adds_nothing() -> None:
    """Nor does it take more memory than at first."""
    hashes = random_hashes(np.random.default_rng(1), 20_000)
    distinct, last = Distinct(), 0
    for hashed in hashes:
        distinct.add(hashed)
        assert distinct.count >= last
        last = distinct.count
    for hashed in hashes:
        distinct.add(hashed)
    assert distinct.count == last
    assert (len(distinct._first), len(distinct._registers)) == (EXACT, REGISTERS)


@pytest.mark.parametrize("before", [0, EXACT, 10_000])
def test_a_leak_by_new_shapes_is_told_after_many_too(before: int) -> None:
    """A few new ones in each step suffice, after ten times as many as are told apart one by one."""
    rng = np.random.default_rng(2)
    new = rng.poisson(8 * (1 + np.arange(24) % 3))
    distinct = counted(random_hashes(rng, before))
    shapes = []
    for count in new:
        for hashed in random_hashes(rng, count):
            distinct.add(hashed)
        shapes.append(float(distinct.count))
    bytes_used = 5.0 * np.cumsum(new) + rng.normal(0, 2, 24)
    assert follows_shapes(bytes_used, np.array(shapes))
    assert not follows_shapes(20.0 * np.arange(24) + rng.normal(0, 2, 24), np.array(shapes))
