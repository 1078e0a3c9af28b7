"""Who asks for a recycle, besides a firing incident's first request: evidence that persists, and the schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import ENDED, INEFFECTIVE, PASSING, GateReason, Outcome, Trigger, may_recycle
from alerts.gate import Subject, due_by_schedule, gather_facts
from alerts.incident import Incident
from alerts.incident import State as IncidentState
from alerts.recycle_store import Episode
from alerts.trim import has_regrown
from baselines.verdict import Cause, Level, Status

SETTLE_S = 600.0  # verdicts made of bursts from before the recycle have passed by then
LOOKED_AT = 1000  # open incidents; far more than a person could read


def may_ask_again(incident: Incident, last: Episode | None) -> bool:
    """Whether a firing incident may ask once more after its last episode.

    Yes when time or new evidence may have lifted the refusal; when the last recycle did not help and the cooldown
    (which the gate knows) may be over; or when it did help and a worker that was not there then fails since; or when a
    trim helped and the memory is back where it was. No while one is under way or after one that was interrupted.
    """
    if last is None:
        return True
    if last.state not in ENDED:
        return False
    if last.outcome is Outcome.BLOCKED:
        return last.detail in PASSING
    if last.outcome is Outcome.VERIFIED:
        return _has_come_back(incident, last)
    if last.outcome is Outcome.TRIMMED:
        regrown = has_regrown(incident, last.evidence)
        return regrown if regrown is not None else _has_stayed_bad(incident, last)
    return last.outcome in INEFFECTIVE


def _has_come_back(incident: Incident, last: Episode) -> bool:
    """Whether it is bad again after the proof: with another worker, or, where that is not known, for a good while."""
    if incident.status is not Status.WORSE or last.ended_at is None or incident.updated_at <= last.ended_at:
        return False
    if incident.life is not None:
        return incident.life not in {life.key for life in last.lives_before}
    return _has_stayed_bad(incident, last)


def _has_stayed_bad(incident: Incident, last: Episode) -> bool:
    return last.ended_at is not None and incident.updated_at - last.ended_at > SETTLE_S


def ask_again(
    connection: Connection, subjects: Mapping[str, Subject], *, now: float, new_id: Callable[[], str]
) -> list[Episode]:
    """Requests of firing incidents whose gate would open now, stored in the caller's transaction."""
    asked = []
    for incident in alert_store.list_incidents(connection, only_open=True, limit=LOOKED_AT):
        subject = subjects.get(incident.target)
        if (
            subject is None
            or incident.state is not IncidentState.FIRING
            or incident.cause is not Cause.MODEL
            or incident.level not in (Level.PAGE, Level.URGENT)
        ):
            continue
        last = recycle_store.last_of_incident(connection, incident.id)
        if not may_ask_again(incident, last):
            continue
        episode = request(incident.target, Trigger.INCIDENT, incident.reason, incident.id, now=now, new_id=new_id)
        facts = gather_facts(connection, episode, subject, now=now)
        reason = may_recycle(facts, subject.policy, now=now)
        if reason is GateReason.ALLOWED or (reason is GateReason.MODE and not (last and last.detail == reason)):
            recycle_store.save_episode(connection, episode)
            asked.append(episode)
    return asked


def ask_for_age(
    connection: Connection, subjects: Mapping[str, Subject], *, now: float, new_id: Callable[[], str]
) -> list[Episode]:
    """Requests for workers past their `max_age` or `max_requests`, stored in the caller's transaction."""
    asked = []
    waiting = {episode.target for episode in recycle_store.under_way(connection)}
    for subject in subjects.values():
        due = due_by_schedule(connection, subject) if subject.name not in waiting else {}
        if not due:
            continue
        episode = request(subject.name, Trigger.AGE, next(iter(due.values())), None, now=now, new_id=new_id)
        facts = gather_facts(connection, episode, subject, now=now)
        if facts.workers and may_recycle(facts, subject.policy, now=now) is GateReason.ALLOWED:
            recycle_store.save_episode(connection, episode)
            asked.append(episode)
    return asked


def request(
    target: str, trigger: Trigger, reason: str, incident_id: str | None, *, now: float, new_id: Callable[[], str]
) -> Episode:
    """A new episode in state SUSPECT, not stored."""
    return Episode(
        id=new_id(),
        target=target,
        trigger=trigger,
        reason=reason,
        incident_id=incident_id,
        requested_at=now,
        updated_at=now,
    )
