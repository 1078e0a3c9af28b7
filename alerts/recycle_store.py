"""SQL of recycles: one row per episode, and the resets of the breaker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import takewhile
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, desc, func, insert, or_, select, update

from alerts import schema
from alerts.episode import ENDED, INEFFECTIVE, Outcome, State, Trigger
from probes.messages import Life

KEPT_EPISODES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A state the episode entered, when, and what is worth saying about it."""

    at: float
    state: State
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One recycle. Times are Unix seconds; acted_at is when the act was about to begin, None if it never was.

    reason: the verdict's, `max_age`, `max_requests`, or a person's words. lives_before: the workers to be recycled.
    evidence: figures before and after, keys `before_*` and `after_*` with their unit.
    """

    id: str
    target: str
    trigger: Trigger
    reason: str
    requested_at: float
    updated_at: float
    incident_id: str | None = None
    state: State = State.SUSPECT
    outcome: Outcome | None = None
    detail: str = ""
    acted_at: float | None = None
    ended_at: float | None = None
    lives_before: tuple[Life, ...] = ()
    steps: tuple[Step, ...] = ()
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)


def save_episode(connection: Connection, episode: Episode) -> None:
    """Insert the episode, or overwrite its row."""
    table = schema.recycles
    values = {f.name: getattr(episode, f.name) for f in fields(Episode)} | {
        "lives_before": [asdict(life) for life in episode.lives_before],
        "steps": [asdict(step) for step in episode.steps],
        "evidence": dict(episode.evidence),
    }
    changed = connection.execute(update(table).where(table.c.id == episode.id).values(values)).rowcount
    if not changed:
        connection.execute(insert(table).values(values))


def get_episode(connection: Connection, episode_id: str) -> Episode | None:
    """The episode of that id; None when there is none."""
    row = connection.execute(select(schema.recycles).where(schema.recycles.c.id == episode_id)).first()
    return _episode(row) if row else None


def list_episodes(connection: Connection, target: str | None = None, *, limit: int = 100) -> list[Episode]:
    """Episodes, newest first."""
    table = schema.recycles
    query = select(table).order_by(desc(table.c.requested_at), desc(table.c.updated_at)).limit(limit)
    if target is not None:
        query = query.where(table.c.target == target)
    return [_episode(row) for row in connection.execute(query)]


def under_way(connection: Connection) -> list[Episode]:
    """Episodes that have not ended, oldest first."""
    table = schema.recycles
    rows = connection.execute(select(table).where(table.c.state.not_in(ENDED)).order_by(table.c.requested_at))
    return [_episode(row) for row in rows]


def last_of_incident(connection: Connection, incident_id: str, *, acted: bool = False) -> Episode | None:
    """The newest episode asked for by an incident, with `acted` one that acted if there is any; None without one."""
    table = schema.recycles
    first = (table.c.acted_at.is_(None),) if acted else ()
    row = connection.execute(
        select(table).where(table.c.incident_id == incident_id).order_by(*first, desc(table.c.requested_at)).limit(1)
    ).first()
    return _episode(row) if row else None


def acts_since(connection: Connection, target: str, since: float) -> tuple[float, ...]:
    """Times at which the target was acted on, oldest first. Recycles by age are not counted: they spend no budget."""
    table = schema.recycles
    rows = connection.execute(
        select(table.c.acted_at)
        .where(table.c.target == target, table.c.acted_at >= since, table.c.trigger != Trigger.AGE)
        .order_by(table.c.acted_at)
    )
    return tuple(row.acted_at for row in rows)


def acted_since(connection: Connection, target: str, since: float, *, other: str) -> bool:
    """Whether another episode than `other` acted on the target, or ended after acting, since then."""
    table = schema.recycles
    later = or_(table.c.acted_at > since, and_(table.c.acted_at.is_not(None), table.c.ended_at > since))
    found = connection.execute(
        select(table.c.id).where(table.c.target == target, table.c.id != other, later).limit(1)
    ).first()
    return found is not None


def last_ended_at(connection: Connection, target: str) -> float | None:
    """When the last episode that acted ended, those by age left out; None when none did."""
    table = schema.recycles
    return connection.execute(
        select(func.max(table.c.ended_at)).where(
            table.c.target == target, table.c.acted_at.is_not(None), table.c.trigger != Trigger.AGE
        )
    ).scalar()


def ineffective_in_a_row(connection: Connection, target: str) -> int:
    """How many of the newest recycles did not help, since the last one that did or the last reset by a person.

    One that was interrupted says neither and is passed over.
    """
    table, resets = schema.recycles, schema.breaker_resets
    reset_at = connection.execute(select(func.max(resets.c.at)).where(resets.c.target == target)).scalar() or 0.0
    outcomes = connection.execute(
        select(table.c.outcome)
        .where(table.c.target == target, table.c.acted_at.is_not(None), table.c.ended_at > reset_at)
        .order_by(desc(table.c.ended_at))
    ).scalars()
    since_verified = takewhile(lambda outcome: outcome != Outcome.VERIFIED, outcomes)
    return sum(outcome in INEFFECTIVE for outcome in since_verified)


def recycled_targets(connection: Connection) -> frozenset[str]:
    """The targets with an episode that is still kept."""
    return frozenset(connection.execute(select(schema.recycles.c.target).distinct()).scalars())


def reset_breaker(connection: Connection, target: str, *, at: float, by: str) -> None:
    """A person vouches for the target: what did not help before no longer counts."""
    connection.execute(insert(schema.breaker_resets).values(target=target, at=at, by=by))


def cap_episodes(connection: Connection) -> int:
    """Keep the newest KEPT_EPISODES, and each target's last reset (no other counts); returns how many were deleted."""
    table, resets = schema.recycles, schema.breaker_resets
    oldest = select(table.c.updated_at).order_by(desc(table.c.updated_at)).offset(KEPT_EPISODES).limit(1)
    deleted = connection.execute(
        delete(table).where(table.c.updated_at <= oldest.scalar_subquery(), table.c.state.in_(ENDED))
    ).rowcount
    last = select(func.max(resets.c.id)).group_by(resets.c.target)
    return deleted + connection.execute(delete(resets).where(resets.c.id.not_in(last))).rowcount


def _episode(row: Row[Any]) -> Episode:
    values = {f.name: getattr(row, f.name) for f in fields(Episode)}
    return Episode(
        **values
        | {
            "trigger": Trigger(row.trigger),
            "state": State(row.state),
            "outcome": Outcome(row.outcome) if row.outcome else None,
            "lives_before": tuple(Life(**life) for life in row.lives_before),
            "steps": tuple(Step(at=s["at"], state=State(s["state"]), detail=s["detail"]) for s in row.steps),
        }
    )
