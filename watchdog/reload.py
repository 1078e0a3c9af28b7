"""Taking up a changed configuration while the daemon runs: read, validate, build, exchange.

A bad file changes nothing: the configuration in use stays, and the log, a metric and /healthz say what is wrong with
the new one. A thread of its own, because reading and building take their time, and closing what is gone even more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import DatabaseError as SqlError

from baselines.database import DatabaseError
from watchdog.config import Config, ConfigError
from watchdog.metrics import Metrics
from watchdog.target import Target
from watchdog.watch import Change, Watch, compare

LOOK_S = 1.0
SHOWN_PROBLEMS = 5  # in a note; the log has them all

log = structlog.get_logger("reload")


class Reload:
    """The thread that does it.

    load: reads and validates the file; build: makes the watch that follows another. Both raise ConfigError.
    enqueue: puts work behind the results that wait to be judged. adopt: exchanges two watches, there. It may be called
    again after it raised a database error.
    settle: finishes what an exchange left to do; True when it has to be asked again.
    """

    def __init__(
        self,
        watch: Watch,
        metrics: Metrics,
        *,
        load: Callable[[], Config],
        build: Callable[[Config, Watch], Watch],
        enqueue: Callable[[Callable[[], object]], None],
        adopt: Callable[[Watch, Watch, Change], None],
        settle: Callable[[], bool],
        now: Callable[[], float],
        waiting: Callable[[], int],
    ) -> None:
        self._watch = watch
        self._metrics = metrics
        self._load = load
        self._build = build
        self._enqueue = enqueue
        self._adopt = adopt
        self._settle = settle
        self._now = now
        self._waiting = waiting
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reload", daemon=True)
        self._note: str | None = None
        self._note_result(ok=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        """Read the file again, once for any number of requests that come before it is read."""
        self._asked.set()

    def stop(self, timeout_s: float) -> None:
        """Begin nothing more."""
        self._stopping.set()
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def note(self) -> str | None:
        """Why the file is not what is in use, in words for /healthz; None when it is, as far as is known."""
        return self._note

    def _loop(self) -> None:
        unsettled = True  # what the start left to do
        while not self._stopping.is_set():
            self._asked.wait(LOOK_S if unsettled else None)
            if self._asked.is_set() and not self._stopping.is_set():
                self._asked.clear()  # before reading: who asks from now on gets another round
                self._reload()
            unsettled = self._settle_rest()

    def _settle_rest(self) -> bool:
        try:
            return self._settle()
        except Exception:  # the thread's boundary: a later look may find it cured
            log.exception("what a new configuration left to do could not be done")
            self._metrics.errors.labels("reload").inc()
            return True

    def _reload(self) -> None:
        try:
            after = self._build(self._load(), self._watch)
        except ConfigError as error:
            self._refuse(error.problems)
            return
        except Exception:  # the thread's boundary: whatever building trips over, what is in use goes on
            log.exception("the configuration could not be built")
            self._metrics.errors.labels("reload").inc()
            self._refuse(["it could not be built; the log has the error"])
            return
        before, change = self._watch, compare(self._watch, after)
        if change == Change() and before.config == after.config:
            self._note_result(ok=True)
            log.info("configuration read: it is the one in use")
        elif self._exchange(before, after, change):
            self._watch = after
            self._note_result(ok=True)
            log.info("configuration taken up", **{key: names for key, names in asdict(change).items() if names})
            for target in (before.targets[name] for name in (*change.targets_changed, *change.targets_gone)):
                self._close(target)

    def _exchange(self, before: Watch, after: Watch, change: Change) -> bool:
        """Have it done between two results; False when it could not be, or when the daemon is stopping.

        It waits as long as the results do, while the database cannot be written.
        """
        done = threading.Event()
        failed: list[Exception] = []

        def exchange() -> None:
            if done.is_set():
                return
            try:
                self._adopt(before, after, change)
            except (SqlError, DatabaseError):
                raise  # the judge thread's to tell apart; it comes again
            except Exception as error:
                log.exception("the configuration could not be exchanged")
                failed.append(error)
            done.set()

        self._enqueue(exchange)
        while not done.wait(LOOK_S):
            if self._stopping.is_set():
                return False
            self._note = "a new configuration waits until the database can be written"
            if not self._waiting():  # it was dropped: the queue was full
                self._enqueue(exchange)
        if failed:
            self._metrics.errors.labels("reload").inc()
            self._refuse(["it could not be taken up; the log has the error, and a restart takes it up"])
        return not failed

    def _refuse(self, problems: list[str]) -> None:
        for problem in problems:
            log.error("configuration refused, the one in use stays", problem=problem)
        more = [f"and {len(problems) - SHOWN_PROBLEMS} more, see the log"] if len(problems) > SHOWN_PROBLEMS else []
        at = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._note_result(ok=False)
        said = "; ".join([*problems[:SHOWN_PROBLEMS], *more])
        self._note = f"the configuration read at {at} was refused and the one before is in use: {said}"

    def _note_result(self, *, ok: bool) -> None:
        self._metrics.reload_ok.set(ok)
        if ok:
            self._note = None
            self._metrics.reloaded_at.set(self._now())

    def _close(self, target: Target) -> None:
        try:
            target.close()
        except Exception:  # a worker that cannot be ended must not keep the rest from being taken up
            log.exception("what is watched no longer could not be closed", target=target.name)
            self._metrics.errors.labels("reload").inc()
