"""Absolute limits that a person set, judged without any baseline: a rule of their own beside regression and leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from baselines.baseline import latencies_of
from baselines.cause import level_of
from baselines.figures import host_room
from baselines.quantiles import quantile
from baselines.seen import enough_judged
from baselines.verdict import Cause, Check, Evidence, Reason, Status, Verdict, worst
from probes.messages import Burst, MemorySample

LIMIT_BURSTS = 5  # pooled for a p95; most of them must exceed the limit, or one bad burst is five minutes' news
LIMIT_WINDOW = 60  # among how many bursts those are looked for; the others may have failed


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsPolicy:
    """p95_s: the highest p95 that is acceptable, seconds. memory_ratio: the largest share of the memory that may be
    used. None: no limit."""

    p95_s: float | None = None
    memory_ratio: float | None = None


def join(judged: Verdict, limit: Verdict | None) -> Verdict:
    """One verdict of a detector's and a limit's; limit: None without one.

    Where the detector cannot tell (no baseline yet, too little of a life) and the limit is kept, nothing is known to be
    well; but an incident about the limit is over.
    """
    if limit is None:
        return judged
    joined = worst([judged, limit])
    kept = joined.status is Status.UNKNOWN and limit.status is Status.OK
    return replace(joined, refutes=Reason.LIMIT_EXCEEDED) if kept else joined


def judge_p95_limit(window: Sequence[Burst], policy: LimitsPolicy, *, now: float) -> Verdict | None:
    """Judge the pooled p95 of the last 5 usable bursts against the limit; None without a limit.

    Worse: p95 above the limit, and samples above it in more than half of the bursts. Without a baseline nothing tells
    whose fault that is, so the cause is unknown. It shares its subject with the latency verdict: `worst` joins them.
    """
    if policy.p95_s is None:
        return None
    newest = window[-1]
    within = Verdict(
        target=newest.target,
        check=Check.LATENCY,
        subject=newest.canary,
        at=now,
        status=Status.OK,
        reason=Reason.WITHIN_BASELINE,
        life=newest.life,
    )
    usable = [(burst.at, latencies_of(judged)) for burst in window if (judged := enough_judged(burst))][-LIMIT_BURSTS:]
    if not enough_judged(newest) or len(usable) < LIMIT_BURSTS:
        return replace(within, status=Status.UNKNOWN, reason=Reason.TOO_FEW_SAMPLES, evidence={"bursts": len(usable)})
    latencies = [burst for _, burst in usable]
    pooled = [latency for burst in latencies for latency in burst]
    p95_s = quantile(pooled, 0.95)
    evidence: Evidence = {"p95_s": p95_s, "limit_s": policy.p95_s, "samples": len(pooled), "bursts": len(usable)}
    within = replace(within, evidence=evidence)
    exceeding = sum(max(burst) > policy.p95_s for burst in latencies)
    if p95_s <= policy.p95_s or exceeding <= LIMIT_BURSTS / 2:
        return within
    return _exceeded(within, Cause.UNKNOWN, since=usable[0][0])


def judge_memory_limit(point: MemorySample, policy: LimitsPolicy, *, now: float) -> Verdict | None:
    """Judge one sample's share of the host's and of the device's memory, the larger of both; None without a limit.

    Of several devices that counts of which it has the largest part. UNKNOWN when no share can be told. The cause is the
    model or its server: what is measured is the worker alone, with the processes below it.
    """
    if policy.memory_ratio is None:
        return None
    within = Verdict(
        target=point.target,
        check=Check.MEMORY,
        subject=f"slot {point.slot}",
        at=now,
        status=Status.OK,
        reason=Reason.STEADY,
        life=point.life,
    )
    shares = {
        "host_anon_bytes": _host_share(point),
        "gpu_used_bytes": _device_share(point),
    }
    known = {channel: share for channel, share in shares.items() if share is not None}
    if not known:
        return replace(within, status=Status.UNKNOWN, reason=Reason.NO_DATA)
    channel = max(known, key=lambda name: known[name])
    evidence: Evidence = {"memory_ratio": known[channel], "limit_ratio": policy.memory_ratio, "channel": channel}
    within = replace(within, evidence=evidence)
    return _exceeded(within, Cause.MODEL, since=point.at) if known[channel] > policy.memory_ratio else within


def _host_share(point: MemorySample) -> float | None:
    room, used = host_room(point), point.host_anon_bytes
    if room is None or used is None or not room.capacity:
        return None
    return (used + min(0.0, room.others)) / room.capacity  # what is shared since a fork counts once, swap not


def _device_share(point: MemorySample) -> float | None:
    if point.gpu_ratio is not None:
        return point.gpu_ratio
    used, capacity = point.gpu_used_bytes, point.gpu_capacity_bytes
    return None if used is None or not capacity else used / capacity


def _exceeded(within: Verdict, cause: Cause, *, since: float) -> Verdict:
    return replace(
        within,
        status=Status.WORSE,
        reason=Reason.LIMIT_EXCEEDED,
        cause=cause,
        level=level_of(cause),
        since=since,
        strikes=1,
    )
