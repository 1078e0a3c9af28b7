"""Slow because busy: how slow a canary has been before at like load.

load is how many requests the target has waiting or in progress, as it says itself (`Burst.load`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean, median

REMEMBERED = 1440  # bursts: a day of minutes, so that yesterday's busy hour is known
LIKE_SHARE, LIKE_AT_LEAST = 0.2, 1.0  # loads that differ by less are alike
ENOUGH = 10  # bursts at like load
MORE_WORK = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """A burst at its load.

    at: Unix seconds. off: how far its location lay above the baseline's, in logs; slow: the share of slow requests.
    """

    at: float
    load: float
    off: float
    slow: float


class LoadHistory:
    """What was normal at which load. Holds a day of bursts, three numbers each."""

    def __init__(self) -> None:
        self._paced: deque[Paced] = deque(maxlen=REMEMBERED)

    def add(self, paced: Paced) -> None:
        self._paced.append(paced)

    def at_like(self, load: float, *, until: float) -> Paced | None:
        """What was usual at like load before that moment; None when the bursts that tell are too few."""
        apart = max(LIKE_AT_LEAST, LIKE_SHARE * load)
        like = [paced for paced in self._paced if paced.at < until and abs(paced.load - load) <= apart]
        if len(like) < ENOUGH:
            return None
        return Paced(at=like[-1].at, load=load, off=median(p.off for p in like), slow=fmean(p.slow for p in like))


def is_more_work(load: float, usual: float, ratio: float) -> bool:
    """Whether a target that is `ratio` times as slow holds more requests than that explains.

    By Little's law it holds that many times as many when as much is asked of it; MORE_WORK times that is more work.
    """
    return (load + 1) / (usual + 1) >= MORE_WORK * max(ratio, 1.0)
