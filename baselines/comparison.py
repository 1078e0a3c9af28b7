"""Is a new baseline slower than the active one? Three answers; "undecided" says what would decide it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from baselines.baseline import Baseline
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Is the new baseline slower than the active one?

    p95, median: new over active; None when the two must not be compared.
    more_bursts: about how many more bursts would decide it; None unless undecided for want of bursts, or when more
    would not help (the ratio sits on the threshold).
    """

    answer: Answer
    reason: CompareReason
    p95: Ratio | None
    median: Ratio | None
    more_bursts: int | None = None


def same_identity(new: Baseline, active: Baseline) -> bool:
    """May these two be compared? Target, canary, input, shapes, dtype and GPU type agree; unknown equals unknown."""
    return (new.target, new.canary, new.identity) == (active.target, active.canary, active.identity)


def compare(new: Baseline, active: Baseline, *, threshold: float) -> Comparison:
    """Three answers, from 95 % intervals of the ratios of p95 and of the median (cluster bootstrap over bursts).

    Slower: an interval lies wholly at or above 1 + threshold. Not slower: both lie wholly below it. Else undecided.
    """
    if not same_identity(new, active):
        return Comparison(answer=Answer.UNDECIDED, reason=CompareReason.IDENTITY_CHANGED, p95=None, median=None)
    p95, median = (quantile_ratio(new.bursts, active.bursts, q) for q in (0.95, 0.5))
    fewest = min(len(new.bursts), len(active.bursts))
    if fewest < MIN_COMPARED_BURSTS or None in (p95.low, p95.high, median.low, median.high):
        answer, reason, more = Answer.UNDECIDED, CompareReason.TOO_FEW_BURSTS, MIN_COMPARED_BURSTS - len(new.bursts)
        return Comparison(answer=answer, reason=reason, p95=p95, median=median, more_bursts=more if more > 0 else None)
    limit = 1.0 + threshold
    if _at_least(p95, limit):
        return Comparison(answer=Answer.SLOWER, reason=CompareReason.P95_ABOVE, p95=p95, median=median)
    if _at_least(median, limit):
        return Comparison(answer=Answer.SLOWER, reason=CompareReason.MEDIAN_ABOVE, p95=p95, median=median)
    open_questions = [ratio for ratio in (p95, median) if ratio.high is not None and ratio.high >= limit]
    if not open_questions:
        return Comparison(answer=Answer.NOT_SLOWER, reason=CompareReason.BELOW_THRESHOLD, p95=p95, median=median)
    needed = [_more_bursts(ratio, limit, len(new.bursts)) for ratio in open_questions]
    return Comparison(
        answer=Answer.UNDECIDED,
        reason=CompareReason.INTERVAL_TOO_WIDE,
        p95=p95,
        median=median,
        more_bursts=None if None in needed else max(n for n in needed if n is not None),
    )


def _at_least(ratio: Ratio, limit: float) -> bool:
    return ratio.low is not None and ratio.low >= limit


def _more_bursts(ratio: Ratio, limit: float, bursts: int) -> int | None:
    """Bursts to add until the interval, which shrinks with the root of their number, no longer spans the limit."""
    assert ratio.low is not None
    assert ratio.high is not None
    distance = abs(math.log(ratio.estimate / limit))
    edge = ratio.high if ratio.estimate < limit else ratio.low
    half_width = abs(math.log(edge / ratio.estimate))
    if half_width >= distance * math.sqrt(1 + MAX_MORE_BURSTS / bursts):
        return None
    return max(1, math.ceil(bursts * ((half_width / distance) ** 2 - 1)))
