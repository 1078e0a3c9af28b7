"""What a database file is, and keeping a corrupt one aside: every kind of damage, and what is not ours."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from builders import NOW, make_burst
from damage import DAMAGES, Damage, garbage_in_the_middle
from sqlalchemy.exc import DatabaseError as SqlError

from baselines import burst_store
from baselines.condition import Condition, examine, is_corrupt, last_set_aside, set_aside
from baselines.database import Database, DatabaseError, Finding, open_database


@pytest.fixture
def filled(database: Database) -> Path:
    """The closed file of a database with some history."""
    with database.write() as connection:
        for number in range(300):
            burst_store.add_burst(connection, make_burst(at=NOW + number))
    database.close()
    assert not database.path.with_name("watchdog.db-wal").exists()
    return database.path


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_nothing_is_changed_by_looking(filled: Path, damage: Damage) -> None:
    """It is corrupt where a daemon has run, with SQLite's words; the file is as it was."""
    damage(filled)
    before = filled.read_bytes()
    found = examine(filled, served=True)
    assert found.condition is Condition.CORRUPT
    assert found.detail
    assert filled.read_bytes() == before


def test_sound_file_with_what_the_last_run_left_in_the_wal(filled: Path) -> None:
    """After kill -9 the newest history is in the `-wal` file: that is no damage."""
    connection = sqlite3.connect(filled, isolation_level=None)
    connection.execute("DELETE FROM bursts WHERE at > ?", (NOW + 100,))
    copy = filled.with_name("killed.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{filled}{suffix}", f"{copy}{suffix}")
    connection.close()
    assert copy.with_name("killed.db-wal").stat().st_size > 0
    found = examine(copy, served=True)
    assert (found.condition, found.revision) == (Condition.SOUND, "0004")


@pytest.mark.parametrize("served", [False, True], ids=["first start", "served before"])
def test_other_applications_database_is_foreign(tmp_path: Path, served: bool) -> None:
    """Whatever lies beside it; and it is not opened, so that none of our tables gets into it."""
    path = tmp_path / "watchdog.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    assert examine(path, served=served).condition is Condition.FOREIGN
    with pytest.raises(DatabaseError, match=f"{path} is the database of another application; use another file"):
        open_database(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "served", "condition"),
    [
        (None, False, Condition.NEW),
        (None, True, Condition.NEW),
        (b"", False, Condition.NEW),
        (b"", True, Condition.CORRUPT),
        (b"Dear diary, " * 100, False, Condition.FOREIGN),
        (b"Dear diary, " * 100, True, Condition.CORRUPT),
    ],
    ids=["nothing", "nothing any more", "empty", "emptied", "a document", "unreadable where a daemon ran"],
)
def test_what_the_file_cannot_tell_is_told_by_the_daemon_that_ran(
    tmp_path: Path, content: bytes | None, served: bool, condition: Condition
) -> None:
    """Only where a daemon has run is a file without a trace of ours taken to be ours."""
    path = tmp_path / "watchdog.db"
    if content is not None:
        path.write_bytes(content)
    assert examine(path, served=served).condition is condition


def test_kept_with_what_belongs_to_it_and_found_again(filled: Path) -> None:
    """The whole content under a name that says when; SQLite finds the `-wal` of the kept file by its name."""
    filled.with_name("watchdog.db-wal").write_bytes(b"wal")
    before = filled.read_bytes()
    assert last_set_aside(filled) is None
    kept = set_aside(filled, now=NOW + 0.7)
    assert kept.path.name == "watchdog.db.corrupt-20270115T080000Z"
    assert kept.at == NOW
    assert kept.path.read_bytes() == before
    assert kept.path.with_name(kept.path.name + "-wal").read_bytes() == b"wal"
    assert not filled.exists()
    assert not filled.with_name("watchdog.db-wal").exists()
    assert last_set_aside(filled) == kept
    assert str(kept.path) in kept.note


def test_second_one_in_the_same_second_overwrites_nothing(filled: Path) -> None:
    """It gets the next free second, and is the last one."""
    set_aside(filled, now=NOW)
    filled.write_bytes(b"another")
    second = set_aside(filled, now=NOW)
    assert second.at == NOW + 1
    assert last_set_aside(filled) == second
    assert len(list(filled.parent.glob("*.corrupt-*Z"))) == 2


def test_damage_found_in_use_stops_all_writing(filled: Path) -> None:
    """Whoever meets it first, it is told once on that thread, and from then on every transaction is refused."""
    database = open_database(f"sqlite:///{filled}")
    told: list[Finding] = []
    database.damage.on_found(told.append)
    garbage_in_the_middle(filled)
    with pytest.raises(SqlError) as error, database.read() as connection:
        connection.exec_driver_sql("SELECT * FROM bursts NOT INDEXED").all()
    assert is_corrupt(error.value.orig)
    assert told == [database.damage.found]
    with pytest.raises(DatabaseError, match=r"is corrupt .*; nothing more is written to it"), database.write():
        pass
    database.fast.dispose()


@pytest.mark.parametrize("fate", ["removed", "replaced by another"])
def test_file_that_goes_away_in_use_stops_all_writing(filled: Path, fate: str) -> None:
    """What would be written is lost with it. A look that finds the same file, however it grew, says nothing."""
    database = open_database(f"sqlite:///{filled}")
    database.damage.look_at(filled)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE more (x)")
    database.damage.look_at(filled)
    assert database.damage.found is None
    kept = filled.rename(filled.with_name("elsewhere.db"))
    if fate != "removed":
        filled.touch()
    database.damage.look_at(filled)
    assert database.damage.found is not None
    assert database.damage.found.what == f"{fate} while it is in use"
    with pytest.raises(DatabaseError, match="nothing more is written to it"), database.write():
        pass
    database.fast.dispose()
    assert kept.exists()
    database.durable.dispose()
