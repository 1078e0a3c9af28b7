"""What is left each time a cache or a heap is swept: a leak below teeth that are longer than a bucket.

The floor of a bucket sees below a tooth only when the bucket is longer, and 24 of those take a day where a tooth takes
an hour. What is left right after a sweep says as much from the fifth sweep on, as the heap after a full collection does
to those who look for leaks in a JVM.

The test supposes the worst that is harmless, a level that wanders from sweep to sweep and comes back to nothing: then
the rates from trough to trough are independent, of mean 0 and of a spread that nobody knows, so that their mean over
its error follows Student's t. A level that stays, and is only seen with some noise, is called rising less often still.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from baselines.growth import LATE_SHARE, LOOKBACK, WINDOW, is_straight
from baselines.quantiles import Floats, Slope

BEFORE = 3  # buckets whose median a sweep falls from, at once: a tide takes longer, and a peak is shorter
SETTLE_BUCKETS = 2  # a trough may still be found lower for so long: requests in flight hide it
FALL_SHARE = 0.5  # of the rise since the last trough; less is no sweep
FALL_CHANGES = 4.0  # times what the floor usually moves by from one bucket to the next
MIN_CHANGES = 4  # floors before it is known how much they usually move by
STILL_RISING = 2.0  # a mean of the newest rates, over its error, that is no chance where a leak was seen already
LONGEST = 2 * WINDOW  # buckets, four hours: what lies within a longer tooth is told by its floors
BEYOND = 2.0  # times the longest, the highest or the steepest tooth of late: what goes on until then is no tooth

_STUDENT = {
    5: (15.4, 3.18),
    6: (9.8, 2.78),
    7: (7.7, 2.57),
    8: (6.6, 2.45),
    9: (5.9, 2.36),
    10: (5.5, 2.31),
    12: (4.9, 2.23),
    16: (4.4, 2.14),
    24: (4.0, 2.07),
}
"""By the number of troughs: Student's t that is exceeded once in 3,333 times, and the two ends of 95 % of it."""
FEWEST = min(_STUDENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rising:
    """Troughs that rise. slope: bytes per second; gain: bytes from the first to the last; sweeps: how many there were;
    begun_s: age at the first."""

    slope: Slope
    gain: float
    sweeps: int
    begun_s: float


@dataclass(slots=True, kw_only=True)
class _Trough:
    """found, at: index of the bucket that it was found in, and that it was lowest in; level: how low then; top: what it
    fell from; both in bytes."""

    found: int
    at: int
    level: float
    top: float


class Troughs:
    """Finds them in the floors of buckets of one width, freed of the load, and says whether they rise.

    min_gain: bytes that a sweep falls by at least, and by which they must have risen. leak: as it was last shown, while
    they rise; None before, and once they do no more.
    """

    def __init__(self, width_s: float, *, min_gain: float) -> None:
        self._width_s, self._min_gain = width_s, min_gain
        self._floors: deque[float] = deque(maxlen=WINDOW)
        self._first = self._newest = 0  # indices of buckets
        self._since = 0  # buckets after the last trough was found
        self._top = self._record = -math.inf  # of what stood for some buckets since then, and of all troughs
        self._open: _Trough | None = None  # it may yet be found lower
        self._found: deque[_Trough] = deque(maxlen=LOOKBACK)
        self._until = self._below = self._steepest = 0.0  # index, floor and bytes per bucket that no tooth goes beyond
        self._goes_on = False
        self.leak: Rising | None = None

    def take(self, index: int, floor: float) -> bool:
        """The next bucket; whether it completed a trough."""
        if not self._floors:
            self._first = index
        completed = self._settle(index, floor)
        if self._open is None and (top := self._falls_from(floor)) is not None:
            self._open, self._top, self._since = _Trough(found=index, at=index, level=floor, top=top), floor, 0
        self._floors.append(floor)
        self._since += 1
        if self._since > MIN_CHANGES:  # what a start-up needs for a moment is no tooth
            self._top = max(self._top, self._stood())
        self._newest = index
        return completed

    @property
    def is_rising(self) -> bool:
        """Whether they rose of late."""
        return self._goes_on and self._is_swept

    @property
    def swept_s(self) -> float | None:
        """Age at the newest one; None where it has never been swept, or is no more."""
        return self._found[-1].at * self._width_s if self._is_swept else None

    def is_tooth(self, begun_s: float, slope: float) -> bool:
        """Whether a rise by so many bytes a second, which began at that age, is of the tooth that is not swept yet."""
        swept_s = self.swept_s
        return swept_s is not None and begun_s >= swept_s and slope * self._width_s <= self._steepest

    def since(self, age_s: float) -> Slope | None:
        """How they have risen since that age; None with fewer than it takes to tell, or where it is swept no more."""
        recent = [trough for trough in self._found if trough.at * self._width_s >= age_s]
        if len(recent) < FEWEST or not self._is_swept:
            return None
        return self._slope(_table(recent)[-_most(len(recent)) :])

    @property
    def _is_swept(self) -> bool:
        return bool(self._found) and self._newest <= self._until and self._stood() <= self._below

    def _settle(self, index: int, floor: float) -> bool:
        if self._open is None:
            return False
        if floor < self._open.level:
            self._open.at, self._open.level, self._top = index, floor, floor
        elif index - self._open.found > SETTLE_BUCKETS:
            self._found.append(self._open)
            self._open = None
            self._examine()
            return True
        return False

    def _falls_from(self, floor: float) -> float | None:
        """What a sweep down to this floor fell from; None where there was none."""
        if len(self._floors) < MIN_CHANGES:
            return None
        floors, top = np.array(self._floors), self._stood()
        usual = float(np.median(np.abs(np.diff(floors))))
        base = self._found[-1].level if self._found else float(floors.min())
        least = max(self._min_gain, FALL_CHANGES * usual, FALL_SHARE * (self._top - base))
        return top if top - floor >= least else None

    def _stood(self) -> float:
        """How high the last floors were; a peak of a single one does not count."""
        return float(np.median([self._floors[-back] for back in range(1, min(BEFORE, len(self._floors)) + 1)]))

    def _examine(self) -> None:
        """Over the most sweeps that show a leak: the more of them, the better is the slope known."""
        troughs = _table(self._found)
        at, levels = troughs.T
        heights = np.array([trough.top - trough.level for trough in self._found])[-FEWEST:]
        lengths = np.diff(at, prepend=self._first - 1)[-FEWEST:]
        self._until = float(at[-1] + BEYOND * lengths.max())
        self._below = float(levels[-1] + BEYOND * heights.max())
        self._steepest = float(BEYOND * (heights / lengths).max()) if lengths.max() <= LONGEST else -math.inf
        is_record, self._record = levels[-1] > self._record, max(self._record, float(levels[-1]))
        self._goes_on = len(at) >= FEWEST and _score(troughs[-FEWEST - 1 :]) > STILL_RISING
        if not self._goes_on:
            self.leak = None
        ages = at - self._first + 1
        if len(at) < FEWEST or not (is_record and _goes_on(ages, levels) and is_straight(ages, levels)):
            return
        for sweeps, (bar, _) in _STUDENT.items():
            some = troughs[-sweeps:]
            if len(some) == sweeps and _score(some) > bar and some[-1, 1] - some[0, 1] >= self._min_gain:
                self.leak = Rising(
                    slope=self._slope(some),
                    gain=float(some[-1, 1] - some[0, 1]),
                    sweeps=sweeps,
                    begun_s=float(some[0, 0]) * self._width_s,
                )

    def _slope(self, troughs: Floats) -> Slope:
        """The mean rate, with 95 % of Student's t: as many troughs as there is an entry for."""
        rates = _rates(troughs) / self._width_s
        half = _STUDENT[len(troughs)][1] * _error(rates)
        mean = float(rates.mean())
        return Slope(estimate=mean, low=mean - half, high=mean + half)


def _table(troughs: Iterable[_Trough]) -> Floats:
    """Of each its index and its level."""
    return np.array([(trough.at, trough.level) for trough in troughs], dtype=np.float64)


def _goes_on(ages: Floats, levels: Floats) -> bool:
    """As `growth` has it: by the later half of the life against the quarter before it, where a logarithm gains as much.

    Where that quarter began before the first trough, by the time since that one.
    """
    begun = 0.0 if ages[-1] >= 4 * ages[0] else ages[0]
    quarter, half = np.interp([begun + (ages[-1] - begun) / 4, begun + (ages[-1] - begun) / 2], ages, levels)
    return bool(levels[-1] - half >= LATE_SHARE * 2 * max(half - quarter, 0.0))


def _most(count: int) -> int:
    """The most troughs that there is an entry for."""
    return max(sweeps for sweeps in _STUDENT if sweeps <= count)


def _rates(troughs: Floats) -> Floats:
    rates: Floats = np.diff(troughs[:, 1]) / np.diff(troughs[:, 0])
    return rates


def _error(rates: Floats) -> float:
    return float(rates.std(ddof=1)) / math.sqrt(len(rates))


def _score(troughs: Floats) -> float:
    """Student's t of the rates from trough to trough; infinite where all of them are equal and rise."""
    rates = _rates(troughs)
    mean, error = float(rates.mean()), _error(rates)
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
