"""Whether somebody set the wall clock: the monotonic clock does not follow such a step."""

from __future__ import annotations

from collections.abc import Callable

MAX_DRIFT_S = 2.0  # between two looks; time servers slew by half a millisecond a second, and a look may come late


class ClockWatch:
    """Compares the two clocks. A machine that was suspended looks like one whose clock was set forward."""

    def __init__(self, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._now, self._monotonic = now, monotonic
        self._apart_s = now() - monotonic()

    def jump_s(self) -> float | None:
        """By how many seconds the clock was set since the last look, below zero for back; None when it was not."""
        before, self._apart_s = self._apart_s, self._now() - self._monotonic()
        jump_s = self._apart_s - before
        return jump_s if abs(jump_s) > MAX_DRIFT_S else None

    def to_monotonic(self, at: float) -> float:
        """A wall time on the monotonic clock, by the last look."""
        return at - self._apart_s
