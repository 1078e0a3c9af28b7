"""Carries out recycles: writes each state down before it is entered, acts once, and proves that it helped."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace

from sqlalchemy import Connection

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import (
    BEFORE_ACTING,
    ENDED,
    Event,
    GateReason,
    Outcome,
    State,
    advance,
    may_recycle,
    resume_from,
)
from alerts.gate import Held, Subject, gather_facts, why_not_ready, workers_meant
from alerts.happened import Happened
from alerts.recovery import MEMORY, Recovery, must_fall
from alerts.recycle_store import Episode, Step
from alerts.trim import Growth, find_growth, judge_trim
from alerts.wording import COUNTED
from baselines.database import Database
from probes.messages import Burst, Life

POLL_S = 0.5
VERIFY_PATIENCE = 4  # caches and clocks settle, and one noisy moment must not count as "did not help"


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
        self._lock = threading.Lock()
        self._acting: set[str] = set()

    def acting(self) -> frozenset[str]:
        """Targets past the gate: their canaries are the episode's, and their /readyz is 503."""
        with self._lock:
            return frozenset(self._acting)

    def run(self, episode: Episode, subject: Subject) -> Episode:
        """Take an episode to its end, or to where the daemon was told to stop."""
        states: Mapping[State, Callable[[Episode, Subject], Happened | None]] = {
            State.SUSPECT: lambda _e, _s: Happened(event=Event.REQUESTED, detail=""),
            State.GATE: self._gate,
            State.TRIM: self._trim,
            State.DRAIN: self._drain,
            State.RECYCLE: self._act,
            State.WAIT_READY: self._wait_ready,
            State.WARM_UP: self._warm_up,
            State.VERIFY: self._verify,
        }
        try:
            while episode.state not in ENDED:
                self._note(episode)
                happened = states[episode.state](episode, subject)
                if happened is None:  # the daemon is stopping; the row says where to resume
                    break
                episode = self._enter(episode, happened)
        finally:
            with self._lock:
                self._acting.discard(episode.target)
        return episode

    def resume(self, episode: Episode, subject: Subject) -> Episode:
        """Go on with an episode that a crash or a stop interrupted. Never acts on a worker a second time."""
        lives = subject.lives()
        ordered = episode.lives_before[: _ordered(episode)]
        old_alive = None if lives is None or not ordered else bool(set(ordered) & set(lives))
        state = resume_from(episode.state, old_lives_alive=old_alive)
        if state is State.WAIT_READY and len(ordered) < len(episode.lives_before) and episode.state is State.RECYCLE:
            state = State.RECYCLE  # those after it were never touched: their turn is still to come
        if state is None:
            return self._write(
                replace(episode, state=State.ESCALATED, outcome=Outcome.INTERRUPTED),
                "the daemon was interrupted while acting and the old worker still runs; not repeated",
            )
        return self.run(self._write(replace(episode, state=state), f"resumed from {episode.state}"), subject)

    def _note(self, episode: Episode) -> None:
        if episode.state not in BEFORE_ACTING:
            with self._lock:
                self._acting.add(episode.target)

    # --- one method per state -----------------------------------------------------------------------------------------

    def _gate(self, episode: Episode, subject: Subject) -> Happened:
        now = self._now()
        workers = subject.lives()  # searched for anew; the transaction below goes by what this found
        with self._database.read() as connection:
            facts = gather_facts(connection, episode, subject, now=now)
            incident = alert_store.find_incident(connection, episode.incident_id) if episode.incident_id else None
            meant = workers_meant(connection, episode, incident, subject)
        reason = may_recycle(facts, subject.policy, now=now)
        if reason is not GateReason.ALLOWED:
            return Happened(event=Event.REFUSED, detail=reason, outcome=Outcome.BLOCKED)
        growth = find_growth(incident, now=now) if incident is not None and subject.can_trim else None
        tried = any(step.state is State.TRIM for step in episode.steps)  # and a crash came in between
        trims = growth is not None and not tried and len(meant or ()) == 1
        figure = MEMORY if incident is None else must_fall(incident.reason, incident.evidence)
        evidence = {f"before_{figure}": subject.held(figure), "before_workers": len(workers or ())}
        return Happened(
            event=Event.TRIM_FIRST if trims else Event.ALLOWED,
            detail=reason,
            lives_before=tuple(meant or ()),
            evidence={**evidence, **(asdict(growth) if growth is not None and trims else {})},
        )

    @staticmethod
    def _trim(episode: Episode, subject: Subject) -> Happened:
        """Once: what comes back was kept by an allocator, and what is held goes with the worker."""
        evidence = episode.evidence
        growth = Growth(channel=str(evidence["channel"]), grown_bytes=float(evidence["grown_bytes"] or 0))
        verdict = judge_trim(growth, subject.trim(episode.lives_before[0], growth.channel))
        event, outcome = (Event.CAME_BACK, Outcome.TRIMMED) if verdict.helped else (Event.HELD, None)
        return Happened(event=event, detail=verdict.detail, outcome=outcome, evidence=verdict.evidence)

    def _drain(self, _episode: Episode, subject: Subject) -> Happened | None:
        """/readyz/TARGET answers 503 meanwhile (see `web`): the load balancer has drain_s to look elsewhere."""
        if subject.drain_s and self._wait(subject.drain_s):
            return None
        return Happened(event=Event.DRAINED, detail=f"drained for {subject.drain_s:g} s" if subject.drain_s else "")

    def _act(self, episode: Episode, subject: Subject) -> Happened | None:
        """One worker after another where that can be: each is replaced and answers before the next is taken."""
        recycler, lives = subject.recycler, episode.lives_before
        assert recycler is not None  # the gate's first question
        turns = [(life,) for life in lives] if recycler.one_by_one and lives else [lives]
        done = _ordered(episode) if "workers_ordered" in episode.evidence else 0  # by a run that was interrupted
        if done:
            waited = self._until_ready(episode, subject, ended=lives[:done])
            if waited is None or waited.event is not Event.READY:
                return waited
        said: list[str] = []
        for number, turn in enumerate(turns[done:], done + 1):
            if len(turns) > 1:
                self._note_order(episode, number)
            acted = recycler.act(turn)
            if not acted.done:
                return self._failed(episode, Outcome.ACT_FAILED, acted.detail, subject)
            said.append(acted.detail)
            if number < len(turns):
                waited = self._until_ready(episode, subject, ended=lives[:number])
                if waited is None or waited.event is not Event.READY:
                    return waited
        return Happened(event=Event.ACTED, detail=", ".join(said))

    def _note_order(self, episode: Episode, number: int) -> None:
        """Before the act on a worker, as every state is: what a crash leaves says who was not touched yet."""
        noted = replace(episode, evidence={**episode.evidence, "workers_ordered": number})
        with self._database.write(durable=True) as connection:
            recycle_store.save_episode(connection, noted)

    def _wait_ready(self, episode: Episode, subject: Subject) -> Happened | None:
        return self._until_ready(episode, subject, ended=episode.lives_before)

    def _until_ready(self, episode: Episode, subject: Subject, *, ended: tuple[Life, ...]) -> Happened | None:
        """READY, or the failure to become so within ready_timeout_s; None when the daemon is stopping."""
        began = self._monotonic()
        problem = "no answer yet"
        while self._monotonic() - began < subject.ready_timeout_s:
            problem = why_not_ready(episode, subject, ended)
            if not problem:
                return Happened(event=Event.READY, detail=f"ready after {self._monotonic() - began:.1f} s")
            if self._wait(POLL_S):
                return None
        detail = f"not ready within {subject.ready_timeout_s:g} s: {problem}"
        return self._failed(episode, Outcome.NOT_READY, detail, subject)

    def _warm_up(self, _episode: Episode, subject: Subject) -> Happened:
        """One burst whose latencies are thrown away: first calls compile, allocate and fill caches."""
        with suppress(Held):
            subject.burst()
        return Happened(event=Event.WARM, detail="")

    def _verify(self, episode: Episode, subject: Subject) -> Happened | None:
        """The newest verify_bursts rounds must prove it, and a new worker must have answered in one of them.

        A young worker gets VERIFY_PATIENCE times as many; with many workers it may take as many rounds to be met.
        """
        figure = next((each for each in COUNTED if f"before_{each}" in episode.evidence), MEMORY)
        before = episode.evidence.get(f"before_{figure}")
        rounds: deque[list[Burst]] = deque(maxlen=subject.verify_bursts)
        recovery = Recovery(recovered=False, detail="not verified")
        met: set[str] = set()
        known = {life.key for life in subject.lives() or ()}
        new = self._started_since(episode, subject)
        for _ in range(VERIFY_PATIENCE * (subject.verify_bursts + len(subject.lives() or ()))):
            try:
                rounds.append(subject.burst())
            except Held:
                if self._wait(POLL_S):
                    return None
                continue
            met |= {s.life for burst in rounds[-1] for s in burst.samples if s.life is not None}
            if len(rounds) == subject.verify_bursts:
                recovery = subject.judge(
                    [burst for each in rounds for burst in each],
                    reason=episode.reason,
                    figure=figure,
                    before=before if isinstance(before, int) else None,
                    after=subject.held(figure),
                )
            # Inside a container of its own a worker names itself as nobody here knows it: then it cannot be told.
            if recovery.recovered and new and met & known and not met & new:
                recovery = replace(recovery, recovered=False, detail="no answer came from a new worker, no proof")
            if recovery.recovered:
                break
            if self._wait(POLL_S):
                return None
        evidence = dict(recovery.evidence)
        if recovery.recovered and not new:
            recovery = replace(recovery, detail=f"{recovery.detail}; that a new worker answered could not be seen")
        if recovery.recovered:
            return Happened(event=Event.FINISHED, detail=recovery.detail, outcome=Outcome.VERIFIED, evidence=evidence)
        failed = self._failed(episode, Outcome.NOT_HELPED, recovery.detail, subject)
        event = failed.event if failed.event is Event.HELPLESS else Event.FINISHED
        return replace(failed, event=event, evidence=evidence)

    def _started_since(self, episode: Episode, subject: Subject) -> set[str]:
        """The workers that began after the act."""
        since_s = self._now() - (episode.acted_at or episode.requested_at)
        ages = {life.key: subject.uptime_s(life) for life in subject.lives() or ()}
        return {key for key, age in ages.items() if age is not None and age <= since_s}

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


def _ordered(episode: Episode) -> int:
    """How many of the workers the recycler was told to take, the one under way included; all where it takes all."""
    ordered = episode.evidence.get("workers_ordered")
    return ordered if isinstance(ordered, int) else len(episode.lives_before)
