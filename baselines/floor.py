"""The lower envelope of a canary's latency: what a request takes when nothing is in its way.

Contention stretches the top of a burst and leaves its fastest request alone; slower code lifts that too. So on a busy
machine the floor tells what the location drowns in noise, and the floor of the canary over that of its control tells
whether the model or the machine got slower. Measured on a contended host of two cores: docs/detection.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from baselines.quantiles import Floats, lag_one, quantile

QUANTILE = 0.2  # of the bursts' minima; a burst in five must have had one request that did not wait
DEPTH = 0.7  # of a burst's requests: so many must be left of it, when some failed or the burst was made smaller
MAX_TOGETHER = 0.6
MAX_PAIRED = 0.9  # what few bursts may say of a correlation


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """How far a floor rose, as a natural logarithm, and its standard error."""

    rise: float
    error: float

    @property
    def ratio(self) -> float:
        return math.exp(self.rise)

    def z(self, *, wander: float) -> float:
        """In standard deviations, where a rise of `wander` is no change."""
        return self.rise / math.hypot(self.error, wander)

    def over(self, control: Lift, *, paired: float) -> Lift:
        """What is left when the control's rise is taken off. paired: the correlation of the two errors, from 0."""
        shared = 2 * paired * self.error * control.error
        error = math.sqrt(self.error**2 + control.error**2 - shared)
        return Lift(rise=self.rise - control.rise, error=error)


UNSEEN = Lift(rise=0.0, error=math.inf)


def floor_of(bursts: Sequence[Sequence[float]]) -> float:
    """The 20 % quantile of the bursts' fastest requests, in the unit given; at least one burst, none empty."""
    return quantile([min(burst) for burst in bursts], QUANTILE)


def depth_of(bursts: Sequence[Sequence[float]]) -> int:
    """Of how many requests the minimum is taken, so that bursts of different sizes have comparable ones."""
    return max(1, int(DEPTH * min(map(len, bursts))))


def lowest(latencies: Sequence[float], depth: int) -> float | None:
    """The logarithm of the minimum of `depth` of the requests, as expected over all choices; None with fewer.

    The k-th smallest of n is the minimum of C(n - k, depth - 1) of the C(n, depth) choices.
    """
    count = len(latencies)
    if count < depth:
        return None
    return float(_weights(count, depth) @ np.log(np.sort(latencies)[: count - depth + 1]))


@lru_cache(maxsize=64)
def _weights(count: int, depth: int) -> Floats:
    choices = [math.comb(count - k, depth - 1) for k in range(1, count - depth + 2)]
    return np.array(choices, dtype=np.float64) / math.comb(count, depth)


class Floor:
    """The floor of a baseline. bursts: in seconds, one non-empty tuple per burst, at least one."""

    def __init__(self, bursts: Sequence[Sequence[float]]) -> None:
        self.depth = depth_of(bursts)
        self.lows = [lowest(burst, self.depth) for burst in bursts]  # one per burst; None: too few requests
        self._usual = np.array([low for low in self.lows if low is not None])
        self._level = _low(self._usual)
        self._own_error = error_of(self._usual, len(self._usual))
        self._errors: dict[int, float] = {}

    def lift(self, lows: Sequence[float]) -> Lift:
        """Of the bursts whose `lowest` these are, at least one.

        The error is the larger one of what the baseline and the bursts themselves let expect, for either may be
        quieter than the other; and the baseline's own.
        """
        count = len(lows)
        if count not in self._errors:
            self._errors[count] = error_of(self._usual, count)
        now = np.asarray(lows, dtype=np.float64)
        error = max(self._errors[count], error_of(now, count))
        return Lift(rise=_low(now) - self._level, error=math.hypot(error, self._own_error))

    def expected_error(self, count: int) -> float:
        """Of the floor of so many bursts, if they are as the baseline's."""
        return math.hypot(error_of(self._usual, count), self._own_error)


def _low(lows: Floats) -> float:
    ordered = np.sort(lows)
    return float(ordered[max(1, math.ceil(QUANTILE * len(ordered) - 1e-9)) - 1])


def error_of(lows: Floats, count: int) -> float:
    """The standard deviation of the floor of `count` bursts that are drawn from these.

    The bootstrap's answer for independent draws, exactly: the r-th smallest of m draws is at most the k-th of n values
    with the chance that a Binomial(m, k / n) is r or more. Bursts that resemble their neighbours count for fewer.
    """
    total = len(lows)
    phi = min(max(lag_one(lows), 0.0), MAX_TOGETHER)
    draws = max(1, round(count * (1 - phi) / (1 + phi)))
    chances = np.diff(_reached(total, draws))
    ordered = np.sort(lows)
    mean = float(chances @ ordered)
    return math.sqrt(max(float(chances @ (ordered - mean) ** 2), 0.0))


def paired(lows: Sequence[float | None], others: Sequence[float | None]) -> float:
    """The correlation of the errors of two floors of the same bursts, from 0 to MAX_PAIRED; 0 where none is known.

    A sample quantile is off by what the share of values below the true one is off (Bahadur 1966), so two of them are
    correlated as "lies at or below its floor" and the same of the other one are, burst by burst (Babu and Rao 1988).
    """
    both = [(low, other) for low, other in zip(lows, others, strict=True) if low is not None and other is not None]
    if not both:
        return 0.0
    ours, theirs = np.array(both).T
    below, below_too = ours <= _low(ours), theirs <= _low(theirs)
    share, share_too = float(below.mean()), float(below_too.mean())
    spread = math.sqrt(share * (1 - share) * share_too * (1 - share_too))
    if spread == 0:
        return 0.0
    together = float((below & below_too).mean()) - share * share_too
    return min(max(together / spread, 0.0), MAX_PAIRED)


@lru_cache(maxsize=512)
def _reached(total: int, draws: int) -> Floats:
    """The chance that the floor of so many draws is at most the k-th of `total` values, for k = 0 to total."""
    rank = max(1, math.ceil(QUANTILE * draws - 1e-9))
    hits = np.arange(rank, draws + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, draws + 1)))))
    choices = log_factorial[draws] - log_factorial[hits] - log_factorial[draws - hits]
    reached = np.zeros(total + 1)
    reached[total] = 1.0
    for k in range(1, total):
        share = k / total
        reached[k] = np.exp(choices + hits * math.log(share) + (draws - hits) * math.log1p(-share)).sum()
    return reached
