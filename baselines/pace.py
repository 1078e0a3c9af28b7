"""How fast a target answered in each of its newest bursts: what is kept of them to compare targets with each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from baselines.baseline import latencies_of
from baselines.seen import enough_judged
from probes.messages import Burst, Identity

FASTEST, SLOWEST = 0.1, 0.2  # shares of a burst left out of its location: luck at one end, stalls at the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Of one burst. latencies_s: the judged ones, in seconds, never empty, above 0. provenance: sorted pairs.

    log_s: their location: the mean of their natural logarithms without the fastest tenth and the slowest fifth.
    """

    at: float
    identity: Identity
    provenance: tuple[tuple[str, str], ...]
    latencies_s: tuple[float, ...]
    log_s: float


def pace_of(burst: Burst) -> Pace | None:
    """The pace of a burst; None when most of it failed or was tainted."""
    latencies_s = latencies_of(enough_judged(burst))
    if not latencies_s or min(latencies_s) <= 0:
        return None
    return Pace(
        at=burst.at,
        identity=burst.identity,
        provenance=tuple(sorted(burst.provenance.items())),
        latencies_s=latencies_s,
        log_s=_location(latencies_s),
    )


def _location(latencies_s: Sequence[float]) -> float:
    logs, count = sorted(map(math.log, latencies_s)), len(latencies_s)
    kept = logs[int(FASTEST * count) : count - int(SLOWEST * count)]
    return math.fsum(kept) / len(kept)


class Track:
    """The paces of the newest bursts of one canary, oldest first, at most `limit`; bursts without one are passed over.

    A burst that is taken again, as after a database error, or that is older than others since the clock was set back,
    replaces what is not older than it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.paces: tuple[Pace, ...] = ()

    def take(self, burst: Burst) -> None:
        if (pace := pace_of(burst)) is not None:
            self.paces = (*(p for p in self.paces if p.at < pace.at), pace)[-self._limit :]
