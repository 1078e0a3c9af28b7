"""What may replace the active baseline by itself, and what is said to a person."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import GOLDEN, IDENTITY, make_baseline

from baselines.baseline import Baseline
from probes.expectation import Expectation
from probes.messages import Output
from watchdog.deploy_gate import Decision, DeployGate, Result

EXPECTATION = Expectation(rtol=0.01)


def slower(factor: float, *, bursts: int = 30) -> Baseline:
    """A baseline whose latencies are all so many times those of the active one."""
    return make_baseline(0.05 * factor, bursts=((0.05 * factor,) * 5,) * bursts)


def with_golden(golden: Output | None) -> Baseline:
    return make_baseline(golden=golden)


def beside_control(canary: float, control: float) -> Baseline:
    """The same with a control of 10 ms, that many times slower itself."""
    return make_baseline(0.05 * canary, id=7, controls=((0.01 * control,) * 5,) * 30)


def decide(
    new: Baseline, active: Baseline | None, *, expectation: Expectation = EXPECTATION, threshold: float = 0.2
) -> Decision:
    return DeployGate(active=active, expectation=expectation, threshold=threshold).decide(new)


ACTIVE = make_baseline(id=7)
SHIFTED = replace(GOLDEN, content_hash="beef", values=(0.125, 0.25, 0.5))
NEAR = replace(GOLDEN, content_hash="beef", values=(0.125, 0.25, 0.3751))
DECISIONS: dict[str, tuple[Baseline, Baseline | None, Result, str]] = {
    "the first": (ACTIVE, None, Result.PROMOTED, "the first baseline of this canary"),
    "the same again": (
        make_baseline(),
        ACTIVE,
        Result.PROMOTED,
        "p95 is 1.00 x baseline 7 (95 % interval 1.00 to 1.00)",
    ),
    "faster": (slower(0.5), ACTIVE, Result.PROMOTED, "p95 is 0.50 x baseline 7"),
    "slower within the threshold": (slower(1.19), ACTIVE, Result.PROMOTED, "p95 is 1.19 x baseline 7"),
    "slower by the threshold": (
        slower(1.21),
        ACTIVE,
        Result.SLOWER,
        "p95 is 1.21 x baseline 7 (95 % interval 1.21 to 1.21): slower by at least the allowed 20%",
    ),
    "another answer": (
        with_golden(SHIFTED),
        ACTIVE,
        Result.OUTPUT_DIFFERS,
        "the answer differs from baseline 7: ",
    ),
    "another answer and slower": (
        replace(slower(2), golden=SHIFTED),
        ACTIVE,
        Result.OUTPUT_DIFFERS,
        "the answer differs from baseline 7: ",
    ),
    "an answer within the tolerance": (with_golden(NEAR), ACTIVE, Result.PROMOTED, "p95 is 1.00"),
    "an answer that could not be read": (with_golden(None), ACTIVE, Result.PROMOTED, "p95 is 1.00"),
    "another input": (
        make_baseline(5.0, identity=replace(IDENTITY, input_hash="other"), golden=SHIFTED),
        ACTIVE,
        Result.PROMOTED,
        "the canary's input or device changed: nothing to compare with",
    ),
    "another version": (make_baseline(provenance={"model_version": "v2"}), ACTIVE, Result.PROMOTED, "p95 is 1.00"),
    "too few bursts": (
        slower(1.0, bursts=4),
        ACTIVE,
        Result.UNDECIDED,
        "p95 is 1.00 x baseline 7 (95 % interval 1.00 to 1.00): too few bursts; about 1 more bursts would decide",
    ),
}


@pytest.mark.parametrize("case", DECISIONS, ids=str)
def test_decision(case: str) -> None:
    """What may replace the active baseline by itself, and what is said to a person."""
    new, active, expected, detail = DECISIONS[case]
    decision = decide(new, active)
    assert (decision.result, decision.detail[: len(detail)]) == (expected, detail)
    compared = expected in (Result.SLOWER, Result.UNDECIDED) or detail.startswith("p95")
    assert (decision.comparison is not None) == compared


def test_threshold_is_the_targets_own() -> None:
    """A target that allows half more is not held to 20 %."""
    assert decide(slower(1.4), ACTIVE, threshold=0.5).result is Result.PROMOTED


def test_answer_without_a_tolerance_is_not_compared() -> None:
    """Nobody said what may differ, so nothing is refused for it."""
    assert decide(with_golden(SHIFTED), ACTIVE, expectation=Expectation()).result is Result.PROMOTED


@pytest.mark.parametrize(
    ("new", "result", "detail"),
    [
        pytest.param(
            beside_control(1.3, 1.3),
            Result.UNDECIDED,
            "p95 is 1.30 x baseline 7 (95 % interval 1.30 to 1.30): the machine is slower than at the last baseline"
            " (control +30%); take it again when the machine is as it was, or --accept",
            id="the machine is slower",
        ),
        pytest.param(
            beside_control(1.0, 0.75),
            Result.UNDECIDED,
            "p95 is 1.00 x baseline 7 (95 % interval 1.00 to 1.00): the machine is faster than at the last baseline"
            " (control -25%), which may hide a slower model (floor 1.33 x its control's); take it again when the"
            " machine is as it was, or --accept",
            id="a faster machine hides a slower model",
        ),
        pytest.param(
            beside_control(1.3, 1.0),
            Result.SLOWER,
            "p95 is 1.30 x baseline 7 (95 % interval 1.30 to 1.30): slower by at least the allowed 20%",
            id="the model is slower",
        ),
    ],
)
def test_decision_with_a_control(new: Baseline, result: Result, detail: str) -> None:
    """What the machine did is said, and what to do about it."""
    decision = decide(new, beside_control(1.0, 1.0))
    assert (decision.result, decision.detail) == (result, detail)


def test_slower_median_is_told_as_such() -> None:
    """The figure that is refused is the one that is named."""
    wild = tuple((0.05,) * 9 + (0.2 if i % 3 else 3.0,) for i in range(30))
    slow = tuple((0.07,) * 9 + burst[9:] for burst in wild)
    decision = decide(make_baseline(bursts=slow), make_baseline(id=7, bursts=wild))
    assert decision.result is Result.SLOWER
    assert decision.detail.startswith("median is 1.40 x baseline 7 (")


def test_looks_are_counted_and_surer() -> None:
    """Twice 8 % noise leaves open at a look what it answers in the end."""
    bursts = tuple(tuple(0.05 * (0.8 + 0.08 * ((3 * i + 7 * j) % 6)) for j in range(5)) for i in range(6))
    gate = DeployGate(active=make_baseline(id=7, bursts=bursts), expectation=EXPECTATION, threshold=0.2)
    new = make_baseline(bursts=bursts)
    assert (gate.look(new).result, gate.decide(new).result, gate.looks) == (Result.UNDECIDED, Result.PROMOTED, 1)
