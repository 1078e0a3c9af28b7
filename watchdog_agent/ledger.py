"""What the serving process counts and says of itself: requests, shapes of input, its version, its model's load time.

There is one ledger in a process (`LEDGER`): middleware that is made before `attach`, after it or without it writes into
the same. A forked child starts with empty counts, for they are of one life. Nothing here raises.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Callable, Iterable, Optional

from watchdog_agent.distinct import Distinct

_getpid = os.getpid


class Ledger:
    """Two additions under a lock for each request; no clock is read and nothing is allocated.

    on_fork: called in a child whose fork nothing else told of (a server that forks in C), at its first request.
    """

    def __init__(self) -> None:
        self.on_fork: Optional[Callable[[], None]] = None
        self.version: Optional[str] = None
        self.model_load_s: Optional[float] = None
        self.may_run_kernel = True
        self.counting = False  # somebody is there to count: until then the counts are not known, rather than zero
        self.reset()

    def reset(self) -> None:
        """The counts of a new life. The lock is new too: at the fork another thread may have held the old one."""
        self._lock = threading.RLock()  # reentrant: a signal handler may run, and count, in the middle of `begin`
        self._pid = _getpid()
        self._requests = 0
        self._in_flight = 0
        self._shapes: Optional[Distinct] = None

    def forget_process(self) -> None:
        """Take the next request as that of a child, whatever process it is in."""
        self._pid = -1

    @property
    def requests(self) -> Optional[int]:
        """Begun in this life; None when nothing counts them."""
        return self._requests if self.counting else None

    @property
    def in_flight(self) -> Optional[int]:
        """Begun and not ended; None when nothing counts them."""
        return self._in_flight if self.counting else None

    @property
    def shapes(self) -> Optional[int]:
        """Different shapes seen, as `Distinct` counts; None when none was ever looked at."""
        return None if self._shapes is None else self._shapes.count

    def begin(self) -> None:
        """A request begins."""
        if _getpid() != self._pid:
            self._notice_fork()
        with self._lock:
            self._requests += 1
            self._in_flight += 1

    def end(self) -> None:
        """A request ended. One that began before a fork is not the child's to end."""
        with self._lock:
            if self._in_flight > 0:
                self._in_flight -= 1

    def note_shapes(self, values: Iterable[Any]) -> None:
        """The shapes of whatever has one among these values and in dicts, lists and tuples of them, together."""
        try:
            seen = hash(tuple(tuple(v.shape) for value in values for v in _leaves(value) if hasattr(v, "shape")))
            with self._lock:
                if self._shapes is None:
                    self._shapes = Distinct()
                self._shapes.add(seen)
        except Exception:  # noqa: BLE001, S110 - a value may raise anything when it is looked at
            pass

    def _notice_fork(self) -> None:
        self.reset()
        if self.on_fork is not None:
            self.on_fork()


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else (value,)


LEDGER = Ledger()
