"""How long history lives. A hard cap per table holds from the first day, whatever the ages say.

Full disks and slow pages are how peers of this daemon died; see `RetentionPolicy` for what is kept longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, delete, desc, func, select

from baselines import schema, store
from baselines.baseline import Baseline
from probes.messages import Outcome

KEPT_VERSIONS = 3  # baselines of the last three model versions survive any cap, so that a rollback always can
KEPT_BASELINES = 50  # per canary
KEPT_PROMOTIONS = 1_000  # per canary
KEPT_SNAPSHOTS = 50  # per canary
KEPT_VERDICTS = 50_000
KEPT_LIVES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long history lives, in seconds, and the cap in rows that holds whatever the ages say.

    failures_s is longer than samples_s: a failure is what an incident page needs weeks later.
    """

    samples_s: float = 14 * 86400.0
    failures_s: float = 90 * 86400.0
    memory_s: float = 14 * 86400.0
    max_rows: int = 500_000


def prune(connection: Connection, policy: RetentionPolicy, *, now: float) -> int:
    """Delete what is past its age or over a table's cap; returns the number of rows deleted, cascades not counted."""
    b, m, v, li = schema.bursts, schema.memory_samples, schema.verdicts, schema.lives
    good = b.c.outcome == Outcome.GOOD
    deleted = connection.execute(delete(b).where(good, b.c.at < now - policy.samples_s)).rowcount
    deleted += connection.execute(delete(b).where(b.c.at < now - policy.failures_s)).rowcount
    deleted += connection.execute(delete(m).where(m.c.at < now - policy.memory_s)).rowcount
    deleted += _cap_samples(connection, policy.max_rows)
    caps = ((m, m.c.id, policy.max_rows), (v, v.c.id, KEPT_VERDICTS), (li, li.c.last_seen, KEPT_LIVES))
    for table, order, kept in caps:
        oldest = select(order).order_by(desc(order)).offset(kept).limit(1).scalar_subquery()
        deleted += connection.execute(delete(table).where(order <= oldest)).rowcount
    deleted += _cap_per_canary(connection, schema.snapshots, KEPT_SNAPSHOTS)
    deleted += _cap_per_canary(connection, schema.promotions, KEPT_PROMOTIONS)
    return deleted + _cap_baselines(connection)


def _cap_samples(connection: Connection, max_rows: int) -> int:
    """Bring the samples under their cap: oldest good bursts go first, failures only when nothing else is left."""
    b, s = schema.bursts, schema.samples
    over = (connection.execute(select(func.count()).select_from(s)).scalar() or 0) - max_rows
    if over <= 0:
        return 0
    size = func.count(s.c.id)
    rows = connection.execute(
        select(b.c.id, size)
        .join(s, s.c.burst_id == b.c.id)
        .group_by(b.c.id)
        .order_by(b.c.outcome != Outcome.GOOD, b.c.at)
        .limit(over)
    ).all()
    doomed: list[int] = []
    for burst_id, count in rows:
        if over <= 0:
            break
        doomed.append(burst_id)
        over -= count
    for chunk in store.chunks(doomed, 500):
        connection.execute(delete(b).where(b.c.id.in_(chunk)))
    return len(doomed)


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
        stored = store.list_baselines(connection, target, canary)
        active = store.active_baseline(connection, target, canary)
        kept = {x.id for x in stored[:KEPT_BASELINES]} | {x.id for x in newest_per_version(stored)[:KEPT_VERSIONS]}
        kept |= {active.id} if active else set()
        doomed = [x.id for x in stored if x.id is not None and x.id not in kept]
        for chunk in store.chunks(doomed, 500):
            connection.execute(delete(p).where(p.c.baseline_id.in_(chunk)))
            deleted += connection.execute(delete(b).where(b.c.id.in_(chunk))).rowcount
    return deleted


def newest_per_version(stored: Sequence[Baseline]) -> list[Baseline]:
    """The newest baseline of each model version, newest first; `stored` is newest first."""
    newest: dict[str | None, Baseline] = {}
    for baseline in stored:
        newest.setdefault(baseline.provenance.get("model_version"), baseline)
    return list(newest.values())
