"""An hour's housekeeping goes in steps, says when there is more to do, and what it did."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
import structlog
from builders import NOW, make_burst
from structlog.testing import capture_logs

from alerts import recycle_store
from alerts import schema as alert_schema
from alerts import store as alert_store
from baselines import burst_store
from baselines.compaction import LONG_LOG_BYTES
from baselines.database import Database
from baselines.retention import STEP, RetentionPolicy
from probes.messages import Outcome
from watchdog.housekeeping import keep_house

POLICY = RetentionPolicy()
MONTH_S = 30 * 86400.0


@pytest.fixture(autouse=True)
def _uncached_logs() -> None:
    structlog.reset_defaults()


def test_nothing_to_do_says_nothing(database: Database) -> None:
    """Every hour of a new daemon."""
    with capture_logs() as logs:
        assert keep_house(database, POLICY, now=NOW) is False
    assert logs == []


def test_more_than_a_step_is_done_in_several(database: Database) -> None:
    """The caller comes back as long as it is told so; between two steps others have their turn."""
    with database.write() as connection:
        for first in range(0, 3 * STEP, 500):
            bursts = [make_burst(Outcome.GOOD, at=NOW - MONTH_S + first + i, generation="x" * 3000) for i in range(500)]
            burst_store.add_bursts(connection, bursts)
    with capture_logs() as logs:
        steps = 1
        while keep_house(database, POLICY, now=NOW):
            steps += 1
            assert steps < 20
    assert sum(line["deleted_rows"] for line in logs) == 3 * STEP
    assert [line["deleted_rows"] for line in logs][:3] == [STEP] * 3
    assert sum(line["freed_pages"] for line in logs) > 0
    with database.read() as connection:
        assert burst_store.first_burst_at(connection, "chat", "default") is None


def test_every_package_that_owns_tables_is_asked(database: Database) -> None:
    """Silences that are over and resets that another followed count too."""
    over = {"target": "chat", "check": "*", "from_at": 0.0, "until_at": 1.0, "by": "ana", "why": ""}
    with database.write() as connection:
        connection.execute(alert_schema.silences.insert(), [over] * (alert_store.KEPT_SILENCES + 2))
        for at in (1.0, 2.0):
            recycle_store.reset_breaker(connection, "chat", at=at, by="ana")
    with capture_logs() as logs:
        assert keep_house(database, POLICY, now=NOW) is False
    assert [line["deleted_rows"] for line in logs] == [2 + 1]


def test_a_log_that_somebody_holds_up_is_said(database: Database) -> None:
    """With the file and what holds it up, since only a person can end that."""
    with closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM bursts").fetchall()
        for _ in range(20):
            with database.write() as connection:
                burst_store.add_bursts(connection, [make_burst(generation="x" * 10_000)] * 100)
        with capture_logs() as logs:
            assert keep_house(database, POLICY, now=NOW) is False
    (line,) = logs
    assert line["log_level"] == "warning"
    assert "some program keeps a transaction open on the database" in line["event"]
    assert line["file"] == f"{database.path}-wal"
    assert line["bytes"] > LONG_LOG_BYTES
