"""What can be recycled, and the facts by which the gate (`episode.may_recycle`) decides whether it may be, now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import GateFacts, RecyclePolicy, State, Trigger, is_too_old
from alerts.incident import POLICIES, Incident, is_blamed
from alerts.incident import State as IncidentState
from alerts.recovery import Recovery
from alerts.recycle_store import Episode
from alerts.recyclers import Recycler
from baselines import memory_store, verdict_store
from baselines.gpu_signals import standing_in_the_way
from baselines.verdict import Check, Reason, Status
from probes.messages import Burst, Life


class Held(Exception):  # noqa: N818  (the name says what happened)
    """The canaries cannot be asked just now: another command holds them. Try again."""


class Subject(Protocol):
    """What can be recycled: a target as this package needs to see it.

    peers: the other targets of its group; empty without one.
    """

    name: str
    mode: str
    peers: frozenset[str]
    recycler: Recycler | None
    drain_s: float
    ready_timeout_s: float
    verify_bursts: int

    @property
    def policy(self) -> RecyclePolicy:
        """When it may be recycled."""

    @property
    def evidence_age_s(self) -> float:
        """How old the newest bad verdict may be, in seconds, for anything to be done about it."""

    def lives(self) -> list[Life] | None:
        """The workers alive now; None when processes are not watched."""

    def known_lives(self) -> list[Life] | None:
        """The same without a search, for use inside a transaction: those found last, while all of them live."""

    def uptime_s(self, life: Life) -> float | None:
        """How long a worker has been running; None when it is gone."""

    def missing(self) -> str | None:
        """A signal that should be there and is not; None when all are."""

    def burst(self, *, size: int | None = None) -> list[Burst]:
        """One burst of each canary that asks the serving workers, taken now. Raises Held."""

    def memory_bytes(self) -> int | None:
        """Memory of all workers together, host and device; None when not watched."""

    def judge(self, bursts: Sequence[Burst], *, reason: str, before: int | None, after: int | None) -> Recovery:
        """Whether the target is back in its baseline (`recovery.judge_recovery` on its own baselines)."""


def gather_facts(connection: Connection, episode: Episode, subject: Subject, *, now: float) -> GateFacts:
    """What the gate asks for, as it is at this moment. The episode may be a request that is not stored yet."""
    incident = alert_store.find_incident(connection, episode.incident_id) if episode.incident_id else None
    chosen = workers_meant(connection, episode, incident, subject)
    uptimes = [u for life in chosen or () if (u := subject.uptime_s(life)) is not None]
    others = [e for e in recycle_store.under_way(connection) if e.id != episode.id]
    return GateFacts(
        trigger=episode.trigger,
        mode=subject.mode,
        has_recycler=subject.recycler is not None,
        firing=incident is not None and incident.state is IncidentState.FIRING,
        cause=incident.cause if incident else None,
        level=incident.level if incident else None,
        blamed=incident is not None and is_blamed(incident, POLICIES[incident.check]),
        recovering=incident is not None and incident.status is not Status.WORSE,
        stale=incident is not None and now - incident.updated_at > subject.evidence_age_s,
        asked_s=now - episode.requested_at,
        recycled_since_asked=recycle_store.acted_since(
            connection, subject.name, episode.requested_at, other=episode.id
        ),
        missing=subject.missing(),
        hardware=_in_the_way(connection, subject.name, incident),
        workers=None if chosen is None else len(chosen),
        youngest_uptime_s=min(uptimes, default=None),
        in_flight=any(e.target == subject.name and e.state is not State.SUSPECT for e in others),
        busy_in_group=sum(e.target in subject.peers and e.state is not State.SUSPECT for e in others),
        group_size=len(subject.peers) + 1,
        silenced=alert_store.is_silenced(connection, subject.name, incident.check if incident else None, now=now),
        acts=recycle_store.acts_since(connection, subject.name, now - subject.policy.budget_window_s),
        ineffective=recycle_store.ineffective_in_a_row(connection, subject.name),
        last_ended_at=recycle_store.last_ended_at(connection, subject.name),
    )


def _in_the_way(connection: Connection, target: str, incident: Incident | None) -> Reason | None:
    """What is wrong with its devices that no recycle helps; of a driver that does not answer also while that is new."""
    stand = verdict_store.latest_verdicts_of(connection, target, Check.GPU)
    reasons = frozenset(verdict.reason for verdict in stand if verdict.status is not Status.OK)
    return standing_in_the_way(reasons, for_memory=incident is None or incident.check is Check.MEMORY)


def too_old(subject: Subject) -> list[Life]:
    """The workers past their `max_age`; none where it is not known."""
    ages = [(life, uptime) for life in subject.known_lives() or () if (uptime := subject.uptime_s(life)) is not None]
    return [life for life, uptime in ages if is_too_old(life.key, uptime, subject.policy)]


def workers_meant(
    connection: Connection, episode: Episode, incident: Incident | None, subject: Subject
) -> list[Life] | None:
    """Those past their age; or the worker the incident is about, none when it is gone; all where that is not known.

    None when processes are not watched. A life that was never seen here is not known: the agent names it as it looks
    inside a container of its own.
    """
    lives = subject.known_lives()
    if lives is not None and episode.trigger is Trigger.AGE:
        return too_old(subject)
    if lives is None or incident is None or incident.life is None:
        return lives
    named = [life for life in lives if life.key == incident.life]
    seen = any(key == incident.life for key, *_ in memory_store.lives_seen(connection, subject.name))
    return named if named or seen else lives
