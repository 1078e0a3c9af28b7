"""In what condition a database file is; and keeping a corrupt one aside, where it is found by its name.

A corrupt file is never deleted and never written to: `watchdog.db` becomes `watchdog.db.corrupt-20261120T123400Z`, its
`-wal` and `-shm` go with it, so that SQLite's own `.recover` can still be tried on it. That name is the only record of
it: as long as the file lies there, every start says so.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from baselines import schema

HEADER = b"SQLite format 3\0"
OURS = schema.bursts.name  # every schema revision has this table
TIMEOUT_S = 5.0
STAMP = "%Y%m%dT%H%M%SZ"
SIDE_FILES = ("-wal", "-shm")  # what SQLite keeps beside a file

_CORRUPT_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Condition(StrEnum):
    """What a file is. Only `corrupt` may be moved, and only by the daemon's start."""

    NEW = "new"  # nothing there, or a file without tables that nothing says ever had any
    SOUND = "sound"
    CORRUPT = "corrupt"
    FOREIGN = "foreign"  # somebody else's: another application's database, or no database at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """detail: SQLite's words; empty when there is nothing to say. revision: of our schema; None when not readable."""

    condition: Condition
    detail: str = ""
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A corrupt file that was kept. at: when, in Unix seconds."""

    path: Path
    at: float

    @property
    def note(self) -> str:
        """What a person has to know and can do."""
        return (
            f"the database was found corrupt and is kept aside as {self.path}: baselines, incidents, messages not yet "
            "sent and history until then are not in use; take new baselines with `watchdog baseline`, and move that "
            "file away to end this note"
        )


def is_corrupt(error: BaseException | None) -> bool:
    """Whether this error of SQLite's says that the file is damaged, and not that it is locked, full or out of reach."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _CORRUPT_CODES


def is_foreign(path: Path) -> bool:
    """Whether it is a readable SQLite file with tables, and none of them ours. Quick, for every command."""
    return _has_header(path) and (found := _tables(path)) is not None and bool(found) and OURS not in found


def examine(path: Path, *, served: bool) -> Finding:
    """Read the whole file (half a second for 300 MB) and change nothing.

    served: a daemon has run on this path. It tells a lost file from somebody else's where the file itself cannot: an
    unreadable one, or an empty one. Raises OSError when the file may not be read, sqlite3.OperationalError when it is
    locked for more than TIMEOUT_S.
    """
    wal = path.with_name(path.name + "-wal")
    if not path.exists():
        return Finding(condition=Condition.NEW)
    if path.stat().st_size == 0:
        lost = served or (wal.exists() and wal.stat().st_size > 0)
        return (
            Finding(condition=Condition.CORRUPT, detail="the file is empty")
            if lost
            else Finding(condition=Condition.NEW)
        )
    if not _has_header(path):
        return Finding(condition=Condition.CORRUPT if served else Condition.FOREIGN, detail="file is not a database")
    return _examine_database(path, served=served)


def _examine_database(path: Path, *, served: bool) -> Finding:
    tables = _tables(path)
    if tables is not None and OURS not in tables:
        if tables:
            return Finding(condition=Condition.FOREIGN, detail="it holds the tables of another application")
        return Finding(condition=Condition.NEW)
    with closing(_connect(path)) as connection:
        revision = _revision(connection)
        try:
            said = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            said = str(error)
    if said == "ok":
        return Finding(condition=Condition.SOUND, revision=revision)
    known = tables is not None or served
    condition = Condition.CORRUPT if known else Condition.FOREIGN
    return Finding(condition=condition, detail=said.splitlines()[-1], revision=revision)


def set_aside(path: Path, *, now: float) -> SetAside:
    """Rename the file and what SQLite keeps beside it. Nothing may have it open. Raises OSError.

    The file itself goes last: killed in the middle, it is still there to be found corrupt again.
    """
    moment = datetime.fromtimestamp(int(now), UTC)
    while (kept := path.with_name(f"{path.name}.corrupt-{moment.strftime(STAMP)}")).exists():
        moment += timedelta(seconds=1)
    for suffix in SIDE_FILES:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + suffix))
    path.rename(kept)
    return SetAside(path=kept, at=moment.timestamp())


def last_set_aside(path: Path) -> SetAside | None:
    """The newest file that was set aside for this database and is still there."""
    found = []
    for kept in path.parent.glob(f"{path.name}.corrupt-*"):
        match = re.fullmatch(r"\d{8}T\d{6}Z", kept.name.removeprefix(f"{path.name}.corrupt-"))
        if match:
            moment = datetime.strptime(match[0], STAMP).replace(tzinfo=UTC)
            found.append(SetAside(path=kept, at=moment.timestamp()))
    return max(found, key=lambda each: each.at, default=None)


def _has_header(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER)) == HEADER
    except OSError:  # a folder, or not ours to read: SQLite says so in its own words when it is opened
        return False


def _connect(path: Path) -> sqlite3.Connection:
    """Read-only: what it looks at must not be changed, not even by carrying over what is in the `-wal` file."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_S)


def _tables(path: Path) -> frozenset[str] | None:
    """The names of its tables; None when they cannot be read."""
    try:
        with closing(_connect(path)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.DatabaseError:
        return None
    return frozenset(name for (name,) in rows)


def _revision(connection: sqlite3.Connection) -> str | None:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if row is None else str(row[0])
