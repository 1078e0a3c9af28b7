"""May a new baseline replace the active one? Asked of the whole, and of what there is of it while it is being taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from baselines.baseline import Baseline
from baselines.comparison import Answer, CompareReason, Comparison, compare, same_identity
from baselines.looks import early_stretch
from baselines.machine import Machine
from baselines.quantiles import Ratio
from probes.expectation import Expectation, check_output
from probes.messages import Outcome


class Result(StrEnum):
    """What came of it. The value is the word in `--json`."""

    PROMOTED = "promoted"
    ACCEPTED = "accepted"  # promoted although slower or different, because a person said so
    SLOWER = "slower"
    OUTPUT_DIFFERS = "output_differs"
    UNDECIDED = "undecided"
    NOT_READY = "not_ready"

    @property
    def refused(self) -> bool:
        return self in (Result.SLOWER, Result.OUTPUT_DIFFERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """detail: one line for a person. comparison: None when there was nothing to compare with."""

    result: Result
    detail: str
    comparison: Comparison | None = None


@dataclass(slots=True, kw_only=True)
class DeployGate:
    """What a new baseline is held against. looks: how often that was done before it was whole."""

    active: Baseline | None
    expectation: Expectation
    threshold: float
    looks: int = field(default=0, init=False)

    def look(self, so_far: Baseline) -> Decision:
        """What may be said for sure of a baseline that is still growing: anything but UNDECIDED stays the answer."""
        self.looks += 1
        bursts = min(len(b.bursts) for b in (so_far, self.active or so_far))
        return self.decide(so_far, stretch=early_stretch(bursts))

    def decide(self, new: Baseline, *, stretch: float = 1.0) -> Decision:
        """Whether a new baseline may replace the active one. stretch: see `compare`."""
        if self.active is None:
            return Decision(result=Result.PROMOTED, detail="the first baseline of this canary")
        if not same_identity(new, self.active):
            detail = "the canary's input or device changed: nothing to compare with"
            return Decision(result=Result.PROMOTED, detail=detail)
        if new.golden is not None and self.active.golden is not None:
            outcome, why = check_output(new.golden, self.expectation, self.active.golden)
            if outcome is not Outcome.GOOD:
                detail = f"the answer differs from baseline {self.active.id}: {why}"
                return Decision(result=Result.OUTPUT_DIFFERS, detail=detail)
        comparison = compare(new, self.active, threshold=self.threshold, stretch=stretch)
        result = {
            Answer.SLOWER: Result.SLOWER,
            Answer.NOT_SLOWER: Result.PROMOTED,
            Answer.UNDECIDED: Result.UNDECIDED,
        }[comparison.answer]
        detail = describe(comparison, f"baseline {self.active.id}", self.threshold)
        return Decision(result=result, detail=detail, comparison=comparison)


def describe(comparison: Comparison, name: str, threshold: float) -> str:
    """One line of what was compared with the baseline of this name, and what follows from it."""
    by_median = comparison.reason is CompareReason.MEDIAN_ABOVE
    ratio = comparison.median if by_median else comparison.p95
    if ratio is None:
        return "not comparable"
    text = f"{'median' if by_median else 'p95'} is {_times(ratio)} {name}"
    if ratio.low is not None and ratio.high is not None:
        text += f" (95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
    if comparison.answer is Answer.SLOWER:
        return f"{text}: slower by at least the allowed {threshold:.0%}"
    if comparison.answer is Answer.NOT_SLOWER:
        return text
    if comparison.machine is not None and comparison.reason in _MACHINE:
        return f"{text}: {_of_machine(comparison.machine, comparison.reason)}"
    more = f"; about {comparison.more_bursts} more bursts would decide" if comparison.more_bursts else ""
    return f"{text}: {comparison.reason.replace('_', ' ')}{more}"


_MACHINE = (CompareReason.MACHINE_SLOWER, CompareReason.MACHINE_FASTER)


def _of_machine(machine: Machine, reason: CompareReason) -> str:
    slower = reason is CompareReason.MACHINE_SLOWER
    moved = (max if slower else min)(machine.p95, machine.median, key=lambda ratio: ratio.estimate)
    hides = "" if slower else f", which may hide a slower model (floor {_times(machine.own_floor)} its control's)"
    return (
        f"the machine is {'slower' if slower else 'faster'} than at the last baseline (control"
        f" {moved.estimate - 1:+.0%}){hides}; take it again when the machine is as it was, or --accept"
    )


def _times(ratio: Ratio) -> str:
    return f"{ratio.estimate:.2f} x"
