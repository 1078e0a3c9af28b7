"""The control beside a canary: a cheap reference measured right after each request, which the model does not slow down.

What moved it moved the machine, the network or the clocks. What moved the floor of the canary and not its own was the
model or its server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from baselines.floor import Floor, lowest
from baselines.noise import location
from baselines.quantiles import Floats, Groups

Measure = Callable[[Floats], Floats]

CLOSE_WANDER = 0.02  # standard deviation, in logs, of the canary's floor over the control's where nothing changed
TOP = 0.3  # of a burst: its slowest requests
QUIET = 0.35  # of the baseline's bursts lie below what a quiet machine gives, be it busy half the time
MIN_SHIFT = 0.03  # in logs; a control that moved less did not move


class Control:
    """What a baseline's controls say of bursts with a control.

    bursts, controls: the baseline's latencies in seconds, at least one burst of controls.
    """

    def __init__(self, bursts: Groups, controls: Groups) -> None:
        self._canary, self._control = _Usual(bursts), _Usual(controls)
        self.floor = Floor(controls)

    def share(self, bursts: Sequence[Sequence[float]], controls: Sequence[Sequence[float]]) -> float:
        """How much of the canary's shift its control shared, from 0; 1: it moved as much, in logs.

        The larger share, of where bursts lie and of their slowest requests: a busy machine hits a short request less
        often than a long one, and then shows in its slowest alone. 0 when either did not move or is not known.
        """
        found = [0.0]
        for measure in MEASURES:
            shift = self._canary.shift(bursts, measure)
            shared = self._control.shift([burst for burst in controls if burst], measure)
            if shift > 0 and shared >= MIN_SHIFT:
                found.append(shared / shift)
        return max(found)

    def low(self, controls: Sequence[float]) -> float | None:
        """Of a burst's controls, for the floor; None when there are too few."""
        return lowest(controls, self.floor.depth) if controls else None


class _Usual:
    """Where bursts lie at baseline, by either measure."""

    def __init__(self, bursts: Groups) -> None:
        logs = [np.log(burst) for burst in bursts]
        self._level = {m: float(np.quantile([m(burst) for burst in logs], QUIET)) for m in MEASURES}

    def shift(self, bursts: Sequence[Sequence[float]], measure: Measure) -> float:
        """Mean of the bursts over the baseline's level, in logs; 0 without bursts."""
        if not bursts:
            return 0.0
        return float(np.mean([measure(np.log(burst)) for burst in bursts])) - self._level[measure]


def _top(logs: Floats) -> Floats:
    return np.asarray(np.sort(logs)[-max(1, round(TOP * len(logs))) :].mean())


MEASURES: tuple[Measure, ...] = (location, _top)
