"""Does a floor rise without end? One test, made whenever a bucket is completed.

Rules for editors. A window of 24 floors leaks when all of these hold, and each is there for a harmless kind of growth:

- it gained enough, by a slope that single outliers cannot make (Theil-Sen);
- it ratchets: of six blocks at least four steps go up and none carries half of the rise (a shift, a plateau's steps);
- it goes on: the second half of the life gained at least three quarters of what a line through the quarter before it
  would: 1.5 times as much as that quarter, where a line gives twice, a logarithm once, and what fills up less;
- it is straight: no curve that dies out, logarithm or exponential, fits the life as well as a line does, or a line
  after a start-up that is over;
- it is significant: above the slopes that this very worker had before at this scale, once there are enough of them (a
  cache that wanders has wide ones); until then nearly monotone and far above the noise.

`Rise.record` says whether it also left the highest floor before the window behind (a sawtooth, a tide); a leak that
will fill the memory within hours is not made to wait for that. `Rise.usual` says whether earlier lives of the service
grew like this over windows as wide, while over much wider ones it came to nothing, and this life has not been swept
yet: so does a heap that is swept only every few hours, and nothing else tells it from a leak until then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from baselines.quantiles import Floats, Slope, inflation, sen_slope

WINDOW = 24  # floors: 276 pairs make a smooth slope, and a bucket still holds many samples
LOOKBACK = 8 * WINDOW  # floors over which the growth of a life is compared with what it was
HALF = WINDOW // 2
MAX_GAPS = 1.5  # a window may span this much more than its floors
MIN_INFLATION = 3.0  # of the slope's variance; memory is never a series of independent values
MAD = 1.4826  # makes the median absolute deviation a standard deviation

MIN_BEFORE = WINDOW // 8  # floors before a window that it must have left behind
BLOCKS, MIN_RISING, MAX_STEP_SHARE = 6, 4, 0.5
LATE_SHARE, LATE_SIGMAS = 0.75, 1.5  # of what a line would have gained; and deviations beyond that
STRAIGHT, FIRST_PART = 0.95, 12  # a line must leave 5 % less than any curve; the first twelfth of the life is left out
STRAIGHT_LATER = 0.7  # and a line with a start-up that is over, which bends to more shapes, 30 % less
MIN_PAST, MAX_PAST = 6, 40  # windows before this one, half overlapping, that make a distribution of slopes
PAST_SIGMAS, FEW_PAST, MIN_Z = 4.0, 4.0, 2.5  # the bar is (1 + 4/n) higher with n past slopes: their spread is a guess
MIN_TAU, MIN_SNR = 0.90, 12.0  # without a past: Kendall's tau, and the gain over the noise

USUAL = 2.0  # times the median of past slopes at most; what is steeper was not seen before
FALL_SHARE = 0.5  # of the gain: a fall like that was a sweep, and `record` knows from then on
COMES_TO = 0.25  # of a slope, over wider windows: less is nothing

_LOGARITHMS = tuple(2.0**-k for k in range(1, 7))  # time constants, as shares of the age
_EXPONENTIALS = (1 / 8, 1 / 4, 1 / 2)
_START_UPS = (1 / 32, 1 / 16, 1 / 8)


@dataclass(frozen=True, slots=True)
class Rise:
    """A window that leaks. slope: bytes per bucket; record: it left the highest floor before it behind.

    usual: it is how earlier lives grew until they were swept. risen: bytes by which the floors have risen over as much
    of the life as is compared.
    """

    slope: Slope
    record: bool
    usual: bool
    risen: float


class Trend:
    """What one series of floors was like before: its slopes, and its highest floor."""

    def __init__(self) -> None:
        self._past: deque[tuple[int, float]] = deque(maxlen=MAX_PAST + 2)
        self._inherited: Sequence[float] = ()
        self._usual = -np.inf  # what earlier lives' slopes reach, and what became of them over wider windows
        self._came_to = np.inf
        self.fresh: deque[float] = deque(maxlen=MAX_PAST)  # slopes that nobody has taken over yet
        self._record = -np.inf
        self._first: float | None = None

    def inherit(self, slopes: Sequence[float], *, came_to: float | None = None) -> None:
        """Slopes of earlier lives, in bytes per bucket; they count until there are enough of this one's.

        came_to: what they grew by over much wider windows, in bytes per bucket of this width; None when not known.
        """
        self._inherited = slopes
        self._came_to = np.inf if came_to is None else came_to
        self._usual = -np.inf
        if len(slopes) >= MIN_PAST:
            middle = float(np.median(slopes))
            self._usual = min(middle + _bar(slopes), USUAL * middle)

    def examine(self, indices: Floats, floors: Floats, count: int, *, min_gain: float) -> Rise | None:
        """The newest window of the floors; None when it does not leak.

        indices, floors: the last ones, LOOKBACK and a few if there are so many; count: how many there ever were.
        min_gain: bytes. Call it for every completed bucket, oldest first.
        """
        if self._first is None:
            self._first = float(indices[0])
        if len(floors) < WINDOW:
            return None
        times, window = indices[-WINDOW:], floors[-WINDOW:]
        begun = count - WINDOW
        if begun > 0:
            self._record = max(self._record, float(floors[-WINDOW - 1]))
        third = WINDOW // 3
        # a first look, since a slope costs ten times as much
        gained = float(np.median(window[-third:]) - np.median(window[:third])) > min_gain / 3
        if not gained and begun % HALF:
            return None
        first, second = _pairs(WINDOW)
        slopes = (window[second] - window[first]) / (times[second] - times[first])
        estimate = float(np.median(slopes))
        before = [slope for at, slope in self._past if at + WINDOW <= begun]
        if len(before) < MIN_PAST:
            before = [*self._inherited, *before]
        if begun % HALF == 0:
            self._past.append((begun, estimate))
            self.fresh.append(estimate)
        gain = estimate * WINDOW
        if not gained or gain <= min_gain or times[-1] - times[0] > MAX_GAPS * WINDOW:
            return None
        residuals = window - estimate * times
        noise = MAD * float(np.median(np.abs(residuals - np.median(residuals))))
        if not (_ratchets(window) and _goes_on(floors, noise) and is_straight(indices - self._first + 1, floors)):
            return None
        score = float(np.sign(slopes).sum())
        if len(before) >= MIN_PAST:
            significant = estimate > _bar(before) and _mann_kendall(score, residuals) > MIN_Z
        else:
            significant = score >= MIN_TAU * len(slopes) and gain > MIN_SNR * noise
        if not significant:
            return None
        record = begun >= MIN_BEFORE and float(np.median(window[HALF:])) > self._record
        usual = self._is_usual(estimate) and _greatest_fall(floors) < FALL_SHARE * gain
        return Rise(slope_of(times, window), record, usual, risen=_level(floors, len(floors) - 1) - _level(floors, 0))

    def _is_usual(self, estimate: float) -> bool:
        """Whether earlier lives grew like this too, and it came to nothing."""
        return estimate <= self._usual and self._came_to < COMES_TO * estimate


def _bar(past: Sequence[float]) -> float:
    """What chance adds to a slope, by the spread of past ones."""
    spread = MAD * float(np.median(np.abs(np.array(past) - np.median(past))))
    return PAST_SIGMAS * (1 + FEW_PAST / len(past)) * spread


def _greatest_fall(floors: Floats) -> float:
    return float((np.maximum.accumulate(floors) - floors).max())


def slope_of(indices: Floats, window: Floats) -> Slope:
    """Theil-Sen, in bytes per bucket, with an interval that allows for floors that hang together."""
    return sen_slope(indices, window, min_inflation=MIN_INFLATION)


def _mann_kendall(score: float, residuals: Floats) -> float:
    """Z of the trend, its variance inflated for autocorrelation (Hamed and Rao 1998)."""
    variance = inflation(residuals) * WINDOW * (WINDOW - 1) * (2 * WINDOW + 5) / 18
    return float((score - np.sign(score)) / np.sqrt(variance))


def _ratchets(window: Floats) -> bool:
    blocks = window.reshape(BLOCKS, -1).min(axis=1)
    steps, rise = np.diff(blocks), float(blocks[-1] - blocks[0])
    return bool(np.count_nonzero(steps > 0) >= MIN_RISING and steps.max() <= MAX_STEP_SHARE * rise)


def _goes_on(floors: Floats, noise: float) -> bool:
    newest = len(floors) - 1
    oldest = max(0, newest - LOOKBACK)
    half, quarter = oldest + (newest - oldest) // 2, oldest + (newest - oldest) // 4
    late = _level(floors, newest - 2) - _level(floors, half)
    early = _level(floors, half) - _level(floors, quarter)
    a_lines = max(early, 0.0) * (newest - 2 - half) / (half - quarter)
    return late >= LATE_SHARE * a_lines + LATE_SIGMAS * noise


def _level(floors: Floats, at: int) -> float:
    return float(np.median(floors[max(0, at - 2) : at + 3]))


def is_straight(ages: Floats, floors: Floats) -> bool:
    """By least squares: what a line leaves of the floors, or a line after a start-up, against the best of the curves.

    ages: of the floors, since the first there ever was.
    """
    part = ages > ages[-1] / FIRST_PART
    at, values = ages[part] / ages[-1], floors[part] - floors[part].mean()
    curves = [np.log1p(at / share) for share in _LOGARITHMS] + [-np.exp(-at / share) for share in _EXPONENTIALS]
    rival = min(_left(values, curve) for curve in curves)
    if _left(values, at) <= STRAIGHT * rival:
        return True
    return min(_left_after(values, -np.exp(-at / share), at) for share in _START_UPS) <= STRAIGHT_LATER * rival


def _left(values: Floats, shape: Floats) -> float:
    """The squares that are left of centred values by a shape and a constant."""
    shape = shape - shape.mean()
    return float(values @ values - (shape @ values) ** 2 / (shape @ shape))


def _left_after(values: Floats, start_up: Floats, line: Floats) -> float:
    """The same by both together; infinite unless both rise."""
    start_up, line = start_up - start_up.mean(), line - line.mean()
    rest = line - (line @ start_up) / (start_up @ start_up) * start_up
    if start_up @ values <= 0 or rest @ values <= 0:
        return np.inf
    return _left(values, start_up) - float((rest @ values) ** 2 / (rest @ rest))


@cache
def _pairs(count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """All pairs i < j."""
    first, second = np.triu_indices(count, 1)
    return first, second
