"""What happened beside a worker's memory: new input shapes and what trims gave back, which may explain it, and what
others took of its room."""

from __future__ import annotations

from array import array
from collections import deque

import numpy as np

from baselines.quantiles import Floats

KEPT = 1600  # moments; 32 hours of the narrowest buckets at any window
MAX_TRIMS = 100


class _Course:
    """One number over the ages of a life, at distances of every_s at least. In four bytes each: ages to a second after
    half a year, bytes to a few thousand."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._ages_s, self._values = array("f"), array("f")

    def take(self, age_s: float, value: float) -> None:
        if self._ages_s and age_s - self._ages_s[-1] < self._every_s:
            return
        self._ages_s.append(age_s)
        self._values.append(value)
        if len(self._ages_s) > KEPT + KEPT // 4:
            del self._ages_s[:-KEPT], self._values[:-KEPT]

    def at(self, ages_s: Floats) -> Floats:
        """Zeros while there is none."""
        return np.interp(ages_s, self._ages_s, self._values) if self._ages_s else np.zeros(len(ages_s))


class Beside:
    """Small and bounded. every_s: the distance at which numbers are remembered."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._shapes = _Course(every_s)
        self._others: dict[str, _Course] = {}
        self._trims: deque[tuple[float, float]] = deque(maxlen=MAX_TRIMS)

    def trim(self, age_s: float, share: float) -> None:
        """A trim gave back so much of what had been gained until then."""
        self._trims.append((age_s, share))

    def take(self, age_s: float, *, shapes: int | None) -> None:
        """What one sample says; None is not known."""
        if shapes is not None:
            self._shapes.take(age_s, float(shapes))

    def take_others(self, figure: str, age_s: float, held: float) -> None:
        """What others have of the room of a figure."""
        self._others.setdefault(figure, _Course(self._every_s)).take(age_s, held)

    def shapes_at(self, ages_s: Floats) -> Floats:
        """How many different shapes there had been at these ages; zeros where nobody tells."""
        return self._shapes.at(ages_s)

    def others_at(self, figure: str, ages_s: Floats) -> Floats:
        """What others had of the room of a figure at these ages; zeros where nobody tells."""
        return self._others[figure].at(ages_s) if figure in self._others else np.zeros(len(ages_s))

    def trimmed_since(self, age_s: float) -> float:
        """The largest share that one trim gave back since that age; 0 without one."""
        return max((share for at_s, share in self._trims if at_s >= age_s), default=0.0)
