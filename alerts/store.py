"""SQL of incidents and silences: each function takes the caller's connection and joins its transaction.

Values go in and out as dataclasses; rows never leave this module. Deliveries are in `delivery_store`, recycles in
`recycle_store`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, desc, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from alerts import delivery_store, schema
from alerts.incident import OPEN, Incident, State, acknowledge
from baselines.verdict import Cause, Check, Level, Reason, Status

KEPT_CLOSED = 10_000
KEPT_SILENCES = 1_000
EVERYTHING = "*"


def new_incident_id(now: float) -> str:
    """Short enough to type, sorted by day: 20261120-3f9a2c."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%d}-{secrets.token_hex(3)}"


# --- incidents --------------------------------------------------------------------------------------------------------


def load_incident(connection: Connection, target: str, check: Check, subject: str) -> Incident | None:
    """The newest incident of this subject, for `incident.step`: open, or resolved (it may come back)."""
    table = schema.incidents
    row = connection.execute(
        select(table)
        .where(table.c.target == target, table.c.check == check, table.c.subject == subject)
        .order_by(desc(table.c.opened_at), desc(table.c.id))
        .limit(1)
    ).first()
    return _incident(row) if row else None


def save_incident(connection: Connection, incident: Incident) -> None:
    """Insert the incident or overwrite its row. One that went quiet without ever firing is deleted."""
    table = schema.incidents
    if incident.state is State.INACTIVE:
        connection.execute(delete(table).where(table.c.id == incident.id))
        return
    values = {f.name: getattr(incident, f.name) for f in fields(Incident)} | {
        "strikes": list(incident.strikes),
        "evidence": dict(incident.evidence),
    }
    connection.execute(upsert(table).values(values).on_conflict_do_update(index_elements=["id"], set_=values))


def find_incident(connection: Connection, incident_id: str) -> Incident | None:
    """The incident of that id; None when there is none."""
    row = connection.execute(select(schema.incidents).where(schema.incidents.c.id == incident_id)).first()
    return _incident(row) if row else None


def list_incidents(
    connection: Connection, *, target: str | None = None, only_open: bool = False, limit: int = 100
) -> list[Incident]:
    """Incidents, open ones first, then the newest."""
    table = schema.incidents
    query = select(table).order_by(table.c.state.not_in(OPEN), desc(table.c.opened_at)).limit(limit)
    if target is not None:
        query = query.where(table.c.target == target)
    if only_open:
        query = query.where(table.c.state.in_(OPEN))
    return [_incident(row) for row in connection.execute(query)]


def ack_incident(connection: Connection, incident_id: str, *, by: str, now: float) -> Incident | None:
    """Note who is on it; None when there is no such incident. Raises IllegalSignal when it is not open."""
    incident = find_incident(connection, incident_id)
    if incident is None:
        return None
    acked = acknowledge(incident, by=by, now=now)
    save_incident(connection, acked)
    return acked


def count_firing(connection: Connection) -> dict[tuple[str, Check, Level], int]:
    """Firing incidents by (target, check, level), for the metric `incident_open`."""
    table = schema.incidents
    columns = (table.c.target, table.c.check, table.c.level)
    rows = connection.execute(select(*columns, func.count()).where(table.c.state == State.FIRING).group_by(*columns))
    return {(target, Check(check), Level(level)): count for target, check, level, count in rows}


# --- silences ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Nobody is told that something of this target and check ("*": any) fires, from from_at until until_at."""

    id: int | None = None
    target: str
    check: str = EVERYTHING
    from_at: float
    until_at: float
    by: str
    why: str


def add_silence(connection: Connection, silence: Silence) -> Silence:
    """Store it; returns it with its id."""
    values = {f.name: getattr(silence, f.name) for f in fields(Silence) if f.name != "id"}
    key = connection.execute(insert(schema.silences).values(values)).inserted_primary_key
    assert key is not None
    return replace(silence, id=key[0])


def end_silence(connection: Connection, silence_id: int, *, now: float) -> bool:
    """End it now; False when there is none of that id or it had ended."""
    table = schema.silences
    ended = connection.execute(
        update(table).where(table.c.id == silence_id, table.c.until_at > now).values(until_at=now)
    )
    return ended.rowcount > 0


def list_silences(connection: Connection, *, now: float) -> list[Silence]:
    """Those that hold now or will, by their beginning."""
    table = schema.silences
    rows = connection.execute(select(table).where(table.c.until_at > now).order_by(table.c.from_at))
    return [Silence(**row._mapping) for row in rows]  # noqa: SLF001  (the public way to a row's mapping)


def is_silenced(connection: Connection, target: str, check: Check | None = None, *, now: float) -> bool:
    """Whether a silence of this target holds now; without a check, one of all its checks."""
    checks = (EVERYTHING,) if check is None else (EVERYTHING, check)
    return any(
        silence.from_at <= now and silence.target in (EVERYTHING, target) and silence.check in checks
        for silence in list_silences(connection, now=now)
    )


# --- retention --------------------------------------------------------------------------------------------------------


def prune(connection: Connection, *, now: float) -> int:
    """Bring incidents, deliveries and silences under their caps; returns how many rows went.

    Open incidents stay for ever, as does one that a stored recycle names.
    """
    i, r, s = schema.incidents, schema.recycles, schema.silences
    named = select(r.c.incident_id).where(r.c.incident_id.is_not(None))
    closed = and_(i.c.state.not_in(OPEN), i.c.id.not_in(named))
    over = select(i.c.id).where(closed).order_by(desc(i.c.opened_at)).offset(KEPT_CLOSED)
    deleted = connection.execute(delete(i).where(i.c.id.in_(over))).rowcount
    over = select(s.c.id).where(s.c.until_at <= now).order_by(desc(s.c.id)).offset(KEPT_SILENCES)
    deleted += connection.execute(delete(s).where(s.c.id.in_(over))).rowcount
    return deleted + delivery_store.cap_deliveries(connection)


def _incident(row: Row[Any]) -> Incident:
    values = {f.name: getattr(row, f.name) for f in fields(Incident)}
    return Incident(
        **values
        | {
            "check": Check(row.check),
            "state": State(row.state),
            "status": Status(row.status),
            "reason": Reason(row.reason),
            "cause": Cause(row.cause),
            "level": Level(row.level),
            "strikes": tuple(row.strikes),
        }
    )
