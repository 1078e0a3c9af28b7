"""SQL of bursts: each function takes the caller's connection, and so joins its transaction.

Values go in and out as dataclasses; rows never leave this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, desc, func, insert, select

from baselines import rollup_store, schema
from baselines.packing import pack_samples, restore_output, state_fields, unpack_samples
from baselines.rollup import roll_up
from probes.messages import Burst, Identity, Outcome


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
