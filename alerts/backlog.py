"""How far behind telling is: what waits in the outbox, and what was given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from alerts import schema
from alerts.delivery_store import DeliveryState


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Of one notifier. oldest_at: when the oldest pending message was put into the outbox, Unix seconds; None: none is.

    last_error: how the last attempt at that one failed; None when none did yet.
    """

    pending: int = 0
    dead: int = 0
    oldest_at: float | None = None
    last_error: str | None = None


def read_backlogs(connection: Connection) -> Mapping[str, Backlog]:
    """By notifier, also of those that are no longer configured; a notifier with nothing waiting or dead is left out."""
    table = schema.deliveries
    counts = connection.execute(
        select(table.c.notifier, table.c.state, func.count())
        .where(table.c.state.in_((DeliveryState.PENDING, DeliveryState.DEAD)))
        .group_by(table.c.notifier, table.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for notifier, state, count in counts:
        found.setdefault(notifier, {})[state] = count
    return {notifier: _read_backlog(connection, notifier, by_state) for notifier, by_state in found.items()}


def _read_backlog(connection: Connection, notifier: str, by_state: Mapping[str, int]) -> Backlog:
    table = schema.deliveries
    oldest = connection.execute(
        select(table.c.created_at, table.c.last_error)
        .where(table.c.notifier == notifier, table.c.state == DeliveryState.PENDING)
        .order_by(table.c.created_at, table.c.id)
        .limit(1)
    ).first()
    return Backlog(
        pending=by_state.get(DeliveryState.PENDING, 0),
        dead=by_state.get(DeliveryState.DEAD, 0),
        oldest_at=oldest.created_at if oldest else None,
        last_error=oldest.last_error if oldest else None,
    )
