"""One memory figure of one life, looked at over windows from half an hour to 32 hours at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from baselines.floors import Bucket, Doubling, Filling
from baselines.growth import HALF, MIN_PAST, WINDOW, Rise
from baselines.quantiles import Floats, Slope
from baselines.scale import Scale
from baselines.troughs import Troughs

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of the policy's window; each twice the one before
FIRST_SLOW = 1  # the shortest window is for leaks that are urgent alone
SWEPT = 2  # the width whose floors show each sweep: of five minutes, by the default policy
SWEPT_SHARE = 0.5  # of a window's slope: when what sweeps leave rose by less, the window's is of the teeth
MUCH_WIDER = 2  # steps: four times as wide, so that what is swept at all is swept in it
PERSIST = 2  # completed buckets in a row
AGREE = 0.5  # the halves of a window agree when neither slope is less than this share of the other
DAY_S = 86400.0
LIKE_LOAD = 0.8  # of the highest mean load of a window that grew; a leak per request hardly shows under far less
MIN_REPORTED = 0.1  # of the slope that alarmed: the windows that are longer than the leak is old show less


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How fast a floor rises. slope: bytes per second; gain: bytes over the window; used: the newest floor, bytes.

    scale: number of the window's width. begun_s: age at which it began; floors, begins_s: of its buckets, and the ages
    at which they began, where what rises is lowest. seen_since_s: age at which the first window of this leak began.
    leaking: whether it is a leak, or was one and has not stopped since. firm: whether it will go on so as far as anyone
    can say: the load is steady, or a day of it was seen. quiet_s: for how long the load has been too low to see a leak
    per request, so that all but `used` says how it was before; 0 while it is seen. sweeps: how many the slope was told
    from; 0 where it was from floors.
    """

    slope: Slope
    gain: float
    used: float
    begun_s: float
    seen_since_s: float
    floors: Floats
    begins_s: Floats
    scale: int
    leaking: bool
    firm: bool
    quiet_s: float = 0.0
    sweeps: int = 0


@dataclass(slots=True, kw_only=True)
class _Alarm:
    """What is called a leak. number: of the width of window that shows it; seen_since_s: age at which the first began.

    slope: bytes per second of the last window that rose for certain under a load like `load`, which is the highest mean
    of such windows; NaN when it is not known. like_s: age at which the load was last like it. grown: what was told
    last; is_quiet: whether the newest window tells nothing.
    """

    number: int
    seen_since_s: float
    slope: float
    load: float
    like_s: float
    grown: Growth
    is_quiet: bool = False


class Channel:
    """Takes the samples of one figure and says what its growth is.

    window_s: the middle one of the windows. min_gain: bytes that a window must have gained.
    tenure_s, youth_s: the age from which a leak is called one, and from which an urgent one is.
    is_urgent(used, slope_low): whether so many bytes, growing by so much a second, leave no time to wait and see.
    is_large(used, risen): whether a rise to so many bytes, by so many, has taken too much of the room to wait until
    tenure, twice youth_s is enough then, or to be what is swept now and then.
    """

    def __init__(
        self,
        *,
        window_s: float,
        min_gain: float,
        youth_s: float,
        tenure_s: float,
        is_urgent: Callable[[float, float], bool],
        is_large: Callable[[float, float], bool],
    ) -> None:
        self._min_gain, self._youth_s, self._tenure_s = min_gain, youth_s, tenure_s
        self._is_urgent, self._is_large = is_urgent, is_large
        self._scales = [Scale(window_s * share / WINDOW) for share in SCALES]
        self._filling = Filling(self._scales[0].width_s)
        self._doublings = [Doubling() for _ in self._scales[1:]]
        self._troughs = Troughs(self._scales[SWEPT].width_s, min_gain=min_gain)
        self._alarm: _Alarm | None = None
        self.has_leaked = False  # in this life; it may be over
        self._age_s = 0.0
        self.taken = 0

    def take(self, age_s: float, value: float, load: float | None) -> None:
        """One sample, age_s seconds into the life; older ones than the newest bucket are left out."""
        self.taken += 1
        self._age_s = max(self._age_s, age_s)
        completed = self._filling.add(age_s, value, load)
        if completed is not None:
            self._append(0, completed)

    def _append(self, number: int, bucket: Bucket) -> None:
        scale = self._scales[number]
        raw, free = scale.append(bucket, min_gain=self._min_gain)
        if scale.floors.count >= WINDOW:
            raw, free = self._unless_usual(bucket.floor, raw), self._unless_usual(bucket.floor, free)
            urgent = raw is not None and self._age_s >= self._youth_s and self._hurries(bucket.floor, raw, scale)
            ripe = self._age_s >= self._tenure_s and number >= FIRST_SLOW
            slow = free is not None and free.record and (ripe or self._presses(bucket.floor, free))
            slow = slow and not self._is_of_teeth(scale)
            scale.urgent = scale.urgent + 1 if urgent else 0
            scale.slow = scale.slow + 1 if slow else 0
            alarm = self._alarm
            if max(scale.urgent, scale.slow) >= PERSIST and (alarm is None or number > alarm.number):
                self._alarm, self.has_leaked = self._raise(number, alarm), True
            elif alarm is not None and number == alarm.number:
                self._follow(alarm, scale)
        if number == SWEPT and self._troughs.take(bucket.index, scale.free_floor):
            self._look_below_teeth()
        if number < len(self._doublings):
            for wide in self._doublings[number].add(bucket):
                self._append(number + 1, wide)

    def _is_of_teeth(self, scale: Scale) -> bool:
        """Whether the window lies within a tooth, or what sweeps left rose by far less than its floors."""
        (slope,) = scale.slope()
        left = self._troughs.since(scale.begun_s)
        of_teeth = left is not None and left.high < SWEPT_SHARE * slope.estimate
        return of_teeth or self._troughs.is_tooth(scale.begun_s, slope.estimate)

    def _look_below_teeth(self) -> None:
        """After a sweep. An alarm is followed by the widest window that is no longer than the leak was seen."""
        leak = self._troughs.leak
        full = [n for n, scale in enumerate(self._scales) if scale.floors.count >= WINDOW]
        if leak is None or self._alarm is not None or self._age_s < self._tenure_s or not full:
            return
        number = max((n for n in full if self._scales[n].begun_s >= leak.begun_s), default=full[0])
        self._alarm, self.has_leaked = self._raise(number, None), True
        self._alarm.seen_since_s = min(self._alarm.seen_since_s, leak.begun_s)

    def _unless_usual(self, used: float, rise: Rise | None) -> Rise | None:
        """Nothing that earlier lives did too, unless it has taken more than what is swept ever takes."""
        return None if rise is not None and rise.usual and not self._is_large(used, rise.risen) else rise

    def _hurries(self, used: float, rise: Rise, scale: Scale) -> bool:
        return rise.slope.low > 0 and self._is_urgent(used, rise.slope.low / scale.width_s)

    def _presses(self, used: float, rise: Rise) -> bool:
        return self._age_s >= 2 * self._youth_s and self._is_large(used, rise.risen)

    def _raise(self, number: int, before: _Alarm | None) -> _Alarm:
        """By a width that shows a leak, the first or a longer one."""
        scale = self._scales[number]
        scale.idle = 0
        return _Alarm(
            number=number,
            seen_since_s=scale.begun_s if before is None else before.seen_since_s,
            slope=scale.slope()[0].estimate,
            load=scale.floors.mean_load(WINDOW),
            like_s=self._age_s,
            grown=self._told(number),
        )

    def _follow(self, alarm: _Alarm, scale: Scale) -> None:
        """An alarm stands until a window does not rise at all, as when much was given back, or for half a window none
        has risen for certain, or half as fast as before by the load.

        Under far less load a window that does not rise tells nothing, since a leak per request is slow then, unless
        half was given back; after a day without a load like the one that it was seen under it does. While what sweeps
        leave rises nothing else counts.
        """
        (slope,) = scale.slope()
        load = scale.floors.mean_load(WINDOW)
        is_certain = slope.low > 0
        if not load < LIKE_LOAD * alarm.load:  # nor where either is not known
            alarm.like_s = self._age_s
            if is_certain:
                alarm.slope, alarm.load = slope.estimate, float(np.fmax(alarm.load, load))
        half = alarm.slope / 2 * (load / alarm.load if load < alarm.load else 1.0)
        gains = slope.estimate * scale.width_s * WINDOW >= self._min_gain and (is_certain or slope.estimate >= half)
        rises = gains or self._troughs.is_rising
        waits = alarm.like_s < self._age_s <= alarm.like_s + DAY_S and not _has_given_back(scale, alarm.grown)
        alarm.is_quiet = waits and not rises
        if alarm.is_quiet:
            return
        scale.idle = 0 if rises else scale.idle + 1
        if scale.idle >= HALF or (slope.estimate <= 0 and not rises):
            self._alarm = None
        else:
            alarm.grown = self._told(alarm.number)

    def inherit(self, slopes: Mapping[int, Sequence[float]]) -> None:
        """Take over what earlier lives of the same service showed, by the number of the width."""
        known = {number: past for number, past in slopes.items() if len(past) >= MIN_PAST}
        widest = max(known, default=0)
        for number, past in slopes.items():
            if 0 <= number < len(self._scales):
                came_to = float(np.median(known[widest])) if widest >= number + MUCH_WIDER else None
                self._scales[number].inherit(past, came_to=came_to)

    def drain(self) -> dict[int, list[float]]:
        """Slopes that later lives may take over; each is given once."""
        return {number: fresh for number, scale in enumerate(self._scales) if (fresh := scale.drain())}

    def growth(self) -> Growth | None:
        """What is known now; None before a window that a leak could be seen in is full."""
        full = [n for n, scale in enumerate(self._scales) if scale.floors.count >= WINDOW]
        alarm = self._alarm
        if alarm is None:
            return self._measure(min(full[-1], self._middle)) if self._judged(full) else None
        growth = self._told(alarm.number)
        if alarm.is_quiet:
            growth = replace(alarm.grown, used=growth.used, quiet_s=self._age_s - alarm.like_s)
        return replace(growth, leaking=True, seen_since_s=min(growth.begun_s, alarm.seen_since_s))

    def _told(self, alarming: int) -> Growth:
        """By what sweeps leave, where that rises; else by the longest window that agrees with the one that shows it."""
        told = alarming
        least = MIN_REPORTED * self._scales[told].slope()[0].estimate
        for number in range(told + 1, len(self._scales)):
            scale = self._scales[number]
            if scale.floors.count >= WINDOW and self._agrees(scale, least):
                told = number
        growth, leak = self._measure(told), self._troughs.leak
        if leak is None or not self._troughs.is_rising:
            return growth
        return replace(growth, slope=leak.slope, gain=leak.gain, begun_s=leak.begun_s, sweeps=leak.sweeps)

    @property
    def _newest_floor(self) -> float:
        """Of the shortest buckets: a long one is over an hour old when it is complete."""
        return float(self._scales[0].floors.tail(1)[1][-1])

    @property
    def _middle(self) -> int:
        return SCALES.index(1.0)

    def _judged(self, full: list[int]) -> bool:
        return bool(full) and full[-1] >= FIRST_SLOW and self._age_s >= self._tenure_s

    @staticmethod
    def _agrees(scale: Scale, least: float) -> bool:
        """A longer window says more, and no more of the luck that made a shorter one alarm, if it is all leak."""
        early, late = (slope.estimate for slope in scale.slope(halves=True))
        whole = scale.slope()[0].estimate
        return min(early, late) > 0 and AGREE <= late / early <= 1 / AGREE and whole >= least

    def _measure(self, number: int) -> Growth:
        scale = self._scales[number]
        indices, _, free = scale.floors.tail(WINDOW)
        (slope,) = scale.slope()
        return Growth(
            slope=slope,
            gain=float(np.median(free[-3:]) - np.median(free[:3])),
            used=self._newest_floor,
            begun_s=scale.begun_s,
            seen_since_s=scale.begun_s,
            scale=number,
            floors=free.copy(),
            begins_s=indices * scale.width_s,
            leaking=False,
            firm=self._age_s >= DAY_S or scale.floors.under_steady_load,
        )


def _has_given_back(scale: Scale, grown: Growth) -> bool:
    """Whether half of what was gained is there no more."""
    return bool(scale.free_floor <= grown.floors[-1] - grown.gain / 2)
