"""The thread between measuring and judging: probes enqueue and go on, whatever the database does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import structlog
from sqlalchemy.exc import OperationalError

CAPACITY = 10_000  # results; at a hundred targets a minute, over an hour of a database that cannot be written
RETRY_S = 1.0

log = structlog.get_logger("judge")

Work = Callable[[], object]


class JudgeThread:
    """Does work in order, one piece at a time. A database that is locked or full delays it and loses nothing."""

    def __init__(self, *, on_error: Callable[[str], None]) -> None:
        self._on_error = on_error
        self._queue: queue.Queue[Work | None] = queue.Queue(CAPACITY)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="judge", daemon=True)
        self.problem: str | None = None
        """What keeps results from being stored, in words for /healthz; None when nothing does."""

    def start(self) -> None:
        self._thread.start()

    def put(self, work: Work) -> None:
        """Enqueue and return at once. Past CAPACITY the newest result is dropped, counted and said."""
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            self._on_error("results_dropped")

    def waiting(self) -> int:
        return self._queue.qsize()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, timeout_s: float) -> None:
        """Finish what is enqueued, within timeout_s."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            self._stopping.set()
        self._thread.join(timeout_s)
        self._stopping.set()

    def _loop(self) -> None:
        while (work := self._queue.get()) is not None:
            while not self._done(work):
                if self._stopping.wait(RETRY_S):
                    return

    def _done(self, work: Work) -> bool:
        """Do it; False when it should be tried again."""
        try:
            work()
        except OperationalError as error:  # locked beyond the busy time-out, disk full, I/O error
            if self.problem is None:
                log.error("results cannot be stored and wait in memory", error=str(error.orig))  # noqa: TRY400  (expected)
            self.problem = f"the database cannot be written: {error.orig}"
            self._on_error("database")
            return False
        except Exception:  # the thread's boundary: one result that cannot be judged must not end judging
            log.exception("a result could not be judged")
            self._on_error("judge")
        if self.problem is not None:
            log.info("the database can be written again")
            self.problem = None
        return True
