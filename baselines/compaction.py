"""Giving disk space back: SQLite keeps the pages of deleted rows, and a log as long as it ever was.

A page is given back only when there are many free ones, since the next hour needs some again. The `-wal` file is cut
when it has grown beyond what checkpoints on the way keep it at (4 MB); a program that reads for long holds all of that
up, and then the length of the log is the caller's to say. Both go in small steps and wait for nobody.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

KEPT_FREE_PAGES = 1_000  # 4 MB; and a tenth of the file, whichever is more
KEPT_FREE_SHARE = 0.1
STEP_PAGES = 2_000
LONG_LOG_BYTES = 16 * 2**20
PATIENCE_S = 0.1  # for the write lock; the next hour is soon enough
_NOT_NOW = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)  # moving pages takes room in the log first


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """freed_pages: given back in this step, of 4 KiB as SQLite has it by default. more: there are more to give back.
    log_bytes: length of the `-wal` file now."""

    freed_pages: int
    more: bool
    log_bytes: int


def compact(path: Path) -> Compaction:
    """One step, on a connection of its own. Somebody else's lock or a full disk: nothing is given back this time."""
    with closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as connection:
        pages, free = (_ask(connection, name) for name in ("page_count", "freelist_count"))
        spare = free - max(KEPT_FREE_PAGES, int(KEPT_FREE_SHARE * pages))
        try:
            if spare > 0:
                connection.executescript(f"PRAGMA incremental_vacuum({min(spare, STEP_PAGES)})")  # execute frees one
            if _log_bytes(path) > LONG_LOG_BYTES:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _NOT_NOW:
                raise
        freed = free - _ask(connection, "freelist_count")
    return Compaction(freed_pages=freed, more=0 < freed < spare, log_bytes=_log_bytes(path))


def _ask(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _log_bytes(path: Path) -> int:
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0
