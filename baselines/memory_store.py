"""SQL of the workers' memory and lives: each function takes the caller's connection, and so joins its transaction.

Values go in and out as dataclasses; rows never leave this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as upsert

from baselines import rollup_store, schema
from probes.messages import MemorySample

GONE_S = 120.0  # all slots are sampled together, but for those that are being recycled

_MEMORY_FIELDS = tuple(f.name for f in fields(MemorySample))


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
    """The samples of one life not older than `since`, in the order in which they came, whatever the clock did."""
    m = schema.memory_samples
    wanted = _memory_columns().where(m.c.target == target, m.c.life == life, m.c.at >= since).order_by(m.c.id)
    return [_memory_sample(row) for row in connection.execute(wanted)]


def latest_memory(connection: Connection, target: str) -> list[MemorySample]:
    """The newest sample of each slot, by slot; empty when none was ever taken.

    A slot that was not in the last GONE_S of them is nobody's any more, by whichever clock.
    """
    m, li = schema.memory_samples, schema.lives
    slots = select(li.c.slot).where(li.c.target == target).distinct().subquery()
    latest = select(func.max(m.c.id)).where(m.c.target == target, m.c.slot == slots.c.slot)
    # a look into the index for each slot, not a scan of all their rows
    newest = select(latest.correlate(slots).scalar_subquery()).select_from(slots)
    rows = connection.execute(_memory_columns().where(m.c.id.in_(newest)).order_by(m.c.id))
    samples = [_memory_sample(row) for row in rows]
    here = [sample for sample in samples if abs(sample.at - samples[-1].at) <= GONE_S]
    return sorted(here, key=lambda sample: sample.slot)


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
