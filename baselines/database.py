"""Opening the SQLite file: two engines on it, one per promise about what a power cut may take.

`fast` (synchronous=NORMAL) writes samples: a power cut may lose the last moments, never the integrity.
`durable` (synchronous=FULL) writes incidents, deliveries and recycles: what it committed is on disk. In WAL mode its
fsync also carries every earlier commit. Measured: 0.05 ms against 4 ms a commit (one fsync), so each has its place.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError

from baselines.condition import is_corrupt, is_foreign

BUSY_TIMEOUT_S = 5.0  # another process (the CLI) may hold the write lock for a commit


class DatabaseError(Exception):
    """The database cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What befell the file ("is ..."), and what the next start will do about it."""

    what: str
    next: str


class Damage:
    """What befell the file, as it was first noticed, on whichever thread; None while nothing is wrong.

    From then on nothing is written: what is still good in a corrupt file may yet be recovered, and what is written to
    a file that was removed is lost. There is no way back; the daemon ends, and its next start sees to it (see
    `condition`).
    """

    def __init__(self) -> None:
        self.found: Finding | None = None
        self._tell: Callable[[Finding], None] = lambda _found: None
        self._place: tuple[int, int] | None = None

    def on_found(self, tell: Callable[[Finding], None]) -> None:
        """Call `tell` on the thread that finds it; now, when it is found already. It must return at once."""
        self._tell = tell
        if self.found is not None:
            tell(self.found)

    def look(self, context: ExceptionContext) -> None:
        """SQLAlchemy's `handle_error`: asked about every error of every connection."""
        if is_corrupt(context.original_exception):
            self._find(Finding(f"corrupt ({context.original_exception})", "the next start sets it aside"))

    def look_at(self, path: Path) -> None:
        """Whether the file in its place is still the one of the first look: SQLite itself never notices."""
        try:
            found = path.stat()
        except OSError:
            place = None
        else:
            place = (found.st_dev, found.st_ino)
        self._place = self._place or place
        if self._place is not None and place != self._place:
            fate = "removed" if place is None else "replaced by another"
            self._find(Finding(f"{fate} while it is in use", "the next start uses what lies there, or makes a new one"))

    def _find(self, found: Finding) -> None:
        if self.found is None:
            self.found = found
            self._tell(found)


@dataclass(frozen=True, slots=True)
class Database:
    """The two engines on one file. Reads may use either."""

    path: Path
    fast: Engine
    durable: Engine
    damage: Damage = field(default_factory=Damage)

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Connection]:
        """One transaction that holds the write lock from its first statement; rolled back on any exception.

        Raises DatabaseError once the file was found corrupt, or gone.
        """
        if self.damage.found is not None:
            raise DatabaseError(f"{self.path} is {self.damage.found.what}; nothing more is written to it")
        engine = self.durable if durable else self.fast
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of one moment."""
        with self.fast.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection
            connection.rollback()

    def close(self) -> None:
        """Close all connections. A damaged file stays open: closing carries the `-wal` over and removes it, by name."""
        if self.damage.found is not None:
            return
        self.fast.dispose()
        self.durable.dispose()


def path_of(url: str) -> Path:
    """The file behind `sqlite:///relative.db` or `sqlite:////absolute.db`. Raises DatabaseError for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseError(f"store.url {url!r} is not a database URL; allowed: sqlite:///FILE") from error
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise DatabaseError(f"store.url {url!r}: only a SQLite file is supported; allowed: sqlite:///FILE")
    return Path(str(parsed.database))


def open_database(url: str) -> Database:
    """Open (and create) the file; tables are the caller's to migrate. Raises DatabaseError with the path.

    A file with the tables of another application is refused and not touched.
    """
    path = path_of(url)
    if not path.parent.is_dir():
        raise DatabaseError(f"store.url: the folder {path.parent} does not exist")
    if is_foreign(path):
        raise DatabaseError(f"store.url: {path} is the database of another application; use another file")
    fast, durable = (_engine(path, synchronous=level) for level in ("NORMAL", "FULL"))
    database = Database(path=path, fast=fast, durable=durable)
    for engine in (fast, durable):
        event.listen(engine, "handle_error", database.damage.look)
    return database


def _engine(path: Path, *, synchronous: str) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_TIMEOUT_S},
        json_serializer=json.JSONEncoder(separators=(",", ":")).encode,
    )

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # BEGIN is ours to write (see Database.write), not the driver's
        cursor = connection.cursor()
        if cursor.execute("PRAGMA page_count").fetchone()[0] == 0:  # in a file with tables it is a write, and may wait
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")  # see compaction
        _use_wal(cursor)
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA cache_size = -500")  # kB, of each connection; the system caches the file as well
        cursor.close()

    return engine


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Turn write-ahead logging on. SQLite's busy time-out does not cover this: two processes may meet at a new file."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return
