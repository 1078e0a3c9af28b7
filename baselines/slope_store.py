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
    known: defaultdict[str, dict[tuple[str, int], list[float]]] = defaultdict(dict)
    newest: dict[str, float] = {}
    for row in connection.execute(select(s).where(s.c.target == target)):
        known[row.version][row.figure, row.scale] = row.slopes
        newest[row.version] = max(row.at, newest.get(row.version, row.at))
    others = sorted((v for v in known if v != (version or _NO_VERSION)), key=newest.__getitem__)
    before = others[-1] if others else None
    return SlopeHistory(
        version=version,
        own=known.get(version or _NO_VERSION, {}),
        version_before=before or None,
        before=known[before] if before else {},
        former=_former(connection, target, subject, life),
    )


def _former(connection: Connection, target: str, subject: str, life: str) -> Former | None:
    """The life that was last in this slot before; None when it did not leak at its end."""
    verdict = verdict_store.last_of_former_life(connection, target, subject, life)
    slope = None if verdict is None else verdict.evidence.get("slope_bytes_per_hour")
    if verdict is None or not isinstance(slope, (int, float)) or verdict.evidence.get("kind") is None:
        return None
    version = verdict.evidence.get("version")
    return Former(
        figure=str(verdict.evidence.get("channel")),
        slope=slope / 3600,
        version=None if version is None else str(version),
    )
