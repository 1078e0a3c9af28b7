"""The benchmark of leaks, in small: its series are what their names say, and its tally counts what it should."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.leak import OURS, PAGE, Tally, run_one
from benchmarks.leak_rules import RULES
from benchmarks.leak_series import HARMLESS, LEAKS, LIMIT_MB, TIMES, make


@pytest.mark.parametrize("name", [*HARMLESS, *LEAKS])
def test_series_is_made_from_its_seed(name: str) -> None:
    """The same again with the same seed, another with another; a leak has its rate and its onset."""
    case, again, other = make(name, 1), make(name, 1), make(name, 2)
    assert np.array_equal(case.memory_mb, again.memory_mb)
    assert not np.array_equal(case.memory_mb, other.memory_mb)
    assert len(case.memory_mb) == len(case.load) == len(TIMES)
    assert (case.onset_min is not None) == (case.rate > 0) == (name in LEAKS)


def test_leak_is_found_and_harmless_growth_is_not() -> None:
    """One run of each; a leak of 50 MB a minute ends when the memory is full."""
    outcomes = [run_one((name, 1, 1.0)) for name in ("flat", "50 flat")]
    tally = Tally(outcomes)
    assert set(outcomes[0].alarms) > {OURS, PAGE, *RULES}
    assert tally.false_alarms(["flat"], OURS) == 0.0
    assert tally.false_alarms(["flat"], "> 10 MB/h") == 1.0
    (delay_h,), early = tally.delays_h("50 flat", OURS)
    assert 0.4 < delay_h < 0.7
    assert early == 0
    assert outcomes[1].end_min == pytest.approx((LIMIT_MB - 3000) / 50, rel=0.05)
    ratios, held = tally.slopes("50 flat")
    assert ratios == [pytest.approx(1.0, rel=0.1)]
    assert held == 1.0
