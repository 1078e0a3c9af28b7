"""Threads of the operating system, and what they wait with, also where gevent or eventlet put greenlets in their place.

A greenlet runs on the host's main thread: it stands still when the host computes, and what it does to its thread, such
as blocking signals, it does to the host. So our threads use what Python itself made, which both libraries still hand
out; neither is loaded for it.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import time
from types import ModuleType
from typing import Any, Callable


def original(module: ModuleType, name: str) -> Any:
    """What bears that name in a module of the standard library, as it was before anybody patched it."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if hasattr(gevent, "is_object_patched") and gevent.is_object_patched(module.__name__, name):
        return gevent.get_original(module.__name__, name)
    eventlet: Any = sys.modules.get("eventlet.patcher")
    return getattr(eventlet.original(module.__name__) if hasattr(eventlet, "original") else module, name)


def is_main_thread() -> bool:
    """Whether this is the thread that the process began with, whatever runs on it now. Known on Linux only."""
    return bool(_native_id() == os.getpid())


class Event:
    """Happens once. Any thread may set it, a signal handler and a greenlet too."""

    def __init__(self) -> None:
        self._lock = original(_thread, "allocate_lock")()
        self._lock.acquire()
        self._happened = False

    def is_set(self) -> bool:
        return self._happened

    def set(self) -> None:
        self._happened = True
        self._open()

    def wait(self, wait_s: float) -> bool:
        """Whether it has happened, at the latest after so long."""
        if self._lock.acquire(timeout=wait_s):
            self._open()  # for whoever else waits
        return self._happened

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open
            self._lock.release()


class Thread:
    """Begins at once, and does not keep the process from ending. run must not raise. RuntimeError: no more threads."""

    def __init__(self, run: Callable[..., None], *args: Any) -> None:
        self._native_id = 0  # no thread's; until it has begun
        self._ended = Event()
        original(_thread, "start_new_thread")(self._run, (run, args))

    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def is_current(self) -> bool:
        return bool(self._native_id == _native_id())

    def await_end(self, wait_s: float) -> None:
        """Until it has ended, at most so long; and then until the kernel sees it no more, a moment at most.

        From 3.12 on Python warns of forks while the kernel still sees a second thread.
        """
        self._ended.wait(wait_s)
        sleep = original(time, "sleep")
        for _ in range(50):
            if not os.path.exists(f"/proc/self/task/{self._native_id}"):  # noqa: PTH110 - no pathlib inside a server
                break
            sleep(0.0001)

    def _run(self, run: Callable[..., None], args: Any) -> None:
        self._native_id = _native_id()
        try:
            run(*args)
        finally:
            self._ended.set()


def _native_id() -> int:
    return int(original(_thread, "get_native_id")())
