"""The thread between measuring and judging: probes enqueue and go on, whatever the database does."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable

import structlog
from sqlalchemy.exc import DatabaseError as SqlError
from sqlalchemy.exc import OperationalError

from baselines.condition import is_corrupt
from baselines.database import DatabaseError

CAPACITY = 10_000  # results; at a hundred targets a minute, over an hour of a database that cannot be written
RETRY_S = 1.0

log = structlog.get_logger("judge")

Work = Callable[[], object]


class JudgeThread:
    """Does work in order, one piece at a time. A database that is locked or full delays it and loses nothing.

    One that is corrupt takes nothing more: what is enqueued by then is dropped and counted, and the daemon ends.
    """

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
        if left := self.waiting():
            log.error("results that could not be stored are lost", results=left)

    def _loop(self) -> None:
        while (work := self._queue.get()) is not None:
            while not self._done(work):
                if self._stopping.wait(RETRY_S):
                    return

    def _done(self, work: Work) -> bool:
        """Do it; False when it should be tried again."""
        try:
            work()
        except (SqlError, DatabaseError) as error:
            return self._may_go_on(error)
        except Exception:  # the thread's boundary: one result that cannot be judged must not end judging
            log.exception("a result could not be judged")
            self._on_error("judge")
        if self.problem is not None:
            log.info("the database can be written again")
            self.problem = None
        return True

    def _may_go_on(self, error: SqlError | DatabaseError) -> bool:
        """Whether to leave this piece and take the next one; False: it will be stored when the database is well."""
        cause = error.orig if isinstance(error, SqlError) else error
        if isinstance(error, DatabaseError) or is_corrupt(cause):
            self._say(f"the database is corrupt, results are dropped: {cause}")
            self._on_error("results_dropped")
            return True
        if isinstance(error, OperationalError) and not _is_our_fault(cause):
            self._say(f"the database cannot be written, results wait in memory: {cause}")
            self._on_error("database")
            return False
        log.error("a result could not be judged", exc_info=error)
        self._on_error("judge")
        return True

    def _say(self, problem: str) -> None:
        if self.problem is None:
            log.error(problem)
        self.problem = problem


def _is_our_fault(cause: BaseException | None) -> bool:
    """SQLite's answer to a statement that it cannot run, now or later; trying it again would hold up all the others."""
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
