"""Does one worker's memory grow without end, and when will it be full?

A life is followed sample by sample (`LeakWatch`), each of its memory figures by itself (`channel`): the floors of
stretches of time (`floors`), and a test of how they rise (`growth`). A window never spans two lives. What has once been
called a leak is one until it has stopped for half a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from baselines.channel import SCALES, Channel, Growth
from baselines.growth import WINDOW
from baselines.verdict import Cause, Check, Evidence, Level, Reason, Status, Verdict
from probes.messages import MemorySample

MIN_SAMPLES = WINDOW // 2  # in the policy's window; with fewer, hardly any window is ever full
NO_DATA_SHARE = SCALES[0]  # of the window: a figure that has not come for so long is missing

# What may leak, and the field that says what it fills. Allocator reserves step up to a plateau by design: left out.
_CAPACITIES = {
    "host_anon_bytes": "capacity_bytes",
    "gpu_used_bytes": "gpu_capacity_bytes",
    "allocated_bytes": "gpu_capacity_bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakPolicy:
    """horizon_s: page when memory is full within it, else watch. urgent_s: urgent when full within it.

    warmup_s: the first part of a life, never judged. window_s: the middle one of the windows that a slope is taken
    over; they go from an eighth of it to eight times as long, and half of it is the age from which a leak that is not
    urgent is called one. min_gain_bytes: the least rise over a window that counts. capacity_bytes: what the host memory
    may grow to, instead of the limit found; None takes what the sample says.
    """

    horizon_s: float = 7 * 86400.0
    urgent_s: float = 4 * 3600.0
    warmup_s: float = 1800.0
    window_s: float = 4 * 3600.0
    min_gain_bytes: float = 16e6
    capacity_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.window_s <= 0:
            raise ValueError(f"window_s must be above 0 (given: {self.window_s})")

    @property
    def tenure_s(self) -> float:
        """The age of a life from which a leak is called one that leaves time to wait."""
        return self.warmup_s + self.window_s / 2

    @property
    def judge_every_s(self) -> float:
        """A floor of the shortest window moves this often; judging every sample would only cost time."""
        return self.window_s * SCALES[0] / WINDOW

    @property
    def lookback_s(self) -> float:
        """How much of a life is read again after a restart: twice the longest window."""
        return 2 * SCALES[-1] * self.window_s


class LeakWatch:
    """One life from its first sample on. Under a hundred kilobytes for each figure, whatever its age."""

    def __init__(self, policy: LeakPolicy) -> None:
        self.policy = policy
        self._first: MemorySample | None = None
        self._newest: MemorySample | None = None
        self._channels: dict[str, Channel] = {}
        self._known_age_s: dict[str, float] = {}

    def take(self, samples: Iterable[MemorySample]) -> None:
        """Samples of this life, oldest first by its age; any that is younger than the newest so far is left out."""
        for sample in samples:
            self._first = self._first or sample
            age_s = self._age_s(sample)
            if self._newest is not None and age_s < self._age_s(self._newest):
                continue
            self._newest = sample
            for name in _CAPACITIES:
                value = getattr(sample, name)
                if value is not None:
                    if name not in self._channels:
                        self._channels[name] = self._open(name)
                    self._channels[name].take(age_s, float(value), sample.load)
                    self._known_age_s[name] = age_s

    def judge(self, *, now: float) -> Verdict:
        """Each memory figure that the worker has had is judged, and the worst reported.

        Raises ValueError before the first sample. UNKNOWN while warming up, with too few samples, or when a figure
        stopped coming. The level follows the slow end of the slope's interval: page means that even then memory is full
        within the horizon. Without a known capacity it is watch. A WORSE verdict persists by itself: one strike, since
        = the start of the window.
        """
        newest = self._newest
        if newest is None:
            raise ValueError("no sample of this life was taken yet")
        steady = Verdict(
            target=newest.target,
            check=Check.MEMORY,
            subject=f"slot {newest.slot}",
            at=now,
            status=Status.OK,
            reason=Reason.STEADY,
            life=newest.life,
        )
        age_s = self._age_s(newest)
        if age_s < self.policy.warmup_s:
            evidence: Evidence = {"seconds_needed": self.policy.warmup_s - age_s}
            return replace(steady, status=Status.UNKNOWN, reason=Reason.WARMING_UP, evidence=evidence)
        verdicts = [self._judge_channel(steady, newest, name) for name in self._channels]
        if not verdicts:
            return replace(steady, status=Status.UNKNOWN, reason=Reason.NO_DATA)
        return max(verdicts, key=_urgency)

    def _open(self, name: str) -> Channel:
        return Channel(
            window_s=self.policy.window_s,
            min_gain=self.policy.min_gain_bytes,
            youth_s=self.policy.warmup_s,
            tenure_s=self.policy.tenure_s,
            is_urgent=lambda used, slope: self._level(used, self._capacity(name), slope) is Level.URGENT,
        )

    def _age_s(self, sample: MemorySample) -> float:
        """By the process's own age, which no clock change moves; else since the first sample."""
        assert self._first is not None
        return sample.uptime_s if sample.uptime_s is not None else sample.at - self._first.at

    def _capacity(self, name: str) -> int | None:
        if name == "host_anon_bytes" and self.policy.capacity_bytes is not None:
            return self.policy.capacity_bytes
        capacity: int | None = getattr(self._newest, _CAPACITIES[name])
        return capacity

    def _judge_channel(self, steady: Verdict, newest: MemorySample, name: str) -> Verdict:
        capacity = self._capacity(name)
        channel = self._channels[name]
        steady = replace(steady, evidence={"channel": name, "samples": channel.taken, "capacity_bytes": capacity})
        if self._age_s(newest) - self._known_age_s[name] > self.policy.window_s * NO_DATA_SHARE:
            return replace(steady, status=Status.UNKNOWN, reason=Reason.NO_DATA)
        growth = channel.growth()
        if growth is None:
            return replace(steady, status=Status.UNKNOWN, reason=Reason.TOO_FEW_SAMPLES)
        evidence = {**steady.evidence, **_evidence(growth, capacity)}
        if not growth.leaking:
            return replace(steady, evidence=evidence)
        return replace(
            steady,
            status=Status.WORSE,
            reason=Reason.LEAKING,
            cause=Cause.MODEL,
            level=self._level(growth.used, capacity, growth.slope.low),
            since=newest.at - (self._age_s(newest) - growth.begun_s),
            strikes=1,
            evidence=evidence,
        )

    def _level(self, used: float, capacity: int | None, slope: float) -> Level:
        left_s = _seconds_left(used, capacity, slope)
        if left_s is None or left_s > self.policy.horizon_s:
            return Level.WATCH
        return Level.URGENT if left_s <= self.policy.urgent_s else Level.PAGE


def judge_memory(points: Sequence[MemorySample], policy: LeakPolicy, *, now: float) -> Verdict:
    """The verdict on the newest point's life after all of its points, oldest first, at least one."""
    watch = LeakWatch(policy)
    watch.take(point for point in points if point.life == points[-1].life)
    return watch.judge(now=now)


def _urgency(verdict: Verdict) -> tuple[int, int, float]:
    """WORSE before UNKNOWN before OK, then the higher level, then the sooner end."""
    rank = {Status.OK: 0, Status.UNKNOWN: 1, Status.WORSE: 2}[verdict.status]
    left = verdict.evidence.get("seconds_to_capacity")
    return rank, verdict.level.rank, -float(left) if left is not None else -math.inf


def _evidence(growth: Growth, capacity: int | None) -> Evidence:
    """A forecast is only printed for a leak: a steady worker has no date."""
    slope = growth.slope
    forecast = capacity if growth.leaking else None
    return {
        "slope_bytes_per_hour": slope.estimate * 3600,
        "slope_low": slope.low * 3600 if math.isfinite(slope.low) else None,
        "slope_high": slope.high * 3600 if math.isfinite(slope.high) else None,
        "gain_bytes": growth.gain,
        "used_bytes": growth.used,
        "seconds_to_capacity": _seconds_left(growth.used, forecast, slope.estimate),
        "seconds_to_capacity_low": _seconds_left(growth.used, forecast, slope.high),
        "seconds_to_capacity_high": _seconds_left(growth.used, forecast, slope.low),
    }


def _seconds_left(used: float, capacity: int | None, slope: float) -> float | None:
    return None if capacity is None or slope <= 0 else max(0.0, (capacity - used) / slope)
