"""Keeps NVML and canaries apart: a call takes the driver's lock, and a canary would measure that instead of the server.

Each waits for the other, but not for ever: a canary that hangs starves no reader, a driver that hangs delays no canary.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

HOLD_S = 0.5  # a reading takes milliseconds; a burst that waited so long for one starts all the same


class CanaryWindow:
    """Who is at it on which devices. Any thread may call it. Devices are named by UUID; None stands for all."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bursts: dict[int, frozenset[str] | None] = {}
        self._read: frozenset[str] | None = frozenset()

    @contextmanager
    def burst(self, devices: frozenset[str] | None) -> Iterator[None]:
        """A burst of a target on these devices; begins when no reading of them is under way."""
        with self._changed:
            self._changed.wait_for(lambda: not _meet(self._read, devices), HOLD_S)
            key = max(self._bursts, default=0) + 1
            self._bursts[key] = devices
        try:
            yield
        finally:
            with self._changed:
                del self._bursts[key]

    def begin_reading(self, devices: frozenset[str] | None, *, force: bool = False) -> bool:
        """Whether they may be read now: no burst is on them. Else as for a reading: to open NVML, or to register for
        Xids, for which None stands. force: read all the same."""
        with self._changed:
            if not force and any(_meet(devices, taken) for taken in self._bursts.values()):
                return False
            self._read = devices
            return True

    def end_reading(self) -> None:
        with self._changed:
            self._read = frozenset()
            self._changed.notify_all()


def _meet(some: frozenset[str] | None, others: frozenset[str] | None) -> bool:
    """Whether there is a device in both."""
    if some is None or others is None:
        return some != frozenset() and others != frozenset()
    return bool(some & others)
