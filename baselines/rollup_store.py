"""SQL of the roll-ups: each function takes the caller's connection and joins its transaction.

An hour is added to in the transaction that stores what it is made of. So each burst and each sample counts exactly
once, whenever the daemon is killed, whatever the clock does, however late it comes; and hours are always complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, desc, func, select, text
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as upsert

from baselines import schema
from baselines.histogram import Histogram
from baselines.rollup import HOUR_S, MemoryRollup, Rollup, Span, begin_of
from probes.messages import MemorySample, Outcome

# The sum of two JSON objects of counts, key by key.
_SUM = """(SELECT json_group_object(key, n) FROM (
    SELECT key, sum(value) AS n FROM (
        SELECT key, value FROM json_each(rollups.{0}) UNION ALL SELECT key, value FROM json_each(excluded.{0})
    ) GROUP BY key))"""


def add_rollups(connection: Connection, rollups: Sequence[Rollup]) -> None:
    """Add each to the hour that it begins; what is there already stays counted."""
    rows = [
        {
            "target": r.target,
            "canary": r.canary,
            "hour": r.begin,
            "requests": {str(outcome): count for outcome, count in r.requests.items()},
            "latencies": {str(bucket): count for bucket, count in r.latencies.counts.items()},
        }
        for r in rollups
    ]
    connection.execute(_adding(), rows)


def rollups_since(connection: Connection, target: str, canary: str, *, since: float, limit: int) -> list[Rollup]:
    """The newest `limit` hours of a canary that ended after `since`, oldest first."""
    t = schema.rollups
    rows = connection.execute(
        select(t)
        .where(t.c.target == target, t.c.canary == canary, t.c.hour > since - HOUR_S)
        .order_by(desc(t.c.hour))
        .limit(limit)
    ).all()
    return [_rollup(row) for row in reversed(rows)]


def add_to_hours(connection: Connection, samples: Sequence[MemorySample]) -> None:
    """Add each memory sample, in the order given, to the hour of its worker's life."""
    connection.execute(_spanning(), [_hour_row(s) for s in samples])


def memory_rollups_since(connection: Connection, target: str, *, since: float, limit: int) -> list[MemoryRollup]:
    """The newest `limit` hours of a target's workers that ended after `since`, oldest first."""
    t = schema.memory_rollups
    rows = connection.execute(
        select(t)
        .where(t.c.target == target, t.c.hour > since - HOUR_S)
        .order_by(desc(t.c.hour), desc(t.c.slot), desc(t.c.life))
        .limit(limit)
    ).all()
    return [_memory_rollup(row) for row in reversed(rows)]


@cache  # putting a statement together takes longer than running it
def _adding() -> Insert:
    table = schema.rollups
    return upsert(table).on_conflict_do_update(
        index_elements=table.primary_key.columns,
        set_={name: text(_SUM.format(name)) for name in ("requests", "latencies")},
    )


@cache
def _spanning() -> Insert:
    table = schema.memory_rollups
    new = upsert(table)
    merged: dict[str, Any] = {}
    for figure in ("host", "gpu"):
        for name, pick in ((f"{figure}_low", func.min), (f"{figure}_high", func.max)):
            old, added = table.c[name], new.excluded[name]
            merged[name] = pick(func.coalesce(old, added), func.coalesce(added, old))
        last = f"{figure}_last"
        merged[last] = func.coalesce(new.excluded[last], table.c[last])
    return new.on_conflict_do_update(index_elements=table.primary_key.columns, set_=merged)


def _hour_row(sample: MemorySample) -> dict[str, Any]:
    host, gpu = sample.host_anon_bytes, sample.gpu_used_bytes
    return {
        "target": sample.target,
        "hour": begin_of(sample.at, HOUR_S),
        "slot": sample.slot,
        "life": sample.life,
        "host_low": host,
        "host_high": host,
        "host_last": host,
        "gpu_low": gpu,
        "gpu_high": gpu,
        "gpu_last": gpu,
    }


def _rollup(row: Row[Any]) -> Rollup:
    return Rollup(
        target=row.target,
        canary=row.canary,
        begin=row.hour,
        requests={Outcome(word): count for word, count in row.requests.items()},
        latencies=Histogram(counts=dict(sorted((int(bucket), count) for bucket, count in row.latencies.items()))),
    )


def _memory_rollup(row: Row[Any]) -> MemoryRollup:
    host = None if row.host_last is None else Span(low=row.host_low, high=row.host_high, last=row.host_last)
    gpu = None if row.gpu_last is None else Span(low=row.gpu_low, high=row.gpu_high, last=row.gpu_last)
    return MemoryRollup(
        target=row.target, slot=row.slot, life=row.life, begin=row.hour, host_anon_bytes=host, gpu_used_bytes=gpu
    )
