from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.canary.burst import CanaryPlan, affordable_size, hash_input, typical_control, typical_latency
from probes.messages import Outcome, Sample


def plan(*, size: int = 10, warmup: int = 0, max_busy: float = 0.01) -> CanaryPlan:
    return CanaryPlan(interval_s=60.0, timeout_s=10.0, size=size, warmup=warmup, max_busy=max_busy)


@pytest.mark.parametrize(
    ("typical_s", "warmup", "size"),
    [(0.007, 1, 10), (0.06, 0, 10), (0.06, 1, 9), (0.1, 0, 6), (0.3, 1, 1), (5.0, 1, 1), (0.0, 1, 10), (None, 1, 1)],
    ids=["fast", "just_fits", "warmup_counts", "shrinks", "small", "never_below_one", "zero", "unknown"],
)
def test_the_burst_shrinks_to_its_share_of_the_servers_time(typical_s: float | None, warmup: int, size: int) -> None:
    """1 % of 60 s is 600 ms for warm-up and samples together."""
    assert affordable_size(plan(warmup=warmup), typical_s) == size


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(1, 1000), st.integers(0, 100), st.floats(1e-6, 1))
def test_a_burst_keeps_its_bounds_for_any_latency(typical_s: float, size: int, warmup: int, max_busy: float) -> None:
    """1 <= n <= size, and either n is 1 or warm-up and samples fit."""
    chosen = affordable_size(plan(size=size, warmup=warmup, max_busy=max_busy), typical_s)
    assert 1 <= chosen <= size
    if chosen > 1:
        assert math.isfinite(typical_s)
        assert (chosen + warmup) * typical_s <= max_busy * 60.0 * (1 + 1e-6)


def test_typical_latency_is_over_good_untainted_samples() -> None:
    """Tainted ones count only where there is nothing else; without good ones nothing is known."""
    good = [Sample(at=0, outcome=Outcome.GOOD, latency_s=s) for s in (0.1, 0.2, 0.9)]
    tainted = Sample(at=0, outcome=Outcome.GOOD, latency_s=5.0, tainted=True)
    failed = Sample(at=0, outcome=Outcome.STATUS_500, latency_s=0.001)
    assert typical_latency([*good, tainted, failed]) == 0.2
    assert typical_latency([tainted, failed]) == 5.0
    assert typical_latency([failed]) is None


def test_typical_control_is_over_those_that_are_known() -> None:
    """Without any it costs nothing."""
    samples = [Sample(at=0, outcome=Outcome.GOOD, latency_s=1.0, control_s=s) for s in (0.1, 0.3, None, 0.2)]
    assert typical_control(samples) == 0.2
    assert typical_control(samples[2:3]) == 0.0


def test_an_input_hash_knows_where_its_parts_end() -> None:
    """Moving a byte from one part to the next is another input."""
    assert hash_input(b"ab", b"c") != hash_input(b"a", b"bc")
    assert hash_input(b"ab", b"c") == hash_input(b"ab", b"c")
    assert len(hash_input()) == 16
