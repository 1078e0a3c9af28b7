"""Who is to blame, from what was seen beside the symptom. Only `model` may be recycled, so it must be earned.

The isolated worker is not the serving worker: its crash, its out-of-memory or its CUDA fault says nothing that a
recycle of the server would cure, and gets the cause `unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from baselines.control import CLOSE_WANDER
from baselines.gpu_signals import SIGNALS, Recycle
from baselines.gpu_slowing import SLOWING
from baselines.gpu_view import Finding
from baselines.verdict import Cause, Check, Level, Status, Verdict
from baselines.witness import Signs
from probes.messages import Burst, Family, Outcome

FLOOR_SHARE = 0.5  # of the threshold's rise: what a floor must have risen by
SURE = 4.0  # deviations, of the floor over the control's
SHARED = 1 / 3  # of the canary's shift: a busy machine holds up the longer request more often, and the control less
HELD = 20  # bursts
WORKING_CPU = 0.5  # CPU seconds per second: above it a worker that does not answer is working, not waiting
BEFORE_S, AFTER_S = 900.0, 300.0  # how long before or after a slowdown what explains it may have begun

_SERVER_ERRORS = frozenset(
    {Outcome.STATUS_500, Outcome.STATUS_501, Outcome.STATUS_502, Outcome.STATUS_504, Outcome.CONNECTION_LOST}
)


def level_of(cause: Cause) -> Level:
    """Load and environment are shown and not acted on; a cause that is not known still needs a person."""
    return Level.INFO if cause in (Cause.LOAD, Cause.ENVIRONMENT) else Level.PAGE


def latency_cause(signs: Signs, *, changed: bool, threshold: float) -> Cause:
    """The cause of a slowdown, from what moved beside it.

    changed: whether a version differs from the baseline's. Load comes first, for work explains whatever it delays.
    The model is to blame when its floor rose by FLOOR_SHARE of the threshold, over the control's and for certain: code
    got slower, the machine did not. Else, when the control got slower too, or the machine is busier than it was, the
    machine is. When all but the fastest requests got slower, they wait for something: others' requests, if nothing else
    is known. Without a control a floor that rose says nothing of whose fault it is.
    """
    if changed:
        return Cause.VERSION_CHANGED
    if signs.busier:
        return Cause.LOAD
    line = FLOOR_SHARE * math.log1p(threshold)
    over, shared = signs.floor_over_control, signs.control_share
    if over is not None and over.rise >= line and over.z(wander=CLOSE_WANDER) >= SURE:
        return Cause.MODEL
    if shared is not None and shared >= SHARED:
        return Cause.ENVIRONMENT
    stayed = signs.floor.rise + 2 * signs.floor.error < line
    if stayed and signs.crowded is not None:
        return Cause.ENVIRONMENT
    return Cause.LOAD if stayed and signs.whole and signs.busier is None else Cause.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """The cause of a slowdown that stands. ago: bursts since it was last found."""

    cause: Cause = Cause.UNKNOWN
    ago: int = 0

    def follow(self, found: Cause) -> Blame:
        """After another burst, for which that cause was found.

        What explained it does so for HELD bursts more: a machine that is no longer busy has left its slow bursts in the
        windows. Only a floor that rose for certain overrules what was found before.
        """
        if found is Cause.MODEL or found is Cause.VERSION_CHANGED or self.cause is Cause.UNKNOWN or self.ago >= HELD:
            return Blame(cause=found)
        return Blame(cause=self.cause, ago=0 if found is self.cause else self.ago + 1)


def is_working(burst: Burst) -> bool:
    """Did a worker use the CPU while it was asked? False when its processes are not watched.

    A worker that spins for ever looks the same: it is called busy here, and saturated once patience ends.
    """
    return burst.worker_cpu is not None and burst.worker_cpu >= WORKING_CPU


def _timeout_cause(burst: Burst) -> Cause:
    if is_working(burst):
        return Cause.LOAD
    if any(s.outcome is Outcome.GOOD for s in burst.samples):
        return Cause.UNKNOWN  # what answered a moment ago may only be slow; a hang shows in the next burst
    return Cause.MODEL if burst.workers_alive and burst.worker_cpu is not None else Cause.UNKNOWN


def availability_cause(burst: Burst, outcome: Outcome) -> Cause:
    """The cause of a failed request of this burst that ended with `outcome`."""
    if any(s.outcome.family is Family.BUSY for s in burst.samples):
        return Cause.LOAD
    some_alive = bool(burst.workers_alive)
    if outcome is Outcome.TIMEOUT:
        return _timeout_cause(burst)
    if outcome is Outcome.REFUSED:
        return Cause.MODEL if some_alive else Cause.UNKNOWN  # none alive: its supervisor starts it again
    if outcome in _SERVER_ERRORS:
        return Cause.MODEL if some_alive else Cause.UNKNOWN  # a proxy answers so while the server is being started
    return Cause.UNKNOWN


def blame_device(verdict: Verdict, findings: Iterable[Finding]) -> Verdict:
    """The verdict with the cause that its devices explain; the same one when they explain nothing.

    findings: what is wrong with the target's devices now, the most serious first. A slowdown is explained by what slows
    a device down and began at about the same time: a device that always throttled, also at baseline, explains nothing.
    No answer or a wrong one is explained by a device that cannot work or cannot be trusted. A cause that is known
    better (load, another version) stands.
    """
    if verdict.status is not Status.WORSE or verdict.cause in (Cause.LOAD, Cause.VERSION_CHANGED):
        return verdict
    if verdict.check is Check.LATENCY:
        began = verdict.at if verdict.since is None else verdict.since
        found = [f for f in findings if f.reason in SLOWING and began - BEFORE_S <= f.since <= began + AFTER_S]
    elif verdict.check in (Check.AVAILABILITY, Check.OUTPUT):
        found = [f for f in findings if SIGNALS[f.reason].recycle in (Recycle.IMPOSSIBLE, Recycle.FUTILE)]
    else:
        found = []
    if not found:
        return verdict
    cause = SIGNALS[found[0].reason].cause
    level = level_of(cause) if verdict.check is Check.LATENCY else verdict.level
    return replace(verdict, cause=cause, level=level, evidence={**verdict.evidence, "gpu": found[0].detail})
