"""Does one worker's memory grow without end, and when will it be full?

Rules for editors: only the floor counts (the least sample of each bucket), so that activations in flight and cache
sawtooth do not; the rise must be steady (no single step carries it, no plateau), must not be dying out (warm-up, cache
fill), and must leave the highest floor ever seen in this life behind. A step up is not a leak. A window never spans two
lives. Simulated at the defaults, 72 h, 30 s samples: no alarm on flat, sawtooth, plateau or warm-up memory; 1 MB/min
found after 2.5 h with its slope within 10 %. Not told apart without knowing the load: a day's swing, and a cache that
wanders for hours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from baselines.quantiles import Floats, Slope, sen_slope
from baselines.verdict import Cause, Check, Evidence, Level, Reason, Status, Verdict
from probes.messages import MemorySample

BUCKETS = 24  # per window: 276 pairs make a smooth slope, and a bucket still holds many samples
MIN_BUCKETS = 12  # filled ones; so half of the window is needed
BLOCKS, MIN_RISING_BLOCKS, MAX_STEP_SHARE = (
    6,
    4,
    0.5,
)  # at least 4 of the 5 steps between blocks go up, none carries half
MIN_LATE_SHARE = 0.7  # slope of the second half over the first: 1 for a leak, falling for anything that fills up
MIN_INFLATION = 3.0  # of the slope's variance; memory is never a series of independent values
URGENT_SHARE = 1 / 8  # of the window, looked at alone for leaks that would not leave time for the whole

# What may leak, and the field that says what it fills. Allocator reserves step up to a plateau by design: left out.
_CAPACITIES = {
    "host_anon_bytes": "capacity_bytes",
    "gpu_used_bytes": "gpu_capacity_bytes",
    "allocated_bytes": "gpu_capacity_bytes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakPolicy:
    """horizon_s: page when memory is full within it, else watch. urgent_s: urgent when full within it.

    warmup_s: the first part of a life, never judged. window_s: what a slope is taken over; longer finds smaller leaks
    later. min_gain_bytes: the least rise over the window that counts. capacity_bytes: what the host memory may grow to,
    instead of the limit found; None takes what the sample says.
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
    def judge_every_s(self) -> float:
        """A floor of the shortest window moves this often; judging every sample would only cost time."""
        return self.window_s * URGENT_SHARE / BUCKETS

    @property
    def lookback_s(self) -> float:
        """How much of a life a judgement is given: beyond the window, a day and more of the floors before it."""
        return 8 * self.window_s + self.warmup_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Growth:
    """slope in bytes per second over the floors; used: the newest floor; leaking: all rules hold."""

    slope: Slope
    gain: float
    used: float
    since: float
    leaking: bool


def judge_memory(points: Sequence[MemorySample], policy: LeakPolicy, *, now: float) -> Verdict:
    """Judge each memory figure that one worker has and report the worst.

    points: oldest first, at least one; of them the newest one's life counts. More than a window of them makes the
    verdict surer. UNKNOWN while warming up, with too few samples, or when a figure stopped coming. The level follows
    the slow end of the slope's interval: page means that even then memory is full within the horizon. Without a known
    capacity it is watch. A WORSE verdict persists by itself: one strike, since = the start of the window.
    """
    newest = points[-1]
    life = [p for p in points if p.life == newest.life]
    steady = Verdict(
        target=newest.target,
        check=Check.MEMORY,
        subject=f"slot {newest.slot}",
        at=now,
        status=Status.OK,
        reason=Reason.STEADY,
        life=newest.life,
    )
    age_s = newest.uptime_s if newest.uptime_s is not None else newest.at - life[0].at
    if age_s < policy.warmup_s:
        evidence: Evidence = {"seconds_needed": policy.warmup_s - age_s}
        return replace(steady, status=Status.UNKNOWN, reason=Reason.WARMING_UP, evidence=evidence)
    warm = [p for p in life if age_s - (newest.at - p.at) >= policy.warmup_s]
    verdicts = [
        _judge_channel(steady, warm, channel, policy)
        for channel in _CAPACITIES
        if any(getattr(p, channel) is not None for p in life)  # else a figure this worker cannot have
    ]
    if not verdicts:
        return replace(steady, status=Status.UNKNOWN, reason=Reason.NO_DATA)
    return max(verdicts, key=_urgency)


def _urgency(verdict: Verdict) -> tuple[int, int, float]:
    """WORSE before UNKNOWN before OK, then the higher level, then the sooner end."""
    rank = {Status.OK: 0, Status.UNKNOWN: 1, Status.WORSE: 2}[verdict.status]
    left = verdict.evidence.get("seconds_to_capacity")
    return rank, verdict.level.rank, -float(left) if left is not None else -math.inf


def _judge_channel(steady: Verdict, warm: Sequence[MemorySample], channel: str, policy: LeakPolicy) -> Verdict:
    newest = warm[-1]
    known = [(p.at, value) for p in warm if (value := getattr(p, channel)) is not None]
    capacity = getattr(newest, _CAPACITIES[channel])
    if channel == "host_anon_bytes" and policy.capacity_bytes is not None:
        capacity = policy.capacity_bytes
    steady = replace(steady, evidence={"channel": channel, "samples": len(known), "capacity_bytes": capacity})
    if not known or known[-1][0] < newest.at - policy.window_s * URGENT_SHARE:
        return replace(steady, status=Status.UNKNOWN, reason=Reason.NO_DATA)
    times, values = np.array(known, dtype=np.float64).T
    growth = _measure(times, values, policy.window_s, policy.min_gain_bytes)
    if growth is None or not growth.leaking:
        sudden = _measure(times, values, policy.window_s * URGENT_SHARE, policy.min_gain_bytes)
        if sudden is not None and sudden.leaking and _level(sudden, capacity, policy) is Level.URGENT:
            growth = sudden
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
        level=_level(growth, capacity, policy),
        since=growth.since,
        strikes=1,
        evidence=evidence,
    )


def _measure(times: Floats, values: Floats, window_s: float, min_gain_bytes: float) -> _Growth | None:
    """The growth over the window that ends with the newest sample; None when too little of it is filled."""
    width_s = window_s / BUCKETS
    back = np.floor((times[-1] - times) / width_s).astype(np.int64)  # 0 for the newest bucket, descending
    starts = np.flatnonzero(np.concatenate(([True], np.diff(back) < 0)))
    floors, back = np.minimum.reduceat(values, starts), back[starts]
    inside = back < BUCKETS
    before, floors, at_s = floors[~inside], floors[inside], -back[inside] * width_s
    if len(floors) < MIN_BUCKETS:
        return None
    slope = sen_slope(at_s, floors, min_inflation=MIN_INFLATION)
    gain = slope.estimate * float(at_s[-1] - at_s[0])
    leaking = (
        slope.low > 0
        and gain >= min_gain_bytes
        and _rises_steadily(floors)
        and _keeps_rising(at_s, floors)
        and _breaks_new_ground(before, floors)
    )
    since = float(times[-1] + at_s[0])
    return _Growth(slope=slope, gain=gain, used=float(floors[-1]), since=since, leaking=leaking)


def _rises_steadily(floors: Floats) -> bool:
    """No plateau and no single step, neither between blocks nor between two buckets."""
    steps = np.diff([block.min() for block in np.array_split(floors, BLOCKS)])
    no_leap = steps.max() <= MAX_STEP_SHARE * steps.sum()
    no_jump = np.diff(floors).max() <= MAX_STEP_SHARE * (floors[-1] - floors[0])
    return bool(np.count_nonzero(steps > 0) >= MIN_RISING_BLOCKS and no_leap and no_jump)


def _keeps_rising(at_s: Floats, floors: Floats) -> bool:
    """The second half rises about as fast as the first; what warms up or fills does not."""
    half = len(floors) // 2
    early, late = sen_slope(at_s[:half], floors[:half]), sen_slope(at_s[half:], floors[half:])
    return late.estimate >= MIN_LATE_SHARE * early.estimate


def _breaks_new_ground(before: Floats, floors: Floats) -> bool:
    """Most of the second half lies above every floor of this life before the window; a sawtooth does not get there."""
    return len(before) == 0 or float(np.median(floors[len(floors) // 2 :])) > float(before.max())


def _level(growth: _Growth, capacity: int | None, policy: LeakPolicy) -> Level:
    latest_s = _seconds_left(growth.used, capacity, growth.slope.low)
    if latest_s is None or latest_s > policy.horizon_s:
        return Level.WATCH
    return Level.URGENT if latest_s <= policy.urgent_s else Level.PAGE


def _evidence(growth: _Growth, capacity: int | None) -> Evidence:
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
