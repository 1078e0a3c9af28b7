"""A golden output is the answer to one input on one type of device, and is compared with nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from builders import IDENTITY, NOW, make_baseline, make_burst, make_target

from alerts.gate import Held
from baselines import baseline_store
from baselines.database import Database
from probes.canary.burst import CanaryPlan
from probes.messages import Burst, Identity, Output
from watchdog.turns import hold

PLAN = CanaryPlan(interval_s=60.0, timeout_s=0.05, size=3, warmup=0, max_busy=1.0)
GOLDEN = Output(content_hash="good", values=(1.0, 2.0))


@dataclass
class Canary:
    """Notes what it was told to compare with."""

    identity: Identity | None
    isolated: bool = False
    target: str = "chat"
    name: str = "default"
    plan: CanaryPlan = PLAN
    compared: list[Output | None] = field(default_factory=list)

    def burst(self, *, golden: Output | None = None, size: int | None = None, times: int = 1) -> Burst:
        self.compared.append(golden)
        return make_burst()

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(
    ("identity", "compared"),
    [(IDENTITY, GOLDEN), (replace(IDENTITY, input_hash="other"), None), (None, None)],
    ids=["the same input", "another input", "not known yet"],
)
def test_only_the_same_identity_is_compared(
    database: Database, identity: Identity | None, compared: Output | None
) -> None:
    """An edited canary gets other answers, which are right."""
    canary = Canary(identity)
    target = make_target(database, canaries={"default": canary})
    with database.write() as connection:
        saved = baseline_store.save_baseline(connection, replace(make_baseline(), golden=GOLDEN))
        baseline_store.promote(connection, saved, at=NOW, by="ana", why="")
    target.baseline("default")
    target.probe("default")
    assert canary.compared == [compared]


def test_a_recycle_asks_the_serving_canaries_only(database: Database) -> None:
    """An isolated worker proves nothing about the server."""
    serving, isolated = Canary(IDENTITY), Canary(IDENTITY, isolated=True, name="alone")
    make_target(database, canaries={"default": serving, "alone": isolated}).burst(size=1)
    assert (len(serving.compared), len(isolated.compared)) == (1, 0)


def test_canaries_that_another_command_holds_are_said_to_be(database: Database) -> None:
    """Not an error of the recycle: it tries again."""
    target = make_target(database, canaries={"default": Canary(IDENTITY)})
    path = target.turns.with_name(f"{target.turns.name}.chat.default.lock")
    with hold(path, wait_s=0.0, monotonic=target.monotonic, sleep=target.sleep), pytest.raises(Held):
        target.burst()
