"""Taking turns on a canary across threads and processes: the daemon and the command line never probe at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.01


class Occupied(Exception):  # noqa: N818  (the name says what happened)
    """Somebody else holds it."""


@contextmanager
def hold(
    path: Path, *, wait_s: float, monotonic: Callable[[], float], sleep: Callable[[float], object]
) -> Iterator[None]:
    """Hold an exclusive lock on a file that is created if need be; the kernel frees it when the holder dies.

    Waits up to wait_s (0: not at all), then raises Occupied.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= deadline:
                    raise Occupied(str(path)) from None
                sleep(POLL_S)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock now. Creates nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def daemon_lock(database: Path) -> Path:
    """The file whose lock says that a daemon serves this database; that it is there says that one once did."""
    return database.with_name(database.name + ".daemon.lock")
