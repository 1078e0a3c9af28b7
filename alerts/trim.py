"""Before a worker is recycled for its memory, it is asked to give back what it can: the softest remedy, and a test.

What an allocator kept for later comes back; what a reference holds does not. Measured (reference, D.3): a convolution
with ever new shapes grew from 148 to 736 MB, of which a trim gave back 90 %, while a real leak gives back nothing but
the little that every process has to spare. The line is drawn in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alerts.incident import Incident
from alerts.wording import say_size
from baselines.verdict import Check, Reason, Status

ENOUGH = 0.5  # of what had grown
TRIMMABLE = frozenset({"host_anon_bytes", "gpu_used_bytes", "reserved_bytes", "cgroup_bytes"})
"""Figures that an allocator can keep high by itself. Tensors that are allocated are held by somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """channel: the figure that grew, a field of MemorySample. grown_bytes: by how much since it began to grow."""

    channel: str
    grown_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """That figure before and after the trim; None when it could not be read or nothing was trimmed: detail says why."""

    before: int | None
    after: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimVerdict:
    """helped: what had grown came back, so that nothing needs to be recycled."""

    helped: bool
    detail: str
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)


def find_growth(incident: Incident, *, now: float) -> Growth | None:
    """What a trim would have to give back; None when the incident is not about memory that a trim can give back.

    By the slope since it began, at least the gain over the window that was judged: what grew for longer than the window
    must come back too, or the little that any process has to spare would count as the cure.
    """
    evidence = incident.evidence
    channel, gain, slope = (evidence.get(key) for key in ("channel", "gain_bytes", "slope_bytes_per_hour"))
    about_a_leak = incident.check is Check.MEMORY and incident.reason == Reason.LEAKING
    if not about_a_leak or channel not in TRIMMABLE or not isinstance(gain, (int, float)):
        return None
    hours = max(0.0, now - incident.since) / 3600
    grown = max(gain, slope * hours) if isinstance(slope, (int, float)) else gain
    return Growth(channel=str(channel), grown_bytes=grown) if grown > 0 else None


def judge_trim(growth: Growth, trimmed: Trimmed) -> TrimVerdict:
    """Whether at least ENOUGH of what had grown came back. A figure that is missing is no proof."""
    evidence: dict[str, float | int | str | None] = {
        "channel": growth.channel,
        "grown_bytes": round(growth.grown_bytes),
        "before_trim_bytes": trimmed.before,
        "after_trim_bytes": trimmed.after,
    }
    if trimmed.before is None or trimmed.after is None:
        why = trimmed.detail or "memory cannot be read"
        return TrimVerdict(helped=False, detail=f"it could not be trimmed: {why}", evidence=evidence)
    back = trimmed.before - trimmed.after
    said = f"{say_size(max(0, back))} of {say_size(growth.grown_bytes)} came back"
    if back >= ENOUGH * growth.grown_bytes:
        return TrimVerdict(helped=True, detail=f"trimmed: allocator retention, not a leak; {said}", evidence=evidence)
    return TrimVerdict(helped=False, detail=f"a trim does not help, it is held: {said}", evidence=evidence)


def has_regrown(incident: Incident, evidence: Mapping[str, object]) -> bool | None:
    """Whether the figure is back where it was before the trim with that evidence; None where it cannot be compared."""
    used, before = incident.evidence.get("used_bytes"), evidence.get("before_trim_bytes")
    if incident.evidence.get("channel") != evidence.get("channel"):
        return None
    if not isinstance(used, (int, float)) or not isinstance(before, (int, float)):
        return None
    return incident.status is Status.WORSE and used >= before
