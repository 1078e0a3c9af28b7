"""SQL of profiler snapshots: each function takes the caller's connection, and so joins its transaction.

Values go in and out as dataclasses; rows never leave this module.
"""

from __future__ import annotations

from dataclasses import asdict, fields

from sqlalchemy import Connection, desc, insert, select

from baselines import schema
from probes.messages import OpStat, Snapshot


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
