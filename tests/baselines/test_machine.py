"""What a control has to say when a new baseline is compared: a machine that changed excuses, and earns, nothing."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import make_baseline, steady

from baselines.baseline import Baseline
from baselines.comparison import Answer, CompareReason, compare
from baselines.looks import early_stretch

BURSTS = 30


def measured(seed: int, *, canary: float = 1.0, control: float = 1.0, bursts: int = BURSTS) -> Baseline:
    """A canary of 50 ms beside a control of 10 ms, each so many times slower."""
    rng = np.random.default_rng(seed)
    own, other = steady(rng, bursts, sd=0.05), steady(rng, bursts, sd=0.08, typical=0.01)
    return make_baseline(canary * own, controls=control * other)


def contended(seed: int, *, canary: float = 1.0) -> Baseline:
    """Most requests wait for others, those of the long canary longer; one in four for nobody."""
    rng = np.random.default_rng(seed)
    own, other = steady(rng, BURSTS, sd=0.05), steady(rng, BURSTS, sd=0.08, typical=0.01)
    own *= np.where(rng.random(own.shape) < 0.75, 1 + rng.exponential(0.8, own.shape), 1.0)
    other *= np.where(rng.random(other.shape) < 0.6, 1 + rng.exponential(0.4, other.shape), 1.0)
    return make_baseline(canary * own, controls=other)


def tail(seed: int) -> Baseline:
    """One request in eight of the canary takes twice as long; the control is as it was."""
    rng = np.random.default_rng(seed)
    own = steady(rng, BURSTS, sd=0.05)
    own *= np.where(rng.random(own.shape) < 0.125, 2.0, 1.0)
    return make_baseline(own, controls=steady(rng, BURSTS, sd=0.08, typical=0.01))


@pytest.mark.parametrize(
    ("new", "answer", "reason"),
    [
        pytest.param(measured(2), Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD, id="all as it was"),
        pytest.param(measured(2, canary=1.4), Answer.SLOWER, CompareReason.P95_ABOVE, id="the model"),
        pytest.param(
            measured(2, canary=1.4, control=1.4), Answer.UNDECIDED, CompareReason.MACHINE_SLOWER, id="the machine"
        ),
        pytest.param(
            measured(2, canary=1.2, control=1.2), Answer.UNDECIDED, CompareReason.MACHINE_SLOWER, id="by a little"
        ),
        pytest.param(measured(2, canary=1.9, control=1.4), Answer.SLOWER, CompareReason.P95_ABOVE, id="both"),
        pytest.param(measured(2, control=1.4), Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD, id="only the control"),
        pytest.param(contended(2), Answer.UNDECIDED, CompareReason.MACHINE_SLOWER, id="contention"),
        pytest.param(contended(2, canary=1.4), Answer.SLOWER, CompareReason.P95_ABOVE, id="contention and the model"),
        pytest.param(tail(2), Answer.SLOWER, CompareReason.P95_ABOVE, id="the model's slowest requests"),
        pytest.param(
            measured(2, canary=0.7, control=0.7), Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD, id="a faster one"
        ),
        pytest.param(
            measured(2, canary=0.95, control=0.7), Answer.UNDECIDED, CompareReason.MACHINE_FASTER, id="which hides it"
        ),
        pytest.param(measured(2, canary=0.7), Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD, id="a faster model"),
    ],
)
def test_comparison_with_a_control(new: Baseline, answer: Answer, reason: CompareReason) -> None:
    """Slower is slower beside the control; not slower is not earned by a machine."""
    result = compare(new, measured(1), threshold=0.2)
    assert (result.answer, result.reason) == (answer, reason)
    assert result.machine is not None


def test_contention_that_ends_is_no_faster_machine() -> None:
    """A baseline of a busy hour does not bar the way for one of a quiet hour."""
    result = compare(measured(2), contended(1), threshold=0.2)
    assert (result.answer, result.reason) == (Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD)


def test_moves_are_told() -> None:
    """The ratios of the control and of the floors, each within its interval."""
    machine = compare(measured(2, canary=1.5, control=1.25), measured(1), threshold=0.2).machine
    assert machine is not None
    for ratio, truth in ((machine.p95, 1.25), (machine.median, 1.25), (machine.own_floor, 1.2)):
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.low < truth < ratio.high
        assert ratio.estimate == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize(
    ("new", "active"),
    [
        pytest.param(
            measured(2, canary=1.4, control=1.4), make_baseline(steady(np.random.default_rng(1), 30)), id="old"
        ),
        pytest.param(make_baseline(1.4 * steady(np.random.default_rng(2), 30)), measured(1), id="new"),
    ],
)
def test_control_on_one_side_says_nothing(new: Baseline, active: Baseline) -> None:
    """As without any: the canary alone is compared."""
    result = compare(new, active, threshold=0.2)
    assert (result.answer, result.machine) == (Answer.SLOWER, None)


@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize(("canary", "control"), [(1.6, 1.0), (2.2, 1.4), (0.7, 0.7), (1.4, 1.4)])
def test_what_is_said_early_holds_later(seed: int, canary: float, control: float) -> None:
    """An answer that holds with stretched intervals holds with the intervals as they are."""
    new, active = measured(seed, canary=canary, control=control, bursts=9), measured(1)
    early = compare(new, active, threshold=0.2, stretch=early_stretch(9))
    if early.answer is not Answer.UNDECIDED:
        assert compare(new, active, threshold=0.2).answer is early.answer
    if canary > 1.4:
        assert early.answer is Answer.SLOWER
