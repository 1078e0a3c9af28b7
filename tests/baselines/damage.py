"""Kinds of damage to a database file that nothing has open."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

PAGE = 4096
Damage = Callable[[Path], None]


def garbage_header(path: Path) -> None:
    _overwrite(path, 0, PAGE)


def garbage_in_the_middle(path: Path) -> None:
    _overwrite(path, 2 * PAGE, path.stat().st_size - 4 * PAGE)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def another_ones_wal(path: Path) -> None:
    """The file was put back from a backup, and the `-wal` of some other file still lay there."""
    other = path.with_name("other.db")
    connection = sqlite3.connect(other, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE numbers (value TEXT)")
    connection.executemany("INSERT INTO numbers VALUES (?)", [("x" * 900,)] * 200)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("UPDATE numbers SET value = value || 'y' WHERE rowid BETWEEN 50 AND 90")
    shutil.copy(other.with_name("other.db-wal"), path.with_name(path.name + "-wal"))
    connection.close()


DAMAGES = [garbage_header, garbage_in_the_middle, truncated, emptied, another_ones_wal]


def _overwrite(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(size))
