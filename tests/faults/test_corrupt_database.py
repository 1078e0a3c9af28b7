"""A corrupt database: kept aside by the daemon's start alone, said for as long as it lies there, never written to."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest
from builders import NOW, make_burst
from daemon_stage import wait_until
from damage import Damage, another_ones_wal, emptied, garbage_header, garbage_in_the_middle, truncated
from fault_stage import FaultStage

from baselines import burst_store
from baselines.database import open_database
from watchdog.migrations.migrate import bring_up_to_date
from watchdog.turns import daemon_lock

pytestmark = pytest.mark.slow

AT_ONCE = [garbage_header, truncated, emptied]  # what even a command that only looks meets at its first read
LATER = [garbage_in_the_middle, another_ones_wal]
SET_AT = "watchdog_database_set_aside_timestamp_seconds"


@pytest.fixture
def watching(stage: FaultStage) -> FaultStage:
    """A stage with a server, a configuration, and a database with history that a daemon has served."""
    stage.write_config(stage.target(stage.start_server()))
    database = open_database(f"sqlite:///{stage.database}")
    bring_up_to_date(database)
    with database.write(durable=True) as connection:
        for number in range(300):
            burst_store.add_burst(connection, make_burst(at=NOW + number))
    database.close()
    daemon_lock(stage.database).touch()
    return stage


def kept_files(stage: FaultStage) -> list[Path]:
    return [p for p in sorted(stage.folder.iterdir()) if re.fullmatch(r"watchdog\.db\.corrupt-\d{8}T\d{6}Z", p.name)]


@pytest.mark.parametrize("damage", AT_ONCE + LATER, ids=lambda damage: damage.__name__)
def test_start_keeps_it_aside_and_begins_anew(watching: FaultStage, damage: Damage) -> None:
    """The daemon goes on with a new file; health, metric and log name the old one, which is kept as it was."""
    damage(watching.database)
    damaged = watching.database.read_bytes()
    daemon = watching.start_daemon()
    (kept,) = kept_files(watching)
    assert kept.read_bytes() == damaged
    health = watching.health()
    assert (health["status"], health["alive"]) == (200, True)
    assert str(kept) in health["notes"][0]
    assert "baselines, incidents" in health["notes"][0]
    assert watching.value(SET_AT) == pytest.approx(kept.stat().st_ctime, abs=60)
    watching.wait_for_bursts(2)
    assert watching.count("target = 'chat'") == 0, "nothing of the old history"
    assert str(kept) in watching.log_of(daemon)


@pytest.mark.parametrize("damage", AT_ONCE, ids=lambda damage: damage.__name__)
def test_command_that_looks_refuses_and_moves_nothing(watching: FaultStage, damage: Damage) -> None:
    """Exit code 1, the file's name, and what to do."""
    damage(watching.database)
    damaged = watching.database.read_bytes()
    looked = watching.run("status")
    assert looked.returncode == 1
    assert str(watching.database) in looked.stderr
    assert "aside" in looked.stderr
    assert kept_files(watching) == []
    assert watching.database.read_bytes() == damaged


def test_it_is_said_until_the_file_is_moved_away(watching: FaultStage) -> None:
    """After a restart, too, and by every command; its name is the only record, so moving it ends the note at once."""
    garbage_header(watching.database)
    assert watching.end(watching.start_daemon()) == 0
    daemon = watching.start_daemon()
    (kept,) = kept_files(watching)
    assert str(kept) in watching.log_of(daemon)
    assert str(kept) in watching.health()["notes"][0]
    assert str(kept) in watching.run("status").stderr
    kept.rename(watching.folder / "elsewhere.db")
    assert watching.notes() == []


def test_what_a_newer_version_wrote_is_never_moved(watching: FaultStage) -> None:
    """Not even when it is corrupt: exit code 1, a reason, and not a byte changed."""
    connection = sqlite3.connect(watching.database)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with watching.database.open("r+b") as file:
        file.seek(-4 * 4096, os.SEEK_END)
        file.write(os.urandom(4 * 4096))
    newer = watching.database.read_bytes()
    refused = watching.run("run")
    assert refused.returncode == 1
    assert "it was written by a newer version" in refused.stderr
    assert watching.database.read_bytes() == newer
    assert kept_files(watching) == []


def test_another_applications_database_is_never_touched(watching: FaultStage) -> None:
    """Whoever put it there in place of ours: exit code 1, a reason, and not a byte changed."""
    watching.database.unlink()
    connection = sqlite3.connect(watching.database)
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.commit()
    connection.close()
    foreign = watching.database.read_bytes()
    refused = watching.run("run")
    assert refused.returncode == 1
    assert f"{watching.database} is the database of another application" in refused.stderr
    assert watching.database.read_bytes() == foreign
    assert kept_files(watching) == []


def test_damage_while_running_ends_the_daemon_and_the_next_start_keeps_it_aside(watching: FaultStage) -> None:
    """It writes nothing more, says why, and ends with an exit code that a supervisor starts it again for."""
    daemon = watching.start_daemon()
    watching.wait_for_bursts(4)
    for suffix in ("", "-wal"):
        path = watching.folder / f"watchdog.db{suffix}"
        if path.exists() and path.stat().st_size > 8192:
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(os.urandom(path.stat().st_size - 4096))

    def ended() -> bool:
        watching.get("/api/v1/targets")  # a reader that has nothing in its cache
        return daemon.poll() is not None

    wait_until(ended, "the daemon ends by itself")
    assert daemon.returncode == 1
    log = watching.log_of(daemon)
    assert f"{watching.database} is corrupt" in log
    assert "the next start sets it aside" in log
    damaged = watching.database.read_bytes()
    assert kept_files(watching) == []

    watching.start_daemon()
    (kept,) = kept_files(watching)
    assert kept.read_bytes() == damaged
    watching.wait_for_bursts(2)
    assert str(kept) in watching.health()["notes"][0]


def test_running_daemons_file_is_not_moved_by_a_second_start(watching: FaultStage) -> None:
    """`watchdog run` beside a running daemon is refused before it touches anything."""
    daemon = watching.start_daemon()
    watching.wait_for_bursts(2)
    daemon.send_signal(signal.SIGSTOP)  # else it might notice the damage, and end, before the second one starts
    garbage_in_the_middle(watching.database)
    second = watching.run("run")
    assert second.returncode == 1
    assert kept_files(watching) == []


def test_file_that_is_removed_in_use_ends_the_daemon(watching: FaultStage) -> None:
    """SQLite would go on writing where nobody can read. It is said, and a supervisor's next start begins anew."""
    daemon = watching.start_daemon()
    watching.wait_for_bursts(2)
    watching.database.rename(watching.folder / "tidied away.db")
    wait_until(lambda: daemon.poll() is not None, "the daemon ends by itself")
    assert daemon.returncode == 1
    log = watching.log_of(daemon)
    assert f"{watching.database} is removed while it is in use" in log
    assert "Traceback" not in log
    watching.start_daemon()
    watching.wait_for_bursts(2)
