"""Did the watchdog itself hold its own measurement up?

Two delays of our own can be told from the server's: the garbage collector, which stops every thread of the process, and
the wait of a runnable thread for a free core. A thread that waits for the interpreter lock cannot be seen from inside.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

TAINT_FLOOR_S = 0.001  # scheduling noise of an idle machine stays below this
TAINT_SHARE = 0.10  # half of the smallest slowdown that is looked for by default (20 %)

RUN_QUEUE = Path("/proc/thread-self/schedstat")


def is_tainted(own_delay_s: float, took_s: float) -> bool:
    """Whether our own delay may have changed what was concluded from a request that took `took_s` seconds."""
    return own_delay_s > max(TAINT_FLOOR_S, TAINT_SHARE * took_s)


def run_queue_delay_s(schedstat: Path = RUN_QUEUE) -> float:
    """Seconds the calling thread has been runnable without a core since it began; 0.0 where the kernel does not count.

    Source: Documentation/scheduler/sched-stats.rst of Linux, /proc/PID/schedstat, second field, nanoseconds.
    """
    try:
        return int(schedstat.read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class OwnDelay:
    """A counter of seconds by which this process held up the thread that asks. Only its differences mean something.

    Between `start` and `stop` it counts pauses of the garbage collector; without `start` only the run queue.
    """

    def __init__(self, *, monotonic: Callable[[], float], schedstat: Path = RUN_QUEUE) -> None:
        self._monotonic = monotonic
        self._schedstat = schedstat
        self._paused_s = 0.0
        self._began: float | None = None

    def __call__(self) -> float:
        return self._paused_s + run_queue_delay_s(self._schedstat)

    def start(self) -> None:
        if self._on_collection not in gc.callbacks:
            gc.callbacks.append(self._on_collection)

    def stop(self) -> None:
        """Safe to call twice."""
        if self._on_collection in gc.callbacks:
            gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: str, _info: dict[str, Any]) -> None:
        """Called by the interpreter, never twice at once: the lock is held from "start" to "stop"."""
        if phase == "start":
            self._began = self._monotonic()
        elif self._began is not None:
            self._paused_s += self._monotonic() - self._began
            self._began = None
