"""SQL of the outbox: each function takes the caller's connection and joins its transaction.

A row is written in the transaction that changes the incident, claimed with a lease, and marked sent after the receiver
took it: at least once, whatever moment the daemon dies at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, desc, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from alerts import schema
from alerts.incident import OPEN, Event
from alerts.message import Message
from alerts.notifiers.delivery import Route

MAX_AHEAD_S = 2 * 3600.0  # no attempt is ever put off for longer: one that is was when the clock was ahead
KEPT_SENT = 10_000
KEPT_DEAD = 10_000  # a cap of their own: they are rarer than what was sent, so they are kept for longer


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"  # given up; kept and shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to one notifier. Times are Unix seconds.

    key: the idempotency key, the same on every attempt. attempts: begun, the one under way included.
    due_at: not before; lease_until: until then an attempt is under way, afterwards it is taken to have been lost.
    """

    id: int
    key: str
    incident_id: str | None
    notifier: str
    event: Event
    payload: Mapping[str, Any]
    state: DeliveryState
    attempts: int
    created_at: float
    due_at: float
    lease_until: float | None
    sent_at: float | None
    last_error: str | None


def told_notifiers(connection: Connection, incident_id: str) -> frozenset[str]:
    """Notifiers that were told (or will be) that this incident fires: they also hear that it is over."""
    table = schema.deliveries
    rows = connection.execute(
        select(table.c.notifier).where(table.c.incident_id == incident_id, table.c.event == Event.FIRING).distinct()
    )
    return frozenset(rows.scalars())


def enqueue_deliveries(connection: Connection, message: Message, routes: Sequence[Route], *, now: float) -> int:
    """Put a message into the outbox of each route (see `delivery.recipients`); returns how many were new.

    The same message to the same notifier is kept once. Wake the outbox after the commit.
    """
    added = 0
    for route in routes:
        values = {
            "key": f"{message.id}/{route.notifier.name}",
            "incident_id": message.incident_id,
            "notifier": route.notifier.name,
            "event": message.event,
            "payload": route.notifier.render(message),
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "created_at": now,
            "due_at": now,
        }
        added += connection.execute(upsert(schema.deliveries).values(values).on_conflict_do_nothing()).rowcount
    return added


def claim_due(connection: Connection, notifier: str, *, now: float, lease_s: float) -> Delivery | None:
    """Take the oldest delivery that may be tried now, for lease_s; None when there is none.

    A conditional update: of two claimants one gets it. A delivery waits while an earlier one of the same incident and
    notifier is pending, so that nobody hears that something is over before they hear that it began.
    """
    table = schema.deliveries
    ready_at = func.max(table.c.due_at, func.coalesce(table.c.lease_until, 0.0))  # of two arguments: SQLite's greatest
    oldest = (
        select(table.c.id)
        .where(_is_next_for(notifier), or_(ready_at <= now, ready_at > now + MAX_AHEAD_S))
        .order_by(table.c.id)
        .limit(1)
        .scalar_subquery()
    )
    row = connection.execute(
        update(table)
        .where(table.c.id == oldest)
        .values(attempts=table.c.attempts + 1, lease_until=now + lease_s)
        .returning(table)
    ).first()
    return _delivery(row) if row else None


def next_due_at(connection: Connection, notifier: str) -> float | None:
    """When the next delivery may be tried; None when nothing is pending."""
    table = schema.deliveries
    ready_at = func.max(table.c.due_at, func.coalesce(table.c.lease_until, 0.0))  # of two arguments: SQLite's greatest
    return connection.execute(select(ready_at).where(_is_next_for(notifier)).order_by(ready_at).limit(1)).scalar()


def mark_sent(connection: Connection, delivery: Delivery, *, now: float) -> None:
    """The receiver took it."""
    table = schema.deliveries
    connection.execute(
        update(table)
        .where(table.c.id == delivery.id)
        .values(state=DeliveryState.SENT, sent_at=now, lease_until=None, last_error=None)
    )


def mark_failed(connection: Connection, delivery: Delivery, *, error: str, retry_at: float | None) -> None:
    """It was not taken; retry_at None gives up. Does nothing when the lease ended and another attempt began."""
    table = schema.deliveries
    values = {"state": DeliveryState.DEAD} if retry_at is None else {"due_at": retry_at}
    connection.execute(
        update(table)
        .where(
            table.c.id == delivery.id,
            table.c.state == DeliveryState.PENDING,
            table.c.lease_until == delivery.lease_until,
        )
        .values(lease_until=None, last_error=error, **values)
    )


def end_leases(connection: Connection, notifiers: Sequence[str]) -> int:
    """What these were being told when the last daemon died is due again now; returns how many. For a start alone."""
    table = schema.deliveries
    pending = and_(table.c.state == DeliveryState.PENDING, table.c.notifier.in_(notifiers))
    return connection.execute(
        update(table).where(pending, table.c.lease_until.is_not(None)).values(lease_until=None)
    ).rowcount


def bury_orphans(connection: Connection, notifiers: Sequence[str]) -> int:
    """Give up what is pending for notifiers that are no longer configured; returns how many."""
    table = schema.deliveries
    return connection.execute(
        update(table)
        .where(table.c.state == DeliveryState.PENDING, table.c.notifier.not_in(notifiers))
        .values(state=DeliveryState.DEAD, lease_until=None, last_error="the notifier is no longer configured")
    ).rowcount


def list_deliveries(
    connection: Connection,
    *,
    incident_id: str | None = None,
    target: str | None = None,
    state: DeliveryState | None = None,
    limit: int = 100,
) -> list[Delivery]:
    """Deliveries, newest first. target: about an incident or a recycle of it."""
    table, i, r = schema.deliveries, schema.incidents, schema.recycles
    query = select(table).order_by(desc(table.c.id)).limit(limit)
    if incident_id is not None:
        query = query.where(table.c.incident_id == incident_id)
    if target is not None:
        of_incident = table.c.incident_id.in_(select(i.c.id).where(i.c.target == target))
        of_recycle = select(r.c.id).where(r.c.target == target, table.c.key.startswith(r.c.id + "-")).exists()
        query = query.where(or_(of_incident, of_recycle))
    if state is not None:
        query = query.where(table.c.state == state)
    return [_delivery(row) for row in connection.execute(query)]


def count_deliveries(connection: Connection) -> dict[tuple[str, DeliveryState], int]:
    """Stored deliveries by (notifier, state); retention bounds sent and dead."""
    table = schema.deliveries
    rows = connection.execute(
        select(table.c.notifier, table.c.state, func.count()).group_by(table.c.notifier, table.c.state)
    )
    return {(notifier, DeliveryState(state)): count for notifier, state, count in rows}


def cap_deliveries(connection: Connection) -> int:
    """Keep the newest KEPT_SENT sent and KEPT_DEAD dead ones; returns how many were deleted.

    What was sent about an open incident stays: it says who must hear that it is over.
    """
    d, i = schema.deliveries, schema.incidents
    is_over = or_(d.c.incident_id.is_(None), d.c.incident_id.not_in(select(i.c.id).where(i.c.state.in_(OPEN))))
    deleted = 0
    for state, kept in ((DeliveryState.SENT, KEPT_SENT), (DeliveryState.DEAD, KEPT_DEAD)):
        over = select(d.c.id).where(d.c.state == state, is_over).order_by(desc(d.c.id)).offset(kept)
        deleted += connection.execute(delete(d).where(d.c.id.in_(over))).rowcount
    return deleted


def _is_next_for(notifier: str) -> ColumnElement[bool]:
    """Pending, and no earlier delivery of the same incident and notifier is. Dead ones hold up nothing."""
    table, earlier = schema.deliveries, schema.deliveries.alias()
    held_up = (
        select(earlier.c.id)
        .where(
            earlier.c.notifier == table.c.notifier,
            earlier.c.state == DeliveryState.PENDING,
            earlier.c.incident_id == table.c.incident_id,
            earlier.c.id < table.c.id,
        )
        .exists()
    )
    return and_(table.c.notifier == notifier, table.c.state == DeliveryState.PENDING, ~held_up)


def _delivery(row: Row[Any]) -> Delivery:
    values = {f.name: getattr(row, f.name) for f in fields(Delivery)}
    return Delivery(**values | {"event": Event(row.event), "state": DeliveryState(row.state)})
