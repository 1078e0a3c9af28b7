"""Who is to blame, from what was seen beside the symptom. Only `model` may be recycled, so it must be earned.

The isolated worker is not the serving worker: its crash, its out-of-memory or its CUDA fault says nothing that a
recycle of the server would cure, and gets the cause `unknown`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from baselines.verdict import Cause, Level
from probes.messages import Burst, Family, Outcome

MOVED_SHARE = 0.5  # of the canary's change in logs; what the control shares by at least half is not the model's own
WORKING_CPU = 0.5  # CPU seconds per second: above it a worker that does not answer is working, not waiting

_SERVER_ERRORS = frozenset(
    {Outcome.STATUS_500, Outcome.STATUS_501, Outcome.STATUS_502, Outcome.STATUS_504, Outcome.CONNECTION_LOST}
)


def level_of(cause: Cause) -> Level:
    """Load and environment are shown and not acted on; a cause that is not known still needs a person."""
    return Level.INFO if cause in (Cause.LOAD, Cause.ENVIRONMENT) else Level.PAGE


def latency_cause(*, changed: Mapping[str, object], ratio: float, control_ratio: float | None) -> Cause:
    """The cause of a slowdown.

    changed: provenance fields that differ from the baseline. ratio, control_ratio: how much the medians of the canary
    and of its control moved, run over baseline; control_ratio is None without a control on both sides.
    """
    if changed:
        return Cause.VERSION_CHANGED
    if control_ratio is None:
        return Cause.UNKNOWN
    return Cause.ENVIRONMENT if math.log(control_ratio) >= MOVED_SHARE * math.log(ratio) else Cause.MODEL


def is_working(burst: Burst) -> bool:
    """Did a worker use the CPU while it was asked? False when its processes are not watched.

    A worker that spins for ever looks the same: it is called busy here, and saturated once patience ends.
    """
    return burst.worker_cpu is not None and burst.worker_cpu >= WORKING_CPU


def availability_cause(burst: Burst, outcome: Outcome) -> Cause:
    """The cause of a failed request of this burst that ended with `outcome`."""
    if any(s.outcome.family is Family.BUSY for s in burst.samples):
        return Cause.LOAD
    none_alive, some_alive = burst.workers_alive == 0, bool(burst.workers_alive)
    if outcome is Outcome.TIMEOUT:
        if is_working(burst):
            return Cause.LOAD
        return Cause.MODEL if some_alive and burst.worker_cpu is not None else Cause.UNKNOWN
    if outcome is Outcome.REFUSED:
        return Cause.MODEL if some_alive else Cause.UNKNOWN  # none alive: its supervisor starts it again
    if outcome in _SERVER_ERRORS:
        return Cause.UNKNOWN if none_alive else Cause.MODEL
    return Cause.UNKNOWN
