"""A stage for the command line: a folder, a configuration, a little server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_stage import Driver, Stage
from little_server import Model, serving


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def _staged(folder: Path, driver: Driver) -> Iterator[Stage]:
    with serving(Model()) as model:
        stage = Stage(folder, model, driver)
        stage.write_config()
        yield stage


@pytest.fixture
def stage(tmp_path: Path, driver: Driver) -> Iterator[Stage]:
    """One for a test."""
    yield from _staged(tmp_path, driver)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, driver: Driver) -> Iterator[Stage]:
    """One for the tests of a module that only look."""
    yield from _staged(tmp_path_factory.mktemp("stage"), driver)
