"""The judge thread: in order, nothing lost while the database cannot be written, nothing ended by a fault."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from builders import DEADLINE_S, wait_until
from sqlalchemy.exc import IntegrityError, OperationalError

from baselines.database import Database
from watchdog import judge_thread
from watchdog.judge_thread import JudgeThread


@dataclass
class Judge:
    """A judge thread, what it did and what it counted."""

    done: list[object] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = JudgeThread(on_error=self.errors.append)

    def put(self, item: object) -> None:
        self.thread.put(lambda: self.done.append(item))


@pytest.fixture
def judge() -> Iterator[Judge]:
    judge = Judge()
    yield judge
    if judge.thread.is_alive():
        judge.thread.stop(DEADLINE_S)


def locked() -> OperationalError:
    return OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))


def test_work_is_done_in_the_order_in_which_it_came(judge: Judge) -> None:
    """A target's results are judged as they were measured."""
    judge.thread.start()
    for number in range(1000):
        judge.put(number)
    wait_until(lambda: len(judge.done) == 1000, "all is done")
    assert judge.done == list(range(1000))


def test_put_returns_at_once_while_the_judge_is_held_up(judge: Judge) -> None:
    """Probes enqueue and go on, whatever the database does; what waits is counted."""
    held = threading.Event()
    judge.thread.start()
    judge.thread.put(lambda: held.wait(DEADLINE_S))
    for number in range(100):
        judge.put(number)
    assert judge.thread.waiting() >= 100
    assert judge.done == []
    held.set()
    wait_until(lambda: len(judge.done) == 100, "all is done")
    assert judge.thread.waiting() == 0


def test_database_that_cannot_be_written_delays_and_loses_nothing(judge: Judge) -> None:
    """The same piece is tried again, in its place, and the trouble is said until it is over."""
    mended = threading.Event()

    def store() -> None:
        if not mended.is_set():
            raise locked()
        judge.done.append("stored")

    judge.thread.start()
    judge.thread.put(store)
    judge.put("next")
    assert (
        wait_until(lambda: judge.thread.problem, "it is said")
        == "the database cannot be written, results wait in memory: database is locked"
    )
    assert judge.errors[0] == "database"
    assert judge.done == []
    mended.set()
    wait_until(lambda: len(judge.done) == 2, "both are done")
    assert judge.done == ["stored", "next"]
    assert judge.thread.problem is None


def test_locked_database_is_waited_for(judge: Judge, database: Database) -> None:
    """The same with a real lock: another process holds the database for longer than the busy time-out."""

    def store() -> None:
        with database.fast.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 1")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql("CREATE TABLE scratch (number INTEGER)")
            connection.commit()
        judge.done.append("stored")

    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    judge.thread.start()
    judge.thread.put(store)
    assert "locked" in wait_until(lambda: judge.thread.problem, "it is said")
    other.execute("ROLLBACK")
    other.close()
    wait_until(lambda: judge.done, "it is stored")


@pytest.mark.parametrize(
    "error",
    [ValueError("cannot judge"), KeyError("target"), IntegrityError("INSERT", {}, sqlite3.IntegrityError("unique"))],
    ids=["value", "key", "integrity"],
)
def test_result_that_cannot_be_judged_is_counted_and_skipped(judge: Judge, error: Exception) -> None:
    """One bad result ends nothing: the next is judged, and no trouble with the database is claimed."""

    def fail() -> None:
        raise error

    judge.thread.start()
    judge.thread.put(fail)
    judge.put("next")
    wait_until(lambda: judge.done, "the next is done")
    assert judge.errors == ["judge"]
    assert judge.thread.problem is None


def test_statement_that_sqlite_cannot_run_holds_up_nobody(judge: Judge, database: Database) -> None:
    """Trying it again would never help: it is counted as a result that cannot be judged."""

    def store() -> None:
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO no_such_table VALUES (1)")

    judge.thread.start()
    judge.thread.put(store)
    judge.put("next")
    wait_until(lambda: judge.done, "the next is done")
    assert judge.errors == ["judge"]
    assert judge.thread.problem is None


def test_corrupt_database_takes_nothing_more(judge: Judge, database: Database) -> None:
    """What cannot be stored is dropped, counted and said; the thread stays, so that the daemon can end in order."""

    def store() -> None:
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO lives VALUES ('chat', 'ours', 0, 1, 1)")

    database.close()
    database.path.write_bytes(b"garbage " * 1000)
    judge.thread.start()
    for _ in range(3):
        judge.thread.put(store)
    wait_until(lambda: len(judge.errors) == 3, "all are counted")
    assert judge.errors == ["results_dropped"] * 3
    assert judge.thread.problem is not None
    assert "the database is corrupt, results are dropped" in judge.thread.problem
    assert "file is not a database" in judge.thread.problem
    judge.thread.stop(DEADLINE_S)
    assert not judge.thread.is_alive()


def test_stop_finishes_what_was_measured(judge: Judge) -> None:
    """What is in the queue is stored before the daemon ends."""
    held = threading.Event()
    judge.thread.start()
    judge.thread.put(lambda: held.wait(DEADLINE_S))
    for number in range(50):
        judge.put(number)
    threading.Timer(0.05, held.set).start()
    judge.thread.stop(DEADLINE_S)
    assert judge.done == list(range(50))
    assert not judge.thread.is_alive()


def test_stop_gives_up_at_its_deadline(judge: Judge) -> None:
    """A database that stays locked does not keep the daemon from ending."""

    def fail() -> None:
        raise locked()

    judge.thread.start()
    judge.thread.put(fail)
    wait_until(lambda: judge.thread.problem, "it is tried")
    judge.thread.stop(0.05)
    wait_until(lambda: not judge.thread.is_alive(), "the thread has ended")
    assert judge.done == []


def test_full_queue_drops_the_newest_and_counts_it(judge: Judge) -> None:
    """Memory is bounded too: past the capacity the newest is lost, and that is said."""
    for number in range(judge_thread.CAPACITY + 3):
        judge.put(number)
    assert judge.errors == ["results_dropped"] * 3
    judge.thread.start()
    wait_until(lambda: len(judge.done) == judge_thread.CAPACITY, "the others are done")
    assert judge.done[-1] == judge_thread.CAPACITY - 1


def test_thread_that_was_not_started_is_not_alive(judge: Judge) -> None:
    """/healthz asks this."""
    assert not judge.thread.is_alive()
    judge.thread.start()
    assert judge.thread.is_alive()
