"""The threads on which what is due runs. Each run is told when it was due, so that it can say how late it is.

APScheduler's own executor keeps that to itself, and when runs were coalesced names only the last of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any

from apscheduler.events import EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.job import Job

Due = float
"""When a run was due, on the monotonic clock: steps of the wall clock are nobody's lateness."""


class Pool(BasePoolExecutor):  # type: ignore[misc]  # the library has no types
    """At most `threads` threads, started when they are needed. A job with a keyword `due` is given the run's Due.

    to_monotonic: a wall time in Unix seconds on the monotonic clock. A run that waited longer than its grace time for a
    thread is skipped (EVENT_JOB_MISSED).
    """

    def __init__(self, threads: int, *, monotonic: Callable[[], float], to_monotonic: Callable[[float], float]) -> None:
        super().__init__(ThreadPoolExecutor(threads))
        self._monotonic = monotonic
        self._to_monotonic = to_monotonic

    def _do_submit_job(self, job: Job, run_times: Sequence[datetime]) -> None:
        """The library's extension point. job.next_run_time is still the first of the runs that were due."""
        first, last = (self._to_monotonic(at.timestamp()) for at in (job.next_run_time or run_times[0], run_times[-1]))
        future = self._pool.submit(self._run, job, run_times[-1], first, last)
        future.add_done_callback(partial(self._note_end, job.id))

    def _run(self, job: Job, at: datetime, first: Due, last: Due) -> list[JobExecutionEvent]:
        grace_s = math.inf if job.misfire_grace_time is None else job.misfire_grace_time
        if self._monotonic() - last > grace_s:
            return [JobExecutionEvent(EVENT_JOB_MISSED, job.id, "default", at)]
        job.func(*job.args, **dict.fromkeys(job.kwargs, first))  # `due` is the only one there is
        return []

    def _note_end(self, job: str, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._run_job_success(job, future.result())
        else:
            self._run_job_error(job, error, error.__traceback__)
