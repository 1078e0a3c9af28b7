"""SQL of verdicts: each function takes the caller's connection, and so joins its transaction.

Values go in and out as dataclasses; rows never leave this module.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, desc, insert, select, update

from baselines import schema
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict


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


def latest_verdicts_of(connection: Connection, target: str, check: Check) -> list[Verdict]:
    """The newest stored verdict on each subject of one check of a target."""
    v = schema.verdicts
    where = (v.c.newest.is_(True), v.c.target == target, v.c.check == check)
    return [_verdict(row) for row in connection.execute(select(v).where(*where))]


def verdict_history(connection: Connection, target: str, *, since: float = 0.0, limit: int = 200) -> list[Verdict]:
    """Changes of verdict of a target, newest first."""
    v = schema.verdicts
    rows = connection.execute(
        select(v).where(v.c.target == target, v.c.at >= since).order_by(desc(v.c.id)).limit(limit)
    )
    return [_verdict(row) for row in rows]


def last_change(connection: Connection, target: str, check: Check, subject: str) -> tuple[Verdict | None, float | None]:
    """The last verdict of a subject that it is WORSE, and when it was OK again; None: never, or not yet."""
    v = schema.verdicts.c
    about = (v.target == target, v.check == check, v.subject == subject)
    newest = select(schema.verdicts).where(*about, v.status == Status.WORSE).order_by(desc(v.at), desc(v.id)).limit(1)
    if (row := connection.execute(newest).one_or_none()) is None:
        return None, None
    over = select(v.at).where(*about, v.status == Status.OK, v.at >= row.at, v.id > row.id).order_by(v.at).limit(1)
    return _verdict(row), connection.execute(over).scalar()


def last_of_former_life(connection: Connection, target: str, subject: str, life: str) -> Verdict | None:
    """The last verdict on the memory of another life than this in its slot that knew anything; None without one."""
    v = schema.verdicts.c
    about = (v.target == target, v.check == Check.MEMORY, v.subject == subject, v.life.is_not(None), v.life != life)
    known = select(schema.verdicts).where(*about, v.status != Status.UNKNOWN)
    row = connection.execute(known.order_by(desc(v.at)).limit(1)).one_or_none()
    return None if row is None else _verdict(row)


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
