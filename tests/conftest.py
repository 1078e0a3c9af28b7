"""Fixtures that tests of several packages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from baselines.database import Database, open_database
from watchdog.migrations.migrate import bring_up_to_date


def _opened(folder: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{folder}/watchdog.db")
    bring_up_to_date(database)
    yield database
    database.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A new database file with the tables of this version."""
    yield from _opened(tmp_path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One for all tests of a module, for properties that undo what they write."""
    yield from _opened(tmp_path_factory.mktemp("scratch"))
