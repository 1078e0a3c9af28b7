"""How long history lives, and a hard cap per table that holds from the first day, whatever the ages say.

Full disks and slow pages are how peers of this daemon died; see `RetentionPolicy` for what is kept longest. Pruning
goes in bounded steps, each a transaction of its own, so that nobody waits for long: not the results that are stored
by the same thread, and not the command line, which needs the same lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, delete, desc, func, select, tuple_

from baselines import baseline_store, schema
from baselines.baseline import Baseline

STEP = 2_000  # rows of a table deleted at once; some 30 ms
KEPT_VERSIONS = 3  # baselines of the last three model versions survive any cap, so that a rollback always can
KEPT_BASELINES = 50  # per canary
KEPT_PROMOTIONS = 1_000  # per canary
KEPT_SNAPSHOTS = 50  # per canary
KEPT_VERDICTS = 50_000
KEPT_LIVES = 10_000
KEPT_XIDS = 10_000
KEPT_DEVICES = 10_000
KEPT_SLOPES = 50_000  # rows of up to 800 bytes; 21 for a version with three figures


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long history lives, in seconds, and the cap in rows of each table that holds whatever the ages say.

    samples_s: bursts that were all good; a week, so that every day's load is in it. failures_s: the others; a failure
    is what an incident page needs weeks later. memory_s: memory samples; never less than the 33 hours that a judgement
    looks back at the defaults. rollups_s: hours of both; a year and a month, so that a year ago can be compared with.
    """

    samples_s: float = 7 * 86400.0
    failures_s: float = 90 * 86400.0
    memory_s: float = 7 * 86400.0
    rollups_s: float = 400 * 86400.0
    max_rows: int = 1_000_000


def prune(connection: Connection, policy: RetentionPolicy, *, now: float) -> int:
    """Delete what is past its age or over a table's cap, of each for at most STEP rows a table.

    Returns the number of rows deleted; STEP or more of them say that there may be more to delete.
    """
    return _drop_old(connection, policy, now) + _cap(connection, policy.max_rows)


def _drop_old(connection: Connection, policy: RetentionPolicy, now: float) -> int:
    b, m, r, mr = schema.bursts, schema.memory_samples, schema.rollups, schema.memory_rollups
    aged: Sequence[tuple[Table, Column[Any], float, tuple[ColumnElement[bool], ...]]] = (
        (b, b.c.at, policy.samples_s, (b.c.all_good.is_(True),)),
        (b, b.c.at, policy.failures_s, (b.c.all_good.is_(False),)),
        (m, m.c.at, policy.memory_s, ()),
        (r, r.c.hour, policy.rollups_s, ()),
        (mr, mr.c.hour, policy.rollups_s, ()),
        (schema.gpu_xids, schema.gpu_xids.c.at, policy.failures_s, ()),
        (schema.gpu_devices, schema.gpu_devices.c.at, policy.failures_s, ()),
    )
    return sum(
        _delete_first(connection, table, STEP, (time,), *which, time < now - kept_s)
        for table, time, kept_s, which in aged
    )


def _cap(connection: Connection, max_rows: int) -> int:
    """Delete the first of what is over each cap."""
    b, m, r, mr = schema.bursts, schema.memory_samples, schema.rollups, schema.memory_rollups
    v, li = schema.verdicts, schema.lives
    over = _over(connection, b, max_rows)
    deleted = _delete_first(connection, b, over, (b.c.at,), b.c.all_good.is_(True))
    deleted += _delete_first(connection, b, over - deleted, (b.c.at,))  # failures, when nothing else is left
    capped: Sequence[tuple[Table, int, tuple[Column[Any], ...]]] = (
        (m, max_rows, (m.c.id,)),
        (r, max_rows, (r.c.hour,)),
        (mr, max_rows, (mr.c.hour,)),
        (v, KEPT_VERDICTS, (v.c.newest, v.c.id)),  # what stands now goes last
        (li, KEPT_LIVES, (li.c.last_seen,)),
        (schema.gpu_xids, KEPT_XIDS, (schema.gpu_xids.c.at,)),
        (schema.gpu_devices, KEPT_DEVICES, (schema.gpu_devices.c.at,)),
        (schema.memory_slopes, KEPT_SLOPES, (schema.memory_slopes.c.at,)),
    )
    for table, kept, order in capped:
        deleted += _delete_first(connection, table, _over(connection, table, kept), order)
    for table, kept in ((schema.snapshots, KEPT_SNAPSHOTS), (schema.promotions, KEPT_PROMOTIONS)):
        deleted += _cap_per_canary(connection, table, kept)
    return deleted + _cap_baselines(connection)


def _over(connection: Connection, table: Table, kept: int) -> int:
    """How many rows to delete in this step."""
    count = connection.execute(select(func.count()).select_from(table)).scalar_one()
    return min(STEP, max(0, count - kept))


def _delete_first(
    connection: Connection, table: Table, limit: int, order: Sequence[Column[Any]], *where: ColumnElement[bool]
) -> int:
    """Delete at most `limit` of the rows that `where` holds for, the first in `order`; returns how many there were."""
    if limit == 0:
        return 0
    key = tuple_(*table.primary_key.columns)
    first = select(*table.primary_key.columns).where(*where).order_by(*order).limit(limit)
    return connection.execute(delete(table).where(key.in_(first))).rowcount


def _cap_per_canary(connection: Connection, table: Table, kept: int) -> int:
    t = table.c
    rank = func.row_number().over(partition_by=(t.target, t.canary), order_by=desc(t.id)).label("rank")
    ranked = select(t.id, rank).subquery()
    return connection.execute(delete(table).where(t.id.in_(select(ranked.c.id).where(ranked.c.rank > kept)))).rowcount


def _cap_baselines(connection: Connection) -> int:
    """Drop the oldest baselines over the cap, except the active one and the newest of the last three versions."""
    b, p = schema.baselines, schema.promotions
    deleted = 0
    canaries = connection.execute(
        select(b.c.target, b.c.canary).group_by(b.c.target, b.c.canary).having(func.count() > KEPT_BASELINES)
    ).all()
    for target, canary in canaries:
        stored = baseline_store.list_baselines(connection, target, canary)
        active = baseline_store.active_baseline(connection, target, canary)
        kept = {x.id for x in stored[:KEPT_BASELINES]} | {x.id for x in newest_per_version(stored)[:KEPT_VERSIONS]}
        kept |= {active.id} if active else set()
        doomed = [x.id for x in stored if x.id not in kept][:STEP]
        connection.execute(delete(p).where(p.c.baseline_id.in_(doomed)))
        deleted += connection.execute(delete(b).where(b.c.id.in_(doomed))).rowcount
    return deleted


def newest_per_version(stored: Sequence[Baseline]) -> list[Baseline]:
    """The newest baseline of each model version, newest first; `stored` is newest first."""
    newest: dict[str | None, Baseline] = {}
    for baseline in stored:
        newest.setdefault(baseline.provenance.get("model_version"), baseline)
    return list(newest.values())
