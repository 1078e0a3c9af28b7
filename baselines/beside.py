"""What happened beside a worker's memory that may explain it: new input shapes, and what trims gave back."""

from __future__ import annotations

from array import array
from collections import deque

import numpy as np

from baselines.quantiles import Floats

KEPT = 1600  # moments; 32 hours of the narrowest buckets at any window
MAX_TRIMS = 100


class Beside:
    """Small and bounded. every_s: the distance at which shapes are remembered."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._ages_s, self._shapes = array("d"), array("d")
        self._trims: deque[tuple[float, float]] = deque(maxlen=MAX_TRIMS)

    def trim(self, age_s: float, share: float) -> None:
        """A trim gave back so much of what had been gained until then."""
        self._trims.append((age_s, share))

    def take(self, age_s: float, *, shapes: int | None) -> None:
        """What one sample says; None is not known."""
        if shapes is None or (self._ages_s and age_s - self._ages_s[-1] < self._every_s):
            return
        self._ages_s.append(age_s)
        self._shapes.append(float(shapes))
        if len(self._ages_s) > 2 * KEPT:
            del self._ages_s[:-KEPT], self._shapes[:-KEPT]

    def shapes_at(self, ages_s: Floats) -> Floats:
        """How many different shapes there had been at these ages; zeros where nobody tells."""
        return np.interp(ages_s, self._ages_s, self._shapes) if self._ages_s else np.zeros(len(ages_s))

    def trimmed_since(self, age_s: float) -> float:
        """The largest share that one trim gave back since that age; 0 without one."""
        return max((share for at_s, share in self._trims if at_s >= age_s), default=0.0)
