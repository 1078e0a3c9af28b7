"""The daemon as a real process, beside a real server, telling a real receiver: the fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_stage import Stage, Webhook, receiving


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with receiving() as hook:
        yield hook


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()
