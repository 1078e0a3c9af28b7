"""Did a canary get slower than its baseline, since when, and is it over? Asked after each burst.

The scan of all windows tells (`scan`), and on machines too busy for that the floor of the fastest requests (`floor`).
What has once been called slower is so until the newest bursts are surely back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import numpy as np

from baselines.baseline import Baseline
from baselines.closer_look import CloserLook
from baselines.control import CLOSE_WANDER, Control
from baselines.floor import UNSEEN, Floor, Lift, lowest, paired
from baselines.noise import count_slow, location, noise_of
from baselines.scan import CENTER, KEPT, LONGEST, WANDER, Channel, Scan
from baselines.seen import Seen
from baselines.verdict import Verdict

LOOKED_AT = 60  # bursts, that are kept whole: 1 kB each; of KEPT the scan keeps a few numbers
FLOOR_WINDOWS = (10, 15, 20, 30, LOOKED_AT)
FLOOR_EVIDENCE = 0.9  # of the policy's
FLOOR_ALONE, FLOOR_OVER_CONTROL = 0.75, 0.5  # of the threshold's rise: without a control, and over it
SPELL, QUIET_SD = 16, 0.06  # bursts; of burst locations, in logs: a machine without such spells at baseline


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionPolicy:
    """threshold: the rise of p95 that matters, as a fraction. evidence: how sure it must be, in standard deviations."""

    threshold: float = 0.20
    evidence: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 10:
            raise ValueError(f"threshold must be above 0 and at most 10 (given: {self.threshold})")
        if not 3 <= self.evidence <= 20:
            raise ValueError(f"evidence must be from 3 to 20 deviations (given: {self.evidence})")

    @property
    def line(self) -> float:
        """What a burst median must exceed, over the baseline's, to count as slow by itself."""
        return 1 + 0.7 * self.threshold

    @property
    def floor_evidence(self) -> float:
        """The same for a floor, of which fewer windows are asked."""
        return FLOOR_EVIDENCE * self.evidence

    @property
    def rise(self) -> float:
        """The logarithm of the ratio that matters."""
        return math.log1p(self.threshold)


class FoundBy(StrEnum):
    """Which rule told: a channel of the scan, or the floor."""

    LOCATION = "location"
    TAIL = "tail"
    SHAPE = "shape"
    FLOOR = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A slowdown that stands. since: Unix seconds, its estimated beginning. score: deviations, when it was told."""

    found_by: FoundBy
    since: float
    score: float


def alarm_of(verdict: Verdict) -> Alarm | None:
    """The alarm behind a verdict that was stored; None when it was about something else."""
    found_by, score = verdict.evidence.get("found_by"), verdict.evidence.get("score")
    if found_by not in set(FoundBy) or verdict.since is None or not isinstance(score, (int, float)):
        return None
    return Alarm(found_by=FoundBy(str(found_by)), since=verdict.since, score=float(score))


class Slowdown:
    """Follows one canary against one baseline.

    seen: the last LOOKED_AT bursts, oldest first. alarm: the slowdown that stands; None while there is none.
    bursts_missing: how many bursts more the baseline would need to show a rise that matters; 0: it can; inf: no number
    would.
    """

    def __init__(self, baseline: Baseline, policy: RegressionPolicy) -> None:
        self.alarm: Alarm | None = None
        self.seen: deque[Seen] = deque(maxlen=LOOKED_AT)
        self.control = Control(baseline.bursts, baseline.controls) if baseline.controls else None
        self._policy = policy
        self._noise = noise_of(baseline.bursts, threshold=policy.threshold, prior=baseline.prior)
        self._floor = Floor(baseline.bursts)
        self._paired = self._pair(baseline)
        self._scan = Scan(self._noise)
        self._look = CloserLook(self._noise.size)
        self._lows: deque[float | None] = deque(maxlen=LOOKED_AT)
        self._control_lows: deque[float | None] = deque(maxlen=LOOKED_AT)
        self._offs: deque[float] = deque(maxlen=LOOKED_AT)
        self._times: deque[float] = deque(maxlen=KEPT)
        self._fresh = 0  # bursts since the last slowdown was over, KEPT at most
        self.bursts_missing = self._count_missing(baseline)

    @property
    def times(self) -> int:
        """How many times as many requests as usual the next burst may have, see `closer_look`; any thread may ask."""
        return self._look.times

    @property
    def run(self) -> list[Seen]:
        """Those of `seen` since the alarm's beginning, the newest one at least."""
        assert self.alarm is not None
        return self.seen_since(self.alarm.since)

    def seen_since(self, at: float) -> list[Seen]:
        """Those of `seen` since then, the newest one at least."""
        return [seen for seen in self.seen if seen.at >= at] or [self.seen[-1]]

    def take(self, seen: Seen) -> None:
        """The next burst, in the order of time."""
        if self.alarm is not None and self._is_another(seen):
            self.begin_anew()  # another worker in the place of the only one: what the former did is no evidence of it
        self.seen.append(seen)
        self._times.append(seen.at)
        self._lows.append(lowest(seen.latencies, self._floor.depth))
        self._control_lows.append(None if self.control is None else self.control.low(seen.controls))
        self._offs.append(float(location(np.log(seen.latencies))) - float(self._noise.center))
        self._fresh = min(self._fresh + 1, KEPT)
        self._scan.take(np.asarray(seen.latencies))
        self._decide()

    def _is_another(self, seen: Seen) -> bool:
        """Whether the only worker is another one than any that answered since the alarm's beginning."""
        if not seen.alone or seen.life is None:
            return False
        return {each.life for each in self.run}.isdisjoint({seen.life, None})

    def beneath(self) -> Alarm | None:
        """What the slowdown that stands may hide, if the machine or load explains it: a floor that rose over the
        control's, for certain and for longer than a spell."""
        if self.control is None:
            return None
        lifted = self._lifted([bursts for bursts in FLOOR_WINDOWS if self.spans(bursts)])
        return None if lifted is None else self._floor_alarm(*lifted)

    def begin_anew(self) -> None:
        """A slowdown is over: what was measured until now is no evidence of what is."""
        self.alarm, self._fresh = None, 0
        self._scan = Scan(self._noise)

    def shift(self, bursts: int) -> float:
        """Of the location of so many of the newest, over the baseline's, in logs."""
        return float(np.mean(list(islice(reversed(self._offs), bursts))))

    def slow_share(self, seen: Seen) -> float:
        """Of its requests, those in the tail, see `scan`."""
        return float(count_slow(np.log(seen.latencies), self._noise.tail_line)) / len(seen.latencies)

    def floors(self, bursts: int) -> tuple[Lift, Lift | None]:
        """How far the floor of so many of the newest rose, UNSEEN where less than half are known; and how far over the
        control's, None where there is none. A control that answers no longer is none."""
        lows, controls = _newest(self._lows, bursts), _newest(self._control_lows, bursts)
        few = max(1, bursts // 2)
        known, known_too = [low for low in lows if low is not None], [low for low in controls if low is not None]
        if len(known) < few:
            return UNSEEN, None
        floor = self._floor.lift(known)
        if self.control is None or len(known_too) < few:
            return floor, None
        together = min(self._paired, paired(lows, controls))
        return floor, floor.over(self.control.floor.lift(known_too), paired=together)

    def spans(self, bursts: int) -> bool:
        """Whether so many bursts are more than one spell of a busy machine, which may lift all their floors."""
        return bursts >= SPELL or float(np.sqrt(self._noise.between)) <= QUIET_SD

    def _decide(self) -> None:
        score = self._scan.score()
        self._look.take(len(self.seen[-1].latencies), float(score.hint) if self.alarm is None else 0.0)
        if self.alarm is not None:
            if self._is_back(self.alarm):
                self.begin_anew()
            return
        channel = max(Channel, key=lambda each: float(score.z[each]))
        z = float(score.z[channel])
        if z >= self._policy.evidence:
            began = min(self._scan.began(channel, int(score.bursts[channel])), self._fresh)
            self.alarm = Alarm(found_by=FoundBy(channel.value), since=self._times[-began], score=z)
        elif (lifted := self._lifted()) is not None:
            self.alarm = self._floor_alarm(*lifted)

    def _floor_alarm(self, bursts: int, z: float) -> Alarm:
        return Alarm(found_by=FoundBy.FLOOR, since=self._times[-bursts], score=z)

    def _is_back(self, alarm: Alarm) -> bool:
        if alarm.found_by is FoundBy.FLOOR:
            lift, line, _ = self._lift(FLOOR_WINDOWS[0])
            return lift is not UNSEEN and lift.rise < line / 2
        return self._scan.is_back(Channel(alarm.found_by.value), len(self.run))

    def _lifted(self, windows: Sequence[int] = FLOOR_WINDOWS) -> tuple[int, float] | None:
        """The window whose floor rose for certain, and how certain; None when none did."""
        for bursts in windows:
            if bursts > self._fresh:
                return None
            lift, line, wander = self._lift(bursts)
            if lift.rise >= line and (z := lift.z(wander=wander)) >= self._policy.floor_evidence:
                return bursts, z
        return None

    def _lift(self, bursts: int) -> tuple[Lift, float, float]:
        """Of the floor of the newest bursts, over the control's where they have one; its line, and its wander."""
        floor, over = self.floors(bursts)
        if over is None:
            return floor, FLOOR_ALONE * self._policy.rise, WANDER
        return over, FLOOR_OVER_CONTROL * self._policy.rise, CLOSE_WANDER

    def _pair(self, baseline: Baseline) -> float:
        """How the floors of the canary and its control move together at baseline, see `floor.paired`. 0 where not each
        of its bursts has a control: which are a pair is not kept."""
        if self.control is None or len(baseline.controls) != len(baseline.bursts):
            return 0.0
        return paired(self._floor.lows, self.control.floor.lows)

    def _count_missing(self, baseline: Baseline) -> float:
        """See bursts_missing. Where the location drowns, the floor may still tell."""
        rise, policy = self._policy.rise, self._policy
        allowed = (rise / policy.evidence) ** 2 - WANDER**2 - float(self._noise.variance(self._noise.size)) / LONGEST
        of_one = CENTER * float(self._noise.variance(self._noise.size))
        needed = of_one / allowed if allowed > 0 else math.inf
        if needed <= len(baseline.bursts):
            return 0.0
        error = math.hypot(self._floor.expected_error(FLOOR_WINDOWS[-1]), WANDER)
        if rise / error >= policy.floor_evidence:
            return 0.0
        return math.ceil(needed - len(baseline.bursts)) if math.isfinite(needed) else math.inf


def _newest(lows: deque[float | None], bursts: int) -> list[float | None]:
    """Of so many of the newest, oldest first."""
    return list(islice(reversed(lows), bursts))[::-1]
