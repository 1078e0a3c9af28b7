"""The pool on a real APScheduler: each run is told when it was due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from builders import wait_until

from watchdog.pool import Pool

LATE_S = 10.0


class Runs:
    """A scheduler with one thread; jobs that note how late they were."""

    def __init__(self) -> None:
        apart_s = time.time() - time.monotonic()
        pool = Pool(1, monotonic=time.monotonic, to_monotonic=lambda at: at - apart_s)
        self.scheduler = BackgroundScheduler(timezone=UTC, executors={"default": pool})
        self.late: list[float] = []
        self.fails = False
        first = datetime.fromtimestamp(time.time() - LATE_S, UTC)
        self.scheduler.add_job(
            self.run,
            "interval",
            seconds=1.0,
            start_date=first,
            next_run_time=first,
            kwargs={"due": 0.0},
            coalesce=True,
            misfire_grace_time=100,
        )
        self.scheduler.start()

    def run(self, *, due: float) -> None:
        self.late.append(time.monotonic() - due)
        if self.fails:
            raise RuntimeError("nobody thought of this")


@pytest.fixture
def runs() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    runs.scheduler.shutdown()


def test_coalesced_run_is_as_late_as_the_first_that_it_stands_for(runs: Runs) -> None:
    """Ten runs were left out: that one came in time for the last of them would be a lie. The next is in time."""
    wait_until(lambda: len(runs.late) >= 2, "two runs")
    assert runs.late[0] >= LATE_S
    assert 0 <= runs.late[1] < LATE_S / 2


def test_job_that_breaks_runs_again(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, its thread is free again."""
    runs.fails = True
    wait_until(lambda: len(runs.late) >= 2, "two runs")
    wait_until(lambda: "nobody thought of this" in caplog.text, "the error is logged")
