"""SQL of past slopes: each function takes the caller's connection, and so joins its transaction."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from baselines import schema, verdict_store
from baselines.slopes import MAX_SLOPES, Former, SlopeHistory, Slopes

_NO_VERSION = ""


def add_slopes(connection: Connection, target: str, version: str | None, slopes: Slopes, *, at: float) -> None:
    """Append slopes to what is known of a version; the newest MAX_SLOPES of each figure and width stay."""
    s = schema.memory_slopes
    for (figure, scale), fresh in slopes.items():
        key = {"target": target, "version": version or _NO_VERSION, "figure": figure, "scale": scale}
        known = connection.execute(select(s.c.slopes).filter_by(**key)).scalar_one_or_none() or []
        values = {"slopes": [*known, *fresh][-MAX_SLOPES:], "at": at}
        row = upsert(s).values(**key, **values)
        connection.execute(row.on_conflict_do_update(index_elements=s.primary_key.columns, set_=values))


def slope_history(connection: Connection, target: str, version: str | None, *, subject: str, life: str) -> SlopeHistory:
    """What earlier lives of a target tell about this one. version: None when it is not known."""
    s = schema.memory_slopes
    known: defaultdict[str | None, dict[tuple[str, int], list[float]]] = defaultdict(dict)
    newest: dict[str | None, float] = {}
    for row in connection.execute(select(s).where(s.c.target == target)):
        of = row.version or None
        known[of][row.figure, row.scale] = row.slopes
        newest[of] = max(row.at, newest.get(of, row.at))
    former = Former.of(verdict_store.last_of_former_life(connection, target, subject, life))
    return SlopeHistory.of(version or None, known, newest, former=former)
