"""Carries out recycles: writes each state down before it is entered, acts once, and proves that it helped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sqlalchemy import Connection

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import (
    ENDED,
    Event,
    GateFacts,
    GateReason,
    Outcome,
    RecyclePolicy,
    State,
    advance,
    may_recycle,
    resume_from,
)
from alerts.incident import Incident
from alerts.incident import State as IncidentState
from alerts.recovery import Recovery
from alerts.recycle_store import Episode, Step
from alerts.recyclers import Recycler
from baselines import store as history
from baselines.database import Database
from probes.messages import Burst, Family, Life

POLL_S = 0.5
VERIFY_PATIENCE = 4  # caches and clocks settle, and one noisy moment must not count as "did not help"


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

    def lives(self) -> list[Life] | None:
        """The workers alive now; None when processes are not watched."""

    def uptime_s(self, life: Life) -> float | None:
        """How long a worker has been running; None when it is gone."""

    def missing(self) -> str | None:
        """A signal that should be there and is not; None when all are."""

    def burst(self, *, size: int | None = None) -> list[Burst]:
        """One burst of each canary, taken now."""

    def memory_bytes(self) -> int | None:
        """Memory of all workers together, host and device; None when not watched."""

    def judge(self, bursts: Sequence[Burst], *, reason: str, before: int | None, after: int | None) -> Recovery:
        """Whether the target is back in its baseline (`recovery.judge_recovery` on its own baselines)."""


def gather_facts(connection: Connection, episode: Episode, subject: Subject, *, now: float) -> GateFacts:
    """What the gate asks for, as it is at this moment. The episode may be a request that is not stored yet."""
    incident = alert_store.find_incident(connection, episode.incident_id) if episode.incident_id else None
    chosen = _workers_meant(connection, incident, subject)
    uptimes = [u for life in chosen or () if (u := subject.uptime_s(life)) is not None]
    others = [e for e in recycle_store.under_way(connection) if e.id != episode.id]
    return GateFacts(
        trigger=episode.trigger,
        mode=subject.mode,
        has_recycler=subject.recycler is not None,
        firing=incident is not None and incident.state is IncidentState.FIRING,
        cause=incident.cause if incident else None,
        level=incident.level if incident else None,
        missing=subject.missing(),
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


def _workers_meant(connection: Connection, incident: Incident | None, subject: Subject) -> list[Life] | None:
    """The worker the incident is about, none when it is gone; all of them when it is not known; None when not watched.

    A life that was never seen here is not known: the agent names it as it looks inside a container of its own.
    """
    lives = subject.lives()
    if lives is None or incident is None or incident.life is None:
        return lives
    named = [life for life in lives if life.key == incident.life]
    seen = any(key == incident.life for key, *_ in history.lives_seen(connection, subject.name))
    return named if named or seen else lives


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """What came of one state: the event for the table, and what to write down."""

    event: Event
    detail: str
    outcome: Outcome | None = None
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)
    lives_before: tuple[Life, ...] | None = None


class Recycling:
    """Runs episodes, one at a time per target. Each call runs on a thread that may wait for minutes.

    tell: puts the messages of an ended episode into the outbox, inside the transaction that ends it.
    wait: sleeps; returns True when the daemon is stopping, which leaves the episode to be resumed.
    """

    def __init__(
        self,
        database: Database,
        *,
        tell: Callable[[Connection, Episode], None],
        now: Callable[[], float],
        monotonic: Callable[[], float],
        wait: Callable[[float], bool],
    ) -> None:
        self._database = database
        self._tell = tell
        self._now = now
        self._monotonic = monotonic
        self._wait = wait

    def run(self, episode: Episode, subject: Subject) -> Episode:
        """Take an episode to its end, or to where the daemon was told to stop."""
        states: Mapping[State, Callable[[Episode, Subject], Happened | None]] = {
            State.SUSPECT: lambda _e, _s: Happened(event=Event.REQUESTED, detail=""),
            State.GATE: self._gate,
            State.DRAIN: self._drain,
            State.RECYCLE: self._act,
            State.WAIT_READY: self._wait_ready,
            State.WARM_UP: self._warm_up,
            State.VERIFY: self._verify,
        }
        while episode.state not in ENDED:
            happened = states[episode.state](episode, subject)
            if happened is None:  # the daemon is stopping; the row says where to resume
                return episode
            episode = self._enter(episode, happened)
        return episode

    def resume(self, episode: Episode, subject: Subject) -> Episode:
        """Go on with an episode that a crash or a stop interrupted. Never acts a second time."""
        lives = subject.lives()
        old_alive = None if lives is None or not episode.lives_before else bool(set(episode.lives_before) & set(lives))
        state = resume_from(episode.state, old_lives_alive=old_alive)
        if state is None:
            return self._write(
                replace(episode, state=State.ESCALATED, outcome=Outcome.INTERRUPTED),
                "the daemon was interrupted while acting and the old worker still runs; not repeated",
            )
        return self.run(self._write(replace(episode, state=state), f"resumed from {episode.state}"), subject)

    # --- one method per state -----------------------------------------------------------------------------------------

    def _gate(self, episode: Episode, subject: Subject) -> Happened:
        now = self._now()
        with self._database.read() as connection:
            facts = gather_facts(connection, episode, subject, now=now)
            incident = alert_store.find_incident(connection, episode.incident_id) if episode.incident_id else None
            meant = _workers_meant(connection, incident, subject)
        reason = may_recycle(facts, subject.policy, now=now)
        if reason is not GateReason.ALLOWED:
            return Happened(event=Event.REFUSED, detail=reason, outcome=Outcome.BLOCKED)
        return Happened(
            event=Event.ALLOWED,
            detail=reason,
            lives_before=tuple(meant or ()),
            evidence={"before_memory_bytes": subject.memory_bytes(), "before_workers": len(subject.lives() or ())},
        )

    def _drain(self, _episode: Episode, subject: Subject) -> Happened | None:
        """/readyz/TARGET answers 503 meanwhile (see `web`): the load balancer has drain_s to look elsewhere."""
        if subject.drain_s and self._wait(subject.drain_s):
            return None
        return Happened(event=Event.DRAINED, detail=f"drained for {subject.drain_s:g} s" if subject.drain_s else "")

    def _act(self, episode: Episode, subject: Subject) -> Happened:
        assert subject.recycler is not None  # the gate's first question
        acted = subject.recycler.act(episode.lives_before)
        if acted.done:
            return Happened(event=Event.ACTED, detail=acted.detail)
        return self._failed(episode, Outcome.ACT_FAILED, acted.detail, subject)

    def _wait_ready(self, episode: Episode, subject: Subject) -> Happened | None:
        began = self._monotonic()
        problem = "no answer yet"
        while self._monotonic() - began < subject.ready_timeout_s:
            problem = self._not_ready(episode, subject)
            if not problem:
                return Happened(event=Event.READY, detail=f"ready after {self._monotonic() - began:.1f} s")
            if self._wait(POLL_S):
                return None
        detail = f"not ready within {subject.ready_timeout_s:g} s: {problem}"
        return self._failed(episode, Outcome.NOT_READY, detail, subject)

    @staticmethod
    def _not_ready(episode: Episode, subject: Subject) -> str:
        """Why the replacement is not ready; empty when it is: new workers, as many as before, and an answer."""
        lives = subject.lives()
        if lives is not None and episode.lives_before:
            if set(lives) & set(episode.lives_before):
                return "an old worker still runs"
            before = episode.evidence.get("before_workers")
            if not lives or (isinstance(before, int) and len(lives) < before):
                return f"{len(lives)} of {before} workers run"
        for burst in subject.burst(size=1):
            if burst.samples[-1].outcome.family not in (Family.GOOD, Family.WRONG):
                return f"canary {burst.canary}: {burst.samples[-1].outcome}"
        return ""

    def _warm_up(self, _episode: Episode, subject: Subject) -> Happened:
        """One burst whose latencies are thrown away: first calls compile, allocate and fill caches."""
        subject.burst()
        return Happened(event=Event.WARM, detail="")

    def _verify(self, episode: Episode, subject: Subject) -> Happened | None:
        """The newest verify_bursts rounds must prove it; a young worker gets VERIFY_PATIENCE times as many to do so."""
        before = episode.evidence.get("before_memory_bytes")
        rounds: deque[list[Burst]] = deque(maxlen=subject.verify_bursts)
        recovery = Recovery(recovered=False, detail="not verified")
        for number in range(1, VERIFY_PATIENCE * subject.verify_bursts + 1):
            rounds.append(subject.burst())
            if number >= subject.verify_bursts:
                recovery = subject.judge(
                    [burst for each in rounds for burst in each],
                    reason=episode.reason,
                    before=before if isinstance(before, int) else None,
                    after=subject.memory_bytes(),
                )
            if recovery.recovered:
                break
            if self._wait(POLL_S):
                return None
        evidence = dict(recovery.evidence)
        if recovery.recovered:
            detail = f"verified: {recovery.detail}"
            return Happened(event=Event.FINISHED, detail=detail, outcome=Outcome.VERIFIED, evidence=evidence)
        failed = self._failed(episode, Outcome.NOT_HELPED, recovery.detail, subject)
        event = failed.event if failed.event is Event.HELPLESS else Event.FINISHED
        return replace(failed, event=event, evidence=evidence)

    def _failed(self, episode: Episode, outcome: Outcome, detail: str, subject: Subject) -> Happened:
        """Ineffective: opens the breaker when it is not the first in a row."""
        with self._database.read() as connection:
            in_a_row = recycle_store.ineffective_in_a_row(connection, episode.target) + 1
        helpless = in_a_row >= subject.policy.breaker_limit
        if helpless:
            detail += f"; {in_a_row} in a row did not help, the breaker is open"
        return Happened(event=Event.HELPLESS if helpless else Event.FAILED, detail=detail, outcome=outcome)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _enter(self, episode: Episode, happened: Happened) -> Episode:
        state = advance(episode.state, happened.event)
        changed = replace(
            episode,
            state=state,
            outcome=happened.outcome or episode.outcome,
            evidence={**episode.evidence, **happened.evidence},
            lives_before=episode.lives_before if happened.lives_before is None else happened.lives_before,
            acted_at=self._now() if state is State.RECYCLE else episode.acted_at,
        )
        return self._write(changed, happened.detail)

    def _write(self, episode: Episode, detail: str) -> Episode:
        """Append the step and commit; an end is told in the same transaction."""
        now = self._now()
        ended = episode.state in ENDED
        written = replace(
            episode,
            detail=detail or episode.detail,
            updated_at=now,
            ended_at=now if ended else None,
            steps=(*episode.steps, Step(at=now, state=episode.state, detail=detail)),
        )
        with self._database.write(durable=True) as connection:
            recycle_store.save_episode(connection, written)
            if ended and written.state is not State.BLOCKED:
                self._tell(connection, written)
        return written
