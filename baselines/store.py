"""SQL of history and baselines: each function takes the caller's connection, so that it joins the caller's transaction.

Values go in and out as the dataclasses of `probes.messages`, `baseline` and `verdict`; rows never leave this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, desc, func, insert, select, update
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as upsert

from baselines import rollup_store, schema
from baselines.baseline import Baseline
from baselines.packing import pack_samples, restore_output, state_fields, unpack_samples
from baselines.rollup import roll_up
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Burst, Identity, MemorySample, OpStat, Outcome, Snapshot

_MEMORY_FIELDS = tuple(f.name for f in fields(MemorySample))


# --- bursts ---------------------------------------------------------------------------------------------------------


def add_burst(connection: Connection, burst: Burst) -> None:
    """Store one burst and add it to its hour. The output's values are dropped: answers are never stored whole."""
    add_bursts(connection, [burst])


def add_bursts(connection: Connection, bursts: Sequence[Burst]) -> None:
    """The same for many at once, at a third of the cost of each."""
    if bursts:
        connection.execute(insert(schema.bursts), [_burst_row(burst) for burst in bursts])
        rollup_store.add_rollups(connection, roll_up(bursts))


def bursts_since(connection: Connection, target: str, canary: str, *, since: float = 0.0, limit: int) -> list[Burst]:
    """The newest `limit` bursts not older than `since`, oldest first."""
    b = schema.bursts
    rows = connection.execute(
        select(b)
        .where(b.c.target == target, b.c.canary == canary, b.c.at >= since)
        .order_by(desc(b.c.at), desc(b.c.id))
        .limit(limit)
    ).all()
    return [_burst(row) for row in reversed(rows)]


def last_good_at(connection: Connection, target: str, canary: str) -> float | None:
    """The time of the newest burst with a good answer in it; None when there is none."""
    b = schema.bursts
    found = connection.execute(
        select(func.max(b.c.at)).where(b.c.target == target, b.c.canary == canary, b.c.any_good.is_(True))
    ).scalar()
    return None if found is None else float(found)


def first_burst_at(connection: Connection, target: str, canary: str) -> float | None:
    """The time of the oldest burst still stored; None when there is none."""
    b = schema.bursts
    found = connection.execute(select(func.min(b.c.at)).where(b.c.target == target, b.c.canary == canary)).scalar()
    return None if found is None else float(found)


def _burst_row(burst: Burst) -> dict[str, Any]:
    good = [s.outcome is Outcome.GOOD for s in burst.samples]
    return {
        "target": burst.target,
        "canary": burst.canary,
        "at": burst.at,
        "samples": pack_samples(burst.samples, at=burst.at),
        "identity": state_fields(burst.identity),
        "output": state_fields(replace(burst.output, values=())) if burst.output else None,
        "provenance": dict(burst.provenance),
        "generation": burst.generation,
        "workers_alive": burst.workers_alive,
        "worker_cpu": burst.worker_cpu,
        "facts": dict(burst.facts),
        "any_good": any(good),
        "all_good": all(good),
    }


def _burst(row: Row[Any]) -> Burst:
    return Burst(
        target=row.target,
        canary=row.canary,
        at=row.at,
        samples=unpack_samples(row.samples, at=row.at),
        identity=Identity(**row.identity),
        output=restore_output(row.output),
        provenance=row.provenance,
        generation=row.generation,
        workers_alive=row.workers_alive,
        worker_cpu=row.worker_cpu,
        facts=row.facts,
    )


# --- memory ---------------------------------------------------------------------------------------------------------


def add_memory(connection: Connection, samples: Sequence[MemorySample]) -> None:
    """Store memory samples, add them to their hours, and remember their lives."""
    if not samples:
        return
    connection.execute(insert(schema.memory_samples), [_memory_row(s) for s in samples])
    rollup_store.add_to_hours(connection, samples)
    lives: dict[tuple[str, str], dict[str, Any]] = {}
    for s in samples:
        key = (s.target, s.life)
        first_seen = lives[key]["first_seen"] if key in lives else s.at
        lives[key] = {"target": s.target, "life": s.life, "slot": s.slot, "first_seen": first_seen, "last_seen": s.at}
    connection.execute(_seeing(), list(lives.values()))


@cache
def _seeing() -> Insert:
    new = upsert(schema.lives)
    return new.on_conflict_do_update(
        index_elements=schema.lives.primary_key.columns,
        set_={"last_seen": new.excluded.last_seen, "slot": new.excluded.slot},
    )


def memory_since(connection: Connection, target: str, life: str, *, since: float = 0.0) -> list[MemorySample]:
    """The samples of one life not older than `since`, oldest first."""
    m = schema.memory_samples
    wanted = _memory_columns().where(m.c.target == target, m.c.life == life, m.c.at >= since).order_by(m.c.at)
    return [_memory_sample(row) for row in connection.execute(wanted)]


def latest_memory(connection: Connection, target: str) -> list[MemorySample]:
    """The newest sample of each slot that a life was last seen in, by slot; empty when none was ever taken."""
    m, li = schema.memory_samples, schema.lives
    slots = select(li.c.slot).where(li.c.target == target).distinct().subquery()
    latest = select(func.max(m.c.id)).where(m.c.target == target, m.c.slot == slots.c.slot)
    # a look into the index for each slot, not a scan of all their rows
    newest = select(latest.correlate(slots).scalar_subquery()).select_from(slots)
    rows = connection.execute(_memory_columns().where(m.c.id.in_(newest)).order_by(m.c.slot))
    return [_memory_sample(row) for row in rows]


def lives_seen(connection: Connection, target: str) -> list[tuple[str, int, float, float]]:
    """(life, slot, first seen, last seen) of every life remembered, newest last."""
    table = schema.lives
    rows = connection.execute(select(table).where(table.c.target == target).order_by(table.c.last_seen))
    return [(row.life, row.slot, row.first_seen, row.last_seen) for row in rows]


def _memory_row(sample: MemorySample) -> dict[str, Any]:
    return {name: getattr(sample, name) for name in _MEMORY_FIELDS}


def _memory_columns() -> Select[Any]:
    return select(*(schema.memory_samples.c[name] for name in _MEMORY_FIELDS))


def _memory_sample(row: Row[Any]) -> MemorySample:
    return MemorySample(**dict(zip(_MEMORY_FIELDS, row, strict=True)))


# --- baselines ------------------------------------------------------------------------------------------------------


def save_baseline(connection: Connection, baseline: Baseline) -> Baseline:
    """Store a baseline and return it with its id. It is not active until promoted."""
    result = connection.execute(
        insert(schema.baselines).values(
            target=baseline.target,
            canary=baseline.canary,
            taken_at=baseline.taken_at,
            label=baseline.label,
            provisional=baseline.provisional,
            identity=state_fields(baseline.identity),
            provenance=dict(baseline.provenance),
            golden=state_fields(baseline.golden) if baseline.golden else None,
            bursts=[list(b) for b in baseline.bursts],
            controls=[list(c) for c in baseline.controls],
        )
    )
    key = result.inserted_primary_key
    assert key is not None
    return replace(baseline, id=key[0])


def promote(connection: Connection, baseline: Baseline, *, at: float, by: str, why: str) -> None:
    """Make a stored baseline the active one of its canary."""
    assert baseline.id is not None
    connection.execute(
        insert(schema.promotions).values(
            target=baseline.target, canary=baseline.canary, baseline_id=baseline.id, at=at, by=by, why=why
        )
    )


def active_baseline(connection: Connection, target: str, canary: str) -> Baseline | None:
    """The baseline promoted last; None before the first."""
    found = promotions(connection, target, canary, limit=1)
    return get_baseline(connection, found[0].baseline_id) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Who made which baseline active, when and why."""

    baseline_id: int
    at: float
    by: str
    why: str


def promotions(connection: Connection, target: str, canary: str, *, limit: int = 100) -> list[Promotion]:
    """The promotions of a canary, newest first."""
    p = schema.promotions
    rows = connection.execute(
        select(p).where(p.c.target == target, p.c.canary == canary).order_by(desc(p.c.id)).limit(limit)
    )
    return [Promotion(baseline_id=r.baseline_id, at=r.at, by=r.by, why=r.why) for r in rows]


def get_baseline(connection: Connection, baseline_id: int) -> Baseline | None:
    """The baseline of that id; None when there is none."""
    row = connection.execute(select(schema.baselines).where(schema.baselines.c.id == baseline_id)).first()
    return _baseline(row) if row else None


def list_baselines(
    connection: Connection, target: str, canary: str | None = None, *, limit: int | None = None
) -> list[Baseline]:
    """The stored baselines of a target, newest first; at most `limit` of them, None: all that retention left."""
    b = schema.baselines
    query = select(b).where(b.c.target == target).order_by(desc(b.c.id)).limit(limit)
    if canary is not None:
        query = query.where(b.c.canary == canary)
    return [_baseline(row) for row in connection.execute(query)]


def _baseline(row: Row[Any]) -> Baseline:
    return Baseline(
        id=row.id,
        target=row.target,
        canary=row.canary,
        taken_at=row.taken_at,
        label=row.label,
        provisional=row.provisional,
        identity=Identity(**row.identity),
        provenance=row.provenance,
        golden=restore_output(row.golden),
        bursts=tuple(tuple(b) for b in row.bursts),
        controls=tuple(tuple(c) for c in row.controls),
    )


# --- snapshots ------------------------------------------------------------------------------------------------------


def save_snapshot(connection: Connection, snapshot: Snapshot) -> None:
    """Store a profiler snapshot."""
    connection.execute(
        insert(schema.snapshots).values(
            **{f.name: getattr(snapshot, f.name) for f in fields(Snapshot) if f.name not in ("ops", "environment")},
            ops=[asdict(op) for op in snapshot.ops],
            environment=dict(snapshot.environment),
        )
    )


def latest_snapshot(connection: Connection, target: str, canary: str) -> Snapshot | None:
    """The newest snapshot of a canary; None when none was taken."""
    s = schema.snapshots
    row = connection.execute(
        select(s).where(s.c.target == target, s.c.canary == canary).order_by(desc(s.c.at)).limit(1)
    ).first()
    if row is None:
        return None
    values = {f.name: getattr(row, f.name) for f in fields(Snapshot)}
    return Snapshot(**(values | {"ops": tuple(OpStat(**op) for op in row.ops)}))


# --- verdicts -------------------------------------------------------------------------------------------------------


def save_verdict(connection: Connection, verdict: Verdict) -> None:
    """Store a verdict: it is the newest of its subject now. Callers store changes only; see `pipeline`."""
    v = schema.verdicts
    connection.execute(update(v).where(*_newest_of(verdict)).values(newest=False))
    stored = {f.name: getattr(verdict, f.name) for f in fields(Verdict) if f.name in v.c}
    connection.execute(insert(v).values(**stored | {"evidence": dict(verdict.evidence), "newest": True}))


def refresh_verdict(connection: Connection, verdict: Verdict) -> None:
    """Bring the figures of the newest stored verdict of this subject up to date; its words and its time stand."""
    v = schema.verdicts
    connection.execute(update(v).where(*_newest_of(verdict)).values(evidence=dict(verdict.evidence)))


def _newest_of(verdict: Verdict) -> tuple[ColumnElement[bool], ...]:
    v = schema.verdicts.c
    return (v.newest.is_(True), v.target == verdict.target, v.check == verdict.check, v.subject == verdict.subject)


def latest_verdicts(connection: Connection) -> list[Verdict]:
    """The newest stored verdict of each (target, check, subject), oldest first."""
    v = schema.verdicts
    rows = connection.execute(select(v).where(v.c.newest.is_(True)))  # sorted by SQLite, it would read the whole table
    return [_verdict(row) for row in sorted(rows, key=lambda row: row.id)]


def verdict_history(connection: Connection, target: str, *, since: float = 0.0, limit: int = 200) -> list[Verdict]:
    """Changes of verdict of a target, newest first."""
    v = schema.verdicts
    rows = connection.execute(
        select(v).where(v.c.target == target, v.c.at >= since).order_by(desc(v.c.id)).limit(limit)
    )
    return [_verdict(row) for row in rows]


def _verdict(row: Row[Any]) -> Verdict:
    return Verdict(
        target=row.target,
        check=Check(row.check),
        subject=row.subject,
        at=row.at,
        status=Status(row.status),
        reason=Reason(row.reason),
        cause=Cause(row.cause),
        level=Level(row.level),
        since=row.since,
        life=row.life,
        evidence=row.evidence,
    )
