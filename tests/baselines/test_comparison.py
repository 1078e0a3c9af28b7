"""Is a new baseline slower? Three answers, and what would decide an open one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import IDENTITY, make_baseline, steady

from baselines.baseline import Baseline
from baselines.comparison import Answer, CompareReason, _more_bursts, compare, same_identity
from baselines.quantiles import Ratio


def baseline_of(ratio: float, *, bursts: int = 30, sd: float = 0.04, seed: int = 0) -> Baseline:
    return make_baseline(ratio * steady(np.random.default_rng(seed), bursts, sd=sd))


def slow_tail(share: float) -> Baseline:
    """The usual latencies, of which this share took twice as long."""
    rows = steady(np.random.default_rng(3), 30)
    return make_baseline(np.where(np.random.default_rng(4).random(rows.shape) < share, 2 * rows, rows))


@pytest.mark.parametrize(
    ("new", "answer", "reason"),
    [
        pytest.param(baseline_of(1.0, seed=1), Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD, id="the same"),
        pytest.param(baseline_of(0.5, seed=1), Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD, id="twice as fast"),
        pytest.param(baseline_of(1.3, seed=1), Answer.SLOWER, CompareReason.P95_ABOVE, id="30 % slower"),
        pytest.param(slow_tail(0.15), Answer.SLOWER, CompareReason.P95_ABOVE, id="only the tail is slower"),
        pytest.param(baseline_of(1.2, seed=1), Answer.UNDECIDED, CompareReason.INTERVAL_TOO_WIDE, id="on the line"),
        pytest.param(baseline_of(1.0, bursts=4, seed=1), Answer.UNDECIDED, CompareReason.TOO_FEW_BURSTS, id="4 bursts"),
    ],
)
def test_compare(new: Baseline, answer: Answer, reason: CompareReason) -> None:
    """Sure answers need the whole interval on one side of 1.2; everything else is undecided."""
    result = compare(new, baseline_of(1.0), threshold=0.2)
    assert (result.answer, result.reason) == (answer, reason)


def test_a_slower_median_under_a_wild_tail_is_slower() -> None:
    """p95 that cannot be told apart does not hide that the typical request got slower."""
    rng = np.random.default_rng(7)
    rows = steady(rng, 30)
    wild = np.where(rng.random(rows.shape) < 0.05, rows * rng.lognormal(1.5, 1.0, rows.shape), rows)
    slower = np.where(wild == rows, 1.4 * rows, wild)
    result = compare(make_baseline(slower), make_baseline(wild), threshold=0.2)
    assert (result.answer, result.reason) == (Answer.SLOWER, CompareReason.MEDIAN_ABOVE)


def test_other_identity_is_never_compared() -> None:
    """Another GPU is another baseline: no ratio is even computed."""
    other = replace(baseline_of(1.0), identity=replace(IDENTITY, gpu_type="H200"))
    result = compare(other, baseline_of(1.0), threshold=0.2)
    assert (result.answer, result.reason, result.p95) == (Answer.UNDECIDED, CompareReason.IDENTITY_CHANGED, None)
    assert not same_identity(other, baseline_of(1.0))
    assert same_identity(baseline_of(1.0), baseline_of(2.0))


@pytest.mark.parametrize("seed", [12, 13, 14, 16])
def test_undecided_is_decided_by_more_bursts(seed: int) -> None:
    """Six noisy bursts at +5 % decide nothing and ask for a few dozen more; 200 say rightly that it is not slower."""
    active = baseline_of(1.0, bursts=200, sd=0.3)
    first = compare(baseline_of(1.05, bursts=6, sd=0.3, seed=seed), active, threshold=0.2)
    assert (first.answer, first.reason) == (Answer.UNDECIDED, CompareReason.INTERVAL_TOO_WIDE)
    assert first.more_bursts is not None
    assert 1 <= first.more_bursts <= 200
    more = baseline_of(1.05, bursts=206, sd=0.3, seed=seed)
    assert compare(more, active, threshold=0.2).answer is Answer.NOT_SLOWER


def test_the_advice_is_the_root_of_n_rule() -> None:
    """A half-width twice the distance to the threshold asks for three times as many bursts on top.

    So it is beside an active baseline that knows all; beside one of as many bursts not even endlessly many would do.
    """
    ratio = Ratio(estimate=1.2 / 1.1, low=1.2 / 1.1 / 1.21, high=1.2 / 1.1 * 1.21)
    assert _more_bursts([ratio], 1.2, 10, 10**12) == 30
    assert _more_bursts([ratio], 1.2, 10, 10) is None
    assert _more_bursts([replace(ratio, estimate=1.1999)], 1.2, 10, 10**12) is None
    assert _more_bursts([ratio, Ratio(estimate=1.0, low=0.9, high=1.1)], 1.2, 10, 40) == 150


@settings(max_examples=30)
@given(st.floats(0.6, 2.0), st.floats(0.01, 100.0))
def test_answer_does_not_depend_on_the_unit(ratio: float, factor: float) -> None:
    """Milliseconds or seconds, the answer is the same."""
    new, active = baseline_of(ratio, seed=1), baseline_of(1.0)
    rescaled = [replace(b, bursts=tuple(tuple(x * factor for x in row) for row in b.bursts)) for b in (new, active)]
    assert compare(*rescaled, threshold=0.2).answer is compare(new, active, threshold=0.2).answer


@settings(max_examples=30)
@given(st.floats(0.5, 3.0), st.floats(1.001, 2.0))
def test_slower_stays_slower_when_it_gets_worse(ratio: float, worse: float) -> None:
    """Order: not slower, undecided, slower. A slower candidate never moves towards not slower."""
    order = [Answer.NOT_SLOWER, Answer.UNDECIDED, Answer.SLOWER]
    active = baseline_of(1.0)
    answers = [compare(baseline_of(r, seed=1), active, threshold=0.2).answer for r in (ratio, ratio * worse)]
    assert order.index(answers[0]) <= order.index(answers[1])
