"""The file shrinks when what filled it is gone, and the log does when nobody holds it up."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from builders import DEADLINE_S, NOW, make_burst

from baselines import burst_store, schema
from baselines.compaction import KEPT_FREE_PAGES, LONG_LOG_BYTES, STEP_PAGES, Compaction, compact
from baselines.database import Database

PAGE = 4096


def fill(database: Database, megabytes: int, *, at: float = NOW) -> None:
    """Bursts with long details, a hundred a transaction."""
    detail = "x" * 10_000
    burst = make_burst(at=at, generation=detail)
    for _ in range(megabytes):
        with database.write() as connection:
            burst_store.add_bursts(connection, [burst] * 100)


def empty(database: Database) -> None:
    with database.write() as connection:
        connection.execute(schema.bursts.delete())


def checkpoint(database: Database) -> None:
    """Carry the log over into the file, whose length then counts."""
    with closing(sqlite3.connect(database.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def length(path: Path, suffix: str = "") -> int:
    return path.with_name(path.name + suffix).stat().st_size


def test_the_file_shrinks_step_by_step(database: Database) -> None:
    """Its high-water mark is not for ever; some free pages stay, for the next hour."""
    fill(database, 25)
    checkpoint(database)
    full = length(database.path)
    empty(database)
    first = compact(database.path)
    assert (first.freed_pages, first.more) == (STEP_PAGES, True)
    steps = [first]
    while steps[-1].more:
        steps.append(compact(database.path))
    assert len(steps) > 2
    checkpoint(database)
    with closing(sqlite3.connect(database.path)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (KEPT_FREE_PAGES,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert full > 20e6
    assert length(database.path) < KEPT_FREE_PAGES * PAGE + 1e6
    assert compact(database.path).freed_pages == 0


def test_a_few_free_pages_are_left_alone(database: Database) -> None:
    """What goes every hour comes again in the next: moving pages about for it would be work for nothing."""
    fill(database, 2)
    empty(database)
    assert compact(database.path) == Compaction(freed_pages=0, more=False, log_bytes=length(database.path, "-wal"))


def test_a_long_reader_holds_the_log_up_and_its_end_lets_it_shrink(database: Database) -> None:
    """Somebody forgot a shell: it is said how long the log is; nobody waits; afterwards the space comes back."""
    with closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM bursts").fetchall()
        fill(database, 20)
        held_up = compact(database.path)
        assert held_up.log_bytes > LONG_LOG_BYTES
        with database.write() as connection:  # nor does the attempt leave a lock behind
            burst_store.add_burst(connection, make_burst())
        reader.execute("COMMIT")
        assert compact(database.path).log_bytes == 0
    with database.read() as connection:
        assert len(burst_store.bursts_since(connection, "chat", "default", limit=3000)) == 2001


def test_without_a_reader_the_log_stays_short(database: Database) -> None:
    """Checkpoints on the way see to that; nothing is left for the hour."""
    fill(database, 30)
    assert length(database.path, "-wal") < LONG_LOG_BYTES
    assert compact(database.path).more is False


def test_somebody_elses_lock_is_no_error(database: Database) -> None:
    """The command line is taking a baseline: the next hour is soon enough."""
    fill(database, 15)
    empty(database)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with database.write():
            held.set()
            assert go_on.wait(DEADLINE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(DEADLINE_S)
    while_held = compact(database.path)
    go_on.set()
    holder.join(DEADLINE_S)
    assert (while_held.freed_pages, while_held.more) == (0, False)
    assert compact(database.path).freed_pages > 0
