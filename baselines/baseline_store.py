"""SQL of baselines and promotions: each function takes the caller's connection, and so joins its transaction.

Values go in and out as dataclasses; rows never leave this module.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, desc, insert, select

from baselines import schema
from baselines.baseline import Baseline
from baselines.noise import Prior
from baselines.packing import restore_output, state_fields
from probes.messages import Identity


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
            facts=[dict(f) for f in baseline.facts] or None,
            prior=asdict(baseline.prior) if baseline.prior else None,
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
    baseline = get_baseline(connection, found[0].baseline_id) if found else None
    return None if baseline is None else replace(baseline, since=found[0].at)


def activated(connection: Connection, target: str, canary: str) -> list[Baseline]:
    """The baselines of a canary in the order in which they became active, each with when that was; the last of them is
    the active one. What retention removed is left out."""
    found = [(get_baseline(connection, p.baseline_id), p.at) for p in promotions(connection, target, canary)]
    return [replace(baseline, since=at) for baseline, at in reversed(found) if baseline is not None]


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
        facts=tuple(row.facts or ()),
        prior=Prior(**row.prior) if row.prior else None,
    )
