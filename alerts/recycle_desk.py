"""The recycle thread: takes requested episodes from the database and runs each on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import structlog

from alerts import recycle_store
from alerts.episode import State
from alerts.gate import Subject
from alerts.recycle_store import Episode
from alerts.recycling import Recycling
from baselines.database import Database

LOOK_S = 2.0  # a request made by another process (the command line) is seen within this time
WORKERS = 4  # targets recycled at the same time; the gate bounds a group further

log = structlog.get_logger("recycle")


class RecycleDesk:
    """Starts episodes that are requested, resumes those a crash interrupted, never two of one target.

    on_end is called with each episode that ended, on the episode's thread.
    """

    def __init__(
        self,
        database: Database,
        recycling: Recycling,
        subjects: Mapping[str, Subject],
        *,
        on_end: Callable[[Episode], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._database = database
        self._recycling = recycling
        self._subjects = subjects
        self._on_end = on_end
        self._on_error = on_error
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._taken: dict[str, Future[None]] = {}  # by target: run by a thread of the pool, or waiting for one
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="recycle")
        self._thread = threading.Thread(target=self._loop, name="recycle-desk", daemon=True)

    def start(self) -> None:
        """Resume what was interrupted and take requests as they come. At most one desk may serve a database."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """There may be a new request: look at once."""
        self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """Take no more requests, let an act under way finish within timeout_s; the next start resumes what is left."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left = list(self._taken.values())
        wait(left, timeout_s)

    def taken(self) -> frozenset[str]:
        """Targets whose episode is being run or waits for a thread."""
        with self._lock:
            return frozenset(self._taken)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(LOOK_S)
            self._wake.clear()
            try:
                self._take_requests()
            except Exception:
                log.exception("recycle requests could not be read")
                self._on_error("recycle")

    def _take_requests(self) -> None:
        taken = self.taken()  # asked first: what is read of these may be older than what is written
        with self._database.read() as connection:
            episodes = recycle_store.under_way(connection)
        for episode in episodes:
            if episode.target not in taken and not self._stopping.is_set():
                requested = episode.state is State.SUSPECT
                self._launch(episode, self._recycling.run if requested else self._recycling.resume)

    def _launch(self, episode: Episode, go: Callable[[Episode, Subject], Episode]) -> None:
        subject = self._subjects.get(episode.target)
        if subject is None:
            return  # the target was removed from the configuration; `watchdog recycle` shows the row
        with self._lock:
            if episode.target in self._taken:
                return
            self._taken[episode.target] = self._pool.submit(self._run, episode, subject, go)

    def _run(self, episode: Episode, subject: Subject, go: Callable[[Episode, Subject], Episode]) -> None:
        try:
            ended = go(episode, subject)
            log.info("recycle", target=ended.target, state=ended.state, outcome=ended.outcome, detail=ended.detail)
            self._on_end(ended)
        except Exception:
            log.exception("recycle failed", target=episode.target, episode=episode.id)
            self._on_error("recycle")
        finally:
            with self._lock:
                self._taken.pop(episode.target, None)
