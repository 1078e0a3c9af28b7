"""What can be recycled, and the facts by which the gate (`episode.may_recycle`) decides whether it may be, now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import GateFacts, RecyclePolicy, State, Trigger, is_too_old, is_worn_out
from alerts.incident import POLICIES, Incident, is_blamed
from alerts.incident import State as IncidentState
from alerts.recovery import Recovery
from alerts.recycle_store import Episode
from alerts.recyclers import Recycler
from alerts.trim import Trimmed
from baselines import memory_store, verdict_store
from baselines.gpu_signals import standing_in_the_way
from baselines.verdict import Check, Reason, Status
from probes.messages import Burst, Family, Life


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

    def held(self, figure: str) -> int | None:
        """By all workers together: `recovery.MEMORY`, host and device, or `wording.COUNTED`; None when not watched."""

    @property
    def can_trim(self) -> bool:
        """Whether an agent is asked."""

    def trim(self, life: Life, channel: str) -> Trimmed:
        """Have a worker give memory back; that figure of its memory before and after. May take half a minute."""

    def judge(
        self, bursts: Sequence[Burst], *, reason: str, figure: str, before: int | None, after: int | None
    ) -> Recovery:
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


def due_by_schedule(connection: Connection, subject: Subject) -> dict[Life, str]:
    """The workers past their `max_age` or `max_requests`, and which; those are left out of whom it is not known."""
    policy, due = subject.policy, dict[Life, str]()
    lives = subject.known_lives() or () if policy.max_age_s or policy.max_requests else ()
    newest = memory_store.latest_memory(connection, subject.name) if lives and policy.max_requests else []
    served = {sample.life: sample.requests for sample in newest}
    for life in lives:
        uptime, requests = subject.uptime_s(life), served.get(life.key)
        if uptime is not None and is_too_old(life.key, uptime, policy):
            due[life] = "max_age"
        elif requests is not None and is_worn_out(life.key, requests, policy):
            due[life] = "max_requests"
    return due


def workers_meant(
    connection: Connection, episode: Episode, incident: Incident | None, subject: Subject
) -> list[Life] | None:
    """Those that are due by schedule; or the worker the incident is about, none when it is gone; or all.

    All where it is not known who is meant: a life that was never seen here is named by an agent as it looks inside a
    container of its own. None when processes are not watched.
    """
    lives = subject.known_lives()
    if lives is not None and episode.trigger is Trigger.AGE:
        return list(due_by_schedule(connection, subject))
    if lives is None or incident is None or incident.life is None:
        return lives
    named = [life for life in lives if life.key == incident.life]
    seen = any(key == incident.life for key, *_ in memory_store.lives_seen(connection, subject.name))
    return named if named or seen else lives


def why_not_ready(episode: Episode, subject: Subject, ended: tuple[Life, ...]) -> str:
    """Why the replacements are not ready; empty when they are: as many workers as before, and an answer."""
    lives = subject.lives()
    if lives is not None and ended:
        if set(lives) & set(ended):
            return "an old worker still runs"
        before = episode.evidence.get("before_workers")
        if not lives or (isinstance(before, int) and len(lives) < before):
            return f"{len(lives)} of {before} workers run"
    try:
        bursts = subject.burst(size=1)
    except Held as held:
        return str(held)
    bad = (b for b in bursts if b.samples[-1].outcome.family not in (Family.GOOD, Family.WRONG))
    return next((f"canary {b.canary}: {b.samples[-1].outcome}" for b in bad), "")
