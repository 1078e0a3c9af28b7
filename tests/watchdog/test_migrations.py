"""One chain of migrations for one MetaData: a file is brought to this version's schema, or left exactly as it was."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from builders import make_burst
from sqlalchemy import Connection, inspect

from alerts import schema as alert_schema
from baselines import burst_store
from baselines.database import Database, DatabaseError, open_database
from watchdog.migrations import migrate
from watchdog.migrations.migrate import HEAD, bring_up_to_date, current_revision

BRING_UP = """
import sys
from baselines.database import open_database
from watchdog.migrations.migrate import bring_up_to_date
database = open_database(f"sqlite:///{sys.argv[1]}")
bring_up_to_date(database)
database.close()
print("alembic" in sys.modules)
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Database]:
    """A file without tables."""
    database = open_database(f"sqlite:///{tmp_path}/fresh.db")
    yield database
    database.close()


def dump(database: Database) -> list[str]:
    """The whole file as statements: schema and rows."""
    database.close()
    connection = sqlite3.connect(database.path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def described(connection: Connection) -> dict[str, tuple[object, ...]]:
    """What a file's tables are, whatever the order in which they were made."""
    look = inspect(connection)
    return {
        name: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns(name)],
            look.get_pk_constraint(name),
            sorted((i | {"dialect_options": _as_text(i["dialect_options"])} for i in look.get_indexes(name)), key=str),
            sorted(look.get_foreign_keys(name), key=str),
            sorted(look.get_unique_constraints(name), key=str),
        )
        for name in look.get_table_names()
    }


def _as_text(options: dict[str, object]) -> dict[str, str]:
    """A partial index's condition is an object, equal to itself alone."""
    return {name: str(value) for name, value in options.items()}


class TestTheChain:
    def test_head_is_the_newest_file(self) -> None:
        """The daemon compares with a constant, so that it need not load Alembic to start."""
        config = Config()
        config.set_main_option("script_location", str(Path(migrate.__file__).parent))
        assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
        versions = Path(migrate.__file__).parent / "versions"
        assert max(path.name[:4] for path in versions.glob("[0-9]*.py")) == HEAD

    def test_the_migrated_schema_is_the_one_the_code_uses(self, fresh: Database) -> None:
        """Tables, columns, types, indices, keys: a change of `schema.py` without a migration fails here."""
        with fresh.write() as connection:
            migrate._upgrade(connection)
        with fresh.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, alert_schema.metadata) == []

    def test_a_new_file_is_what_the_chain_makes_of_an_empty_one(self, fresh: Database, database: Database) -> None:
        """A new file gets the tables of today without the chain; both must be the same, column for column."""
        with fresh.write() as connection:
            migrate._upgrade(connection)
        with fresh.read() as one, database.read() as other:
            assert described(one) == described(other)


class TestBringingUp:
    def test_a_new_file_gets_all_tables_once(self, fresh: Database) -> None:
        """A second call finds it up to date and keeps what is in it."""
        assert current_revision(fresh) is None
        bring_up_to_date(fresh)
        assert current_revision(fresh) == HEAD
        with fresh.write() as connection:
            burst_store.add_burst(connection, make_burst())
        before = dump(fresh)
        bring_up_to_date(fresh)
        assert dump(fresh) == before

    @pytest.mark.parametrize("new", [False, True], ids=["up_to_date", "new"])
    def test_a_file_that_is_not_behind_loads_no_alembic(self, database: Database, *, new: bool) -> None:
        """A quarter of a second at every start of the command line, and twelve megabytes of the daemon."""
        path = database.path.with_name("new.db") if new else database.path
        answer = subprocess.run(
            [sys.executable, "-c", BRING_UP, path], capture_output=True, text=True, check=True, timeout=60
        )
        assert answer.stdout == "False\n"

    def test_a_newer_file_is_refused_unchanged(self, database: Database) -> None:
        """It says both revisions and what to do."""
        with database.write(durable=True) as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        before = dump(database)
        with pytest.raises(DatabaseError, match=f"schema 9999, this version knows {HEAD}") as error:
            bring_up_to_date(database)
        assert str(database.path) in str(error.value)
        assert "install that version or use another store.url" in str(error.value)
        assert dump(database) == before

    def test_a_failure_leaves_nothing_half_done(self, fresh: Database) -> None:
        """A table of that name is in the way: none of the others was created, and without it all are."""
        with fresh.write() as connection:
            connection.exec_driver_sql("CREATE TABLE snapshots (mine INTEGER)")
        before = dump(fresh)
        with pytest.raises(DatabaseError, match="cannot create the tables: table snapshots already exists"):
            bring_up_to_date(fresh)
        assert dump(fresh) == before
        with fresh.write() as connection:
            connection.exec_driver_sql("DROP TABLE snapshots")
        bring_up_to_date(fresh)
        assert current_revision(fresh) == HEAD

    def test_two_processes_at_once_create_the_tables_once(self, tmp_path: Path) -> None:
        """The daemon and the command line may both be the first."""
        path = tmp_path / "shared.db"
        children = [
            subprocess.Popen([sys.executable, "-c", BRING_UP, path], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
            for _ in range(2)
        ]
        assert [(child.communicate(timeout=60)[1], child.returncode) for child in children] == [(b"", 0)] * 2
        database = open_database(f"sqlite:///{path}")
        assert current_revision(database) == HEAD
        database.close()


class TestNoDatabase:
    def test_a_file_that_is_no_database_is_left_as_it_is(self, tmp_path: Path) -> None:
        """It may be somebody's document: the message names it and says to move it aside."""
        path = tmp_path / "watchdog.db"
        path.write_text("Dear diary, " * 100)
        database = open_database(f"sqlite:///{path}")
        with pytest.raises(DatabaseError, match="file is not a database") as error:
            bring_up_to_date(database)
        assert str(error.value).startswith(str(path))
        assert "move it aside" in str(error.value)
        database.close()
        assert path.read_text() == "Dear diary, " * 100

    def test_a_folder_in_its_place_is_said(self, tmp_path: Path) -> None:
        """No traceback for a path that cannot be opened."""
        database = open_database(f"sqlite:///{tmp_path}")
        with pytest.raises(DatabaseError, match="unable to open database file"):
            bring_up_to_date(database)
        database.close()
