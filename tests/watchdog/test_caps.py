"""Every table has a hard cap: the database cannot grow without end, whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW
from sqlalchemy import JSON, Boolean, Connection, Float, Integer, Table, func, insert, select

from alerts import delivery_store, recycle_store
from alerts import schema as alert_schema
from alerts import store as alert_store
from baselines import retention, schema
from baselines.database import Database
from baselines.retention import RetentionPolicy

OVER = 7
MAX_ROWS = 100
CAPS = {
    "bursts": MAX_ROWS,
    "memory_samples": MAX_ROWS,
    "rollups": MAX_ROWS,
    "memory_rollups": MAX_ROWS,
    "lives": retention.KEPT_LIVES,
    "memory_slopes": retention.KEPT_SLOPES,
    "gpu_devices": retention.KEPT_DEVICES,
    "gpu_xids": retention.KEPT_XIDS,
    "baselines": retention.KEPT_BASELINES,
    "promotions": retention.KEPT_PROMOTIONS,
    "snapshots": retention.KEPT_SNAPSHOTS,
    "verdicts": retention.KEPT_VERDICTS,
    "incidents": alert_store.KEPT_CLOSED,
    "deliveries": delivery_store.KEPT_SENT,
    "recycles": recycle_store.KEPT_EPISODES,
    "breaker_resets": 1,
    "silences": alert_store.KEPT_SILENCES,
}
# What a row must say so that it is one of those the cap is for, where the row made from the columns' types does not.
MEANT = {
    "baselines": {"identity": {"input_hash": "abc"}, "golden": None},
    "incidents": {"state": "resolved"},
    "deliveries": {"state": "sent", "incident_id": None},
    "recycles": {"state": "cooldown", "incident_id": None},
    "silences": {"until_at": NOW - 1},
    "bursts": {"all_good": True},
}


def make_row(table: Table, number: int) -> dict[str, Any]:
    """The number in every numeric column and in every key, the same words elsewhere."""

    def value(column: Any) -> Any:
        if isinstance(column.type, JSON):
            return {}
        if isinstance(column.type, Boolean):
            return False
        if isinstance(column.type, Float) or column.name == "hour":
            return NOW + number
        if isinstance(column.type, Integer):
            return 1 if column.name == "baseline_id" else number + 1
        return f"{number}" if column.primary_key or column.unique else "x"

    row = {column.name: value(column) for column in table.columns}
    if table.name == "lives":
        row["target"] = "x"
    return row | MEANT.get(table.name, {})


def fill(connection: Connection, name: str) -> Table:
    """One table with more rows than it may keep, and what its rows refer to."""
    table = schema.metadata.tables[name]
    rows = CAPS[name] + OVER
    if name == "promotions":
        connection.execute(insert(schema.baselines), [make_row(schema.baselines, 0)])
    connection.execute(insert(table), [make_row(table, i) for i in range(rows)])
    return table


def prune_all(connection: Connection) -> int:
    """As the daemon does every hour."""
    deleted = retention.prune(connection, RetentionPolicy(max_rows=MAX_ROWS), now=NOW)
    return deleted + alert_store.prune(connection, now=NOW) + recycle_store.cap_episodes(connection)


def test_no_table_is_without_a_cap() -> None:
    """A new table fails here until its cap is written and tested."""
    assert alert_schema.metadata is schema.metadata
    assert set(CAPS) == set(schema.metadata.tables)


@pytest.mark.parametrize("name", CAPS)
def test_the_oldest_rows_over_the_cap_go(database: Database, name: str) -> None:
    """To the row: the cap is left, the newest; a second pass finds nothing to do."""
    with database.write() as connection:
        table = fill(connection, name)
        assert prune_all(connection) == OVER
        assert connection.execute(select(func.count()).select_from(table)).scalar() == CAPS[name]
        column = next(c for c in table.columns if isinstance(c.type, Float) or c.name == "hour")
        if name != "silences":
            newest = CAPS[name] + OVER - 1
            assert connection.execute(select(func.min(column), func.max(column))).one() == (NOW + OVER, NOW + newest)
        assert prune_all(connection) == 0


def test_open_incidents_are_never_capped(database: Database) -> None:
    """However many and however old: what fires now is why the daemon runs."""
    table = alert_schema.incidents
    with database.write() as connection:
        fill(connection, "incidents")
        rows = [make_row(table, i) | {"id": f"open-{i}", "state": "firing", "opened_at": 0.0} for i in range(OVER)]
        connection.execute(insert(table), rows)
        assert prune_all(connection) == OVER
        assert connection.execute(select(func.count()).where(table.c.state == "firing")).scalar() == OVER


def test_a_recycle_under_way_is_never_capped(database: Database) -> None:
    """It must be found again after a crash."""
    table = alert_schema.recycles
    with database.write() as connection:
        fill(connection, "recycles")
        row = make_row(table, 0) | {"id": "under-way", "state": "wait_ready", "incident_id": None, "updated_at": 0.0}
        connection.execute(insert(table), [row])
        prune_all(connection)
        assert connection.execute(select(func.count()).where(table.c.id == "under-way")).scalar() == 1


def test_the_last_reset_of_each_breaker_stays(database: Database) -> None:
    """Only the last one counts; losing it would open the breaker again."""
    with database.write() as connection:
        for target, at in (("chat", 1.0), ("image", 2.0), ("chat", 3.0)):
            recycle_store.reset_breaker(connection, target, at=at, by="ana")
        assert recycle_store.cap_episodes(connection) == 1
        resets = alert_schema.breaker_resets
        assert set(connection.execute(select(resets.c.target, resets.c.at))) == {("image", 2.0), ("chat", 3.0)}
