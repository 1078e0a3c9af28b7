"""Is a new baseline slower than the active one? Three answers; "undecided" says what would decide it.

Where both have a control, "slower" does not stand on a machine that is slower, nor is "not slower" earned by a machine
that got faster: see `machine`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from baselines.baseline import Baseline
from baselines.machine import Machine, compare_machines, excuses, flatters
from baselines.quantiles import Ratio, quantile_ratio

MIN_COMPARED_BURSTS = 5  # a bootstrap over fewer bursts claims more than it knows
MAX_MORE_BURSTS = 1000  # beyond it "take more bursts" is no advice


class Answer(StrEnum):
    NOT_SLOWER = "not_slower"
    SLOWER = "slower"
    UNDECIDED = "undecided"


class CompareReason(StrEnum):
    """Why the answer is what it is."""

    P95_ABOVE = "p95_above"
    MEDIAN_ABOVE = "median_above"
    BELOW_THRESHOLD = "below_threshold"
    INTERVAL_TOO_WIDE = "interval_too_wide"
    TOO_FEW_BURSTS = "too_few_bursts"
    IDENTITY_CHANGED = "identity_changed"
    MACHINE_SLOWER = "machine_slower"
    MACHINE_FASTER = "machine_faster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Is the new baseline slower than the active one?

    p95, median: new over active; None when the two must not be compared.
    more_bursts: about how many more bursts would decide it; None unless undecided for want of bursts, or when more
    would not help (the ratio sits on the threshold, or it is the active baseline that says too little).
    machine: None without enough controls on both sides.
    """

    answer: Answer
    reason: CompareReason
    p95: Ratio | None
    median: Ratio | None
    more_bursts: int | None = None
    machine: Machine | None = None


def same_identity(new: Baseline, active: Baseline) -> bool:
    """May these two be compared? Target, canary, input, shapes, dtype and GPU type agree; unknown equals unknown."""
    return (new.target, new.canary, new.identity) == (active.target, active.canary, active.identity)


def compare(new: Baseline, active: Baseline, *, threshold: float, stretch: float = 1.0) -> Comparison:
    """Three answers, from 95 % intervals of the ratios of p95 and of the median (cluster bootstrap over bursts).

    Slower: an interval lies wholly at or above 1 + threshold. Not slower: both lie wholly below it. Else undecided, as
    is what the machine excuses or flatters.

    stretch: of the intervals, for an answer that must be surer (`looks.early_stretch`): it then holds without too.
    """
    if not same_identity(new, active):
        return Comparison(answer=Answer.UNDECIDED, reason=CompareReason.IDENTITY_CHANGED, p95=None, median=None)
    machine = compare_machines(new, active, min_bursts=MIN_COMPARED_BURSTS, stretch=stretch)
    p95, median = (quantile_ratio(new.bursts, active.bursts, q).stretched(stretch) for q in (0.95, 0.5))
    fewest = min(len(new.bursts), len(active.bursts))
    more = None
    if fewest < MIN_COMPARED_BURSTS:
        answer, reason = Answer.UNDECIDED, CompareReason.TOO_FEW_BURSTS
        more = max(0, MIN_COMPARED_BURSTS - len(new.bursts)) or None
    else:
        answer, reason = _answer(p95, median, machine, threshold)
    if reason is CompareReason.INTERVAL_TOO_WIDE:
        more = _more_bursts((p95, median), 1 + threshold, len(new.bursts), len(active.bursts))
    return Comparison(answer=answer, reason=reason, p95=p95, median=median, more_bursts=more, machine=machine)


def _answer(p95: Ratio, median: Ratio, machine: Machine | None, threshold: float) -> tuple[Answer, CompareReason]:
    limit = 1 + threshold
    p95_excused = machine is not None and excuses(machine, machine.p95, threshold)
    median_excused = machine is not None and excuses(machine, machine.median, threshold)
    if p95.lies_above(limit) and not p95_excused:
        return Answer.SLOWER, CompareReason.P95_ABOVE
    if median.lies_above(limit) and not median_excused:
        return Answer.SLOWER, CompareReason.MEDIAN_ABOVE
    if (p95_excused and not p95.lies_below(limit)) or (median_excused and not median.lies_below(limit)):
        return Answer.UNDECIDED, CompareReason.MACHINE_SLOWER
    if not (p95.lies_below(limit) and median.lies_below(limit)):
        return Answer.UNDECIDED, CompareReason.INTERVAL_TOO_WIDE
    if machine is not None and (
        flatters(machine, machine.p95, p95, threshold) or flatters(machine, machine.median, median, threshold)
    ):
        return Answer.UNDECIDED, CompareReason.MACHINE_FASTER
    return Answer.NOT_SLOWER, CompareReason.BELOW_THRESHOLD


def _more_bursts(ratios: Sequence[Ratio], limit: float, new: int, active: int) -> int | None:
    """Bursts to add to the new ones until no interval spans the limit; None: never, or too many.

    The square of an interval's width is the sum of two parts, each as one over the number of bursts of its side.
    """
    most = new + 1
    for ratio in ratios:
        if ratio.low is None or ratio.high is None or ratio.lies_below(limit):
            continue
        distance = abs(math.log(ratio.estimate / limit))
        edge = ratio.high if ratio.estimate < limit else ratio.low
        half_width = abs(math.log(edge / ratio.estimate))
        allowed = (1 / new + 1 / active) * (distance / half_width) ** 2 - 1 / active  # one over the bursts needed
        if allowed * (new + MAX_MORE_BURSTS) <= 1:
            return None
        most = max(most, math.ceil(1 / allowed - 1e-6))
    return most - new
