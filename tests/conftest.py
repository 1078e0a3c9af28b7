"""Fixtures that tests of several packages share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from baselines.database import Database, open_database
from watchdog.migrations.migrate import bring_up_to_date

# A deadline for an example is a bet on the machine.
settings.register_profile("patient", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("patient")


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


@pytest.fixture(scope="session")
def cuda() -> None:
    """A CUDA device that torch sees; without one the test is skipped, or fails under REQUIRE_GPU=1."""
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU=1 and torch sees no CUDA device")
        pytest.skip("torch sees no CUDA device")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n`, the slow tests run one by one, in one process, beside all others: most watch real time.

    Those that are easily disturbed, the demo and the faults, come last, when the others are done.
    """
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group("slow"))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if not item.get_closest_marker("slow"):
        return 3
    return {"demo": 2, "faults": 1}.get(item.path.parent.name, 0)
