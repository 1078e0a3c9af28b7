"""The daemon as a real process among faults: the fixtures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The stage of tests/daemon, the faulty server of tests/probes and the damage of tests/baselines are used here, too.
for folder in ("daemon", "probes", "baselines"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

from daemon_stage import Webhook, receiving  # noqa: E402  (needs the path above)
from fault_stage import FaultStage  # noqa: E402  (as above)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[FaultStage]:
    stage = FaultStage(tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with receiving() as hook:
        yield hook
