"""Bringing a database to the schema this version needs.

Alembic (240 ms and 12 MiB to import) is loaded only for a file that is behind. A new one gets the tables of today at
once, marked with the newest revision, as Alembic's cookbook has it ("Building an Up to Date Database from Scratch").
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert, inspect
from sqlalchemy.exc import DatabaseError as SqlError

import alerts.schema  # noqa: F401  (adds its tables to the one MetaData)
from baselines.database import Database, DatabaseError
from baselines.schema import metadata

HEAD = "0004"
"""The newest revision in `versions/`; a test compares the two."""

_stamp = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32)),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),  # as Alembic makes it
)


def current_revision(database: Database) -> str | None:
    """The revision of the file; None for a new one. Raises DatabaseError when the file is not a usable database."""
    try:
        with database.read() as connection:
            if "alembic_version" not in inspect(connection).get_table_names():
                return None
            revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            return None if revision is None else str(revision)
    except SqlError as error:
        broken = any(word in str(error.orig) for word in ("not a database", "malformed"))
        advice = ": move it aside to start a new history" if broken else ""
        raise DatabaseError(f"{database.path}: {error.orig}; the file was left as it is{advice}") from error


def bring_up_to_date(database: Database) -> None:
    """Create or upgrade the tables. Raises DatabaseError for a file that a newer version wrote, and changes nothing."""
    revision = current_revision(database)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise DatabaseError(
            f"{database.path} has schema {revision}, this version knows {HEAD}: it was written by a newer version; "
            "install that version or use another store.url"
        )
    create = _create if revision is None else _upgrade
    try:
        with database.write(durable=True) as connection:
            create(connection)
    except SqlError as error:
        raise DatabaseError(f"{database.path}: cannot create the tables: {error.orig}") from error


def _create(connection: Connection) -> None:
    """All tables of today, in a file that has none, unless another process was faster."""
    if inspect(connection).has_table(_stamp.name):
        return
    metadata.create_all(connection, checkfirst=False)
    _stamp.create(connection)
    connection.execute(insert(_stamp).values(version_num=HEAD))


def _upgrade(connection: Connection) -> None:
    """The migrations that are missing."""
    from alembic import command  # noqa: PLC0415  (see the module's docstring)
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", os.fspath(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
