"""Order statistics and slopes with the interval each can honestly claim.

A quantile here is the smallest sample that has at least a share q of the samples at or below it (numpy's
`inverted_cdf`, nearest rank): always a latency that was measured, and "p95 is above x" means exactly "more than 5 % of
the samples are above x". No function accepts NaN.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Groups = tuple[tuple[float, ...], ...]

RESAMPLES = (
    400  # puts the 2.5 % quantile of a bootstrap on its 10th value; the interval moves by a few per cent of itself
)
_SEED_NEW, _SEED_OLD = 1, 2  # fixed, so that the same samples always give the same verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A quotient of two quantiles. low, high: 95 % interval; None when there are too few bursts to tell."""

    estimate: float
    low: float | None
    high: float | None

    def lies_above(self, limit: float) -> bool:
        """Whether the whole interval is at or above the limit; never without an interval."""
        return self.low is not None and self.low >= limit

    def lies_below(self, limit: float) -> bool:
        """Whether the whole interval is below the limit; never without an interval."""
        return self.high is not None and self.high < limit

    def stretched(self, by: float) -> Ratio:
        """The same with an interval whose ends are so many times as far from the estimate, in logs."""
        if self.low is None or self.high is None:
            return self
        low, high = (self.estimate * (end / self.estimate) ** by for end in (self.low, self.high))
        return Ratio(estimate=self.estimate, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """A rise per unit of time with its 95 % interval; low = -inf or high = inf when the points cannot bound it."""

    estimate: float
    low: float
    high: float


def quantile(values: Sequence[float] | Floats, q: float) -> float:
    """The nearest-rank quantile, 0 < q <= 1. Raises ValueError when there are no values."""
    if len(values) == 0:
        raise ValueError("a quantile needs at least one value")
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[_rank(len(ordered), q) - 1])


def _rank(count: int, q: float) -> int:
    return max(1, math.ceil(q * count - 1e-9))  # 1e-9: q * count may land a rounding error above a whole number


@lru_cache(maxsize=256)  # a pure function asked again and again for the same few counts
def quantile_ranks(count: int, q: float, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """1-based ranks of the order statistics that bound the q-quantile from below and from above.

    Each bound alone holds with `confidence` for independent samples of any distribution: the number of samples below
    the quantile is Binomial(count, q). None: no sample is extreme enough (p95 has no upper bound at 95 % before 59).
    """
    at_most = np.minimum(np.cumsum(_binomial(count, q)), 1.0)  # at_most[k] = P(B <= k)
    doubt = 1.0 - confidence + 1e-12
    low = int(np.count_nonzero(at_most <= doubt))  # largest rank r with P(B <= r - 1) <= 1 - confidence
    high = int(np.count_nonzero(at_most < 1.0 - doubt)) + 1  # smallest rank r with P(B <= r - 1) >= confidence
    return (low or None), (high if high <= count else None)


def _binomial(count: int, q: float) -> Floats:
    """P(B = k) for k = 0..count."""
    k = np.arange(1, count + 1)
    steps = np.log((count - k + 1) / k) + math.log(q) - math.log1p(-q)
    result: Floats = np.exp(count * math.log1p(-q) + np.concatenate(([0.0], np.cumsum(steps))))
    return result


def quantile_bounds(
    values: Sequence[float] | Floats, q: float, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    """The samples at `quantile_ranks`. Independence is assumed: within bursts the truth is somewhat wider."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    low, high = quantile_ranks(len(ordered), q, confidence)
    return (
        None if low is None else float(ordered[low - 1]),
        None if high is None else float(ordered[high - 1]),
    )


def quantile_ratio(new: Groups, old: Groups, q: float) -> Ratio:
    """Pooled q-quantile of the new bursts over that of the old ones, with a cluster-bootstrap interval.

    Whole bursts are drawn, since samples of one burst share its moment. Deviations are in logs and widened by
    sqrt(k / (k - 1)) for k bursts. Simulated coverage for 5 bursts of 10 against 30: 92 to 96 %, Pareto tail and slow
    wander included. Values must be positive. low and high are None when either side has fewer than two bursts.
    """
    estimate = quantile(_pool(new), q) / quantile(_pool(old), q)
    if min(len(new), len(old)) < 2:
        return Ratio(estimate=estimate, low=None, high=None)
    return _bounded(estimate, _ratio_deviations(new, old, q))


def quantile_ratio_over(canary: tuple[Groups, Groups], control: tuple[Groups, Groups], q: float) -> Ratio:
    """`quantile_ratio` of a canary over that of its control, bounded alike; each is (new, old).

    Where both have as many bursts they are drawn together, so that what moves both in a burst cancels.
    """
    own, other = quantile_ratio(*canary, q), quantile_ratio(*control, q)
    estimate = own.estimate / other.estimate
    if own.low is None or other.low is None:
        return Ratio(estimate=estimate, low=None, high=None)
    return _bounded(estimate, _ratio_deviations(*canary, q) - _ratio_deviations(*control, q))


def _ratio_deviations(new: Groups, old: Groups, q: float) -> Floats:
    deviations: Floats = _deviations(new, q, _SEED_NEW) - _remembered_deviations(old, q, _SEED_OLD)
    return deviations


def _bounded(estimate: float, deviations: Floats) -> Ratio:
    ordered = np.sort(deviations)
    low, high = (float(ordered[_rank(RESAMPLES, share) - 1]) for share in (0.025, 0.975))
    return Ratio(estimate=estimate, low=estimate * math.exp(low), high=estimate * math.exp(high))


def _pool(groups: Groups) -> Floats:
    return np.array([value for group in groups for value in group], dtype=np.float64)


def _deviations(groups: Groups, q: float, seed: int) -> Floats:
    """log(resampled quantile / quantile) for each resample of whole groups, which may differ in size."""
    values = _pool(groups)
    order = np.argsort(values, kind="stable")
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[order]
    drawn = _draws(len(groups), seed).take(owner, axis=0)
    weights = np.cumsum(drawn, axis=0, dtype=np.int32)  # samples drawn up to each value, in order
    rank = np.count_nonzero(weights < np.ceil(q * weights[-1] - 1e-9).astype(np.int32), axis=0)
    logs = np.log(values[order])
    widen = math.sqrt(len(groups) / (len(groups) - 1))
    result: Floats = (logs[rank] - logs[_rank(len(values), q) - 1]) * widen
    return result


_remembered_deviations = lru_cache(maxsize=16)(_deviations)  # the old side is a baseline, the same at every judgement


@lru_cache(maxsize=64)
def _draws(groups: int, seed: int) -> npt.NDArray[np.int32]:
    """How often each group is drawn, shape (groups, RESAMPLES).

    By the standard library: numpy.random would take 7 MB in a daemon that needs it for this alone.
    """
    chosen = random.Random(seed).choices(range(groups), k=groups * RESAMPLES)  # noqa: S311 -- no secret
    drawn = np.array(chosen).reshape(groups, RESAMPLES)
    counted = [np.bincount(column, minlength=groups) for column in drawn.T]  # a column is one resample
    return np.ascontiguousarray(np.transpose(counted), dtype=np.int32)


def sen_slope(times: Floats, values: Floats, *, min_inflation: float = 1.0) -> Slope:
    """Theil-Sen slope with Sen's rank interval, its variance inflated for autocorrelated residuals.

    The slope is the median over all pairs; up to 29 % of the points may be arbitrary. Var S = c n(n-1)(2n+5)/18 with
    c = (1 + phi)/(1 - phi), phi the small-sample-corrected lag-1 autocorrelation of the residuals in [0, 0.9], and
    c >= min_inflation (Sen 1968; Hamed and Rao 1998 for the inflation). Times ascend and differ; at least 2 points.
    """
    count = len(times)
    first, second = np.triu_indices(count, 1)
    slopes = np.sort((values[second] - values[first]) / (times[second] - times[first]))
    estimate = float(np.median(slopes))
    swell = max(min_inflation, inflation(values - estimate * times))
    spread = 1.959964 * math.sqrt(swell * count * (count - 1) * (2 * count + 5) / 18)
    rank = math.floor((len(slopes) - spread) / 2)
    if rank < 0:
        return Slope(estimate=estimate, low=-math.inf, high=math.inf)
    return Slope(estimate=estimate, low=float(slopes[rank]), high=float(slopes[-1 - rank]))


def inflation(residuals: Floats) -> float:
    """Of a trend's variance, by residuals that hang together: see `sen_slope`. 1 for up to 4 of them."""
    count = len(residuals)
    if count <= 4:
        return 1.0
    phi = min(max(lag_one(residuals), 0.0), 0.9)
    return (1 + phi) / (1 - phi)


def lag_one(values: Floats) -> float:
    """The correlation of neighbours, corrected for a small sample; 0 for up to 4 values and for equal ones."""
    count = len(values)
    centred = values - values.mean()
    power = float(centred @ centred)
    if count <= 4 or power == 0.0:
        return 0.0
    return (count * float(centred[1:] @ centred[:-1]) / power + 1) / (count - 4)
