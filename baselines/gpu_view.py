"""What the rules of `hardware` look at: one device, its readings of the last minutes, and what happened around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from baselines.verdict import Evidence, Reason
from baselines.xid import Remedy, Xid, look_up
from probes.gpu.reading import Xid as XidEvent
from probes.gpu.sample import DeviceSample

WINDOW_S = 600.0  # gpud judges slow-downs over 10 minutes
LOADED_PERCENT = 50.0
XID_STANDS_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What is known besides the device. Times are Unix seconds; None: not known.

    worker_since: when the oldest of the target's workers started. alone: there is but one worker. good_at: when every
    canary of the serving workers was last all good. booted_at: when the machine started. xid: what the configuration
    says of codes.
    """

    worker_since: float | None = None
    alone: bool = False
    good_at: float | None = None
    booted_at: float | None = None
    xid: Mapping[int, Remedy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule that is broken. detail: the clause a message says, with its figures."""

    reason: Reason
    since: float
    detail: str
    evidence: Evidence = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One device: samples of the last WINDOW_S and the one before them, oldest first, at least one.

    xids: of all devices of the machine, oldest first. moved: figures that left what was normal: the normal value, the
    value now, and since when (`device.DeviceWatch`).
    """

    samples: Sequence[DeviceSample]
    now: float
    xids: Sequence[XidEvent] = ()
    around: Around = field(default_factory=Around)
    moved: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def newest(self) -> DeviceSample:
        return self.samples[-1]

    def number(self, name: str) -> float | None:
        return self.newest.number(name)

    def flag(self, *names: str) -> str | None:
        """The first of these flags that is up."""
        return next((name for name in names if self.number(name) == 1), None)

    def increase(self, *names: str, over_gaps: bool = False) -> tuple[float, float, float] | None:
        """How much counters rose together, over how many seconds, and since when; None without two readings of one.

        A counter that fell was reset, and counts from zero again. A duration that rose by more than the time that
        passed is no duration. over_gaps: also between two readings that are further apart than the window, as those
        before and after a restart of the daemon: such a time is too long for a rate.
        """
        total, span_s, since = 0.0, 0.0, None
        for name in names:
            known = [(s.at, value) for s in self.samples if (value := s.number(name)) is not None]
            covered_s = 0.0
            for (began, before), (ended, after) in pairwise(known):
                if ended - began > WINDOW_S and not over_gaps:
                    continue
                covered_s += ended - began
                risen = after - before if after >= before else after
                if name.endswith("_s") and risen > 1.5 * (ended - began) + 1.0:
                    continue
                total += risen
                since = began if risen > 0 and since is None else since
            span_s = max(span_s, covered_s)
        return (total, span_s, self.newest.at if since is None else since) if span_s > 0 else None

    def loaded(self) -> list[DeviceSample]:
        return [s for s in self.samples if (s.number("utilisation_percent") or 0.0) >= LOADED_PERCENT]

    def standing(self) -> list[tuple[Xid, float]]:
        """Xids of this device, newest first, since the machine started and within a day."""
        oldest = max(self.now - XID_STANDS_S, self.around.booted_at or 0.0)
        mine = [e for e in self.xids if e.device == self.newest.uuid and oldest <= e.at]
        return [(look_up(e.xid, self.around.xid), e.at) for e in reversed(mine)]


def said(view: View, reason: Reason, detail: str, **evidence: float | None) -> Finding:
    """A finding of this moment."""
    return Finding(reason=reason, since=view.newest.at, detail=detail, evidence=evidence)
