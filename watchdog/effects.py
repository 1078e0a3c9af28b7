"""What follows from a verdict besides the incident: deliveries and recycle requests in the same transaction, then
metrics and wake-up calls after the commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import structlog
from sqlalchemy import Connection

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.episode import GateReason, Outcome, Trigger, may_recycle
from alerts.gate import due_by_schedule, gather_facts
from alerts.incident import POLICIES, Event, Incident, RequestRecycle, Step, StepReason, Tell, remind, retire
from alerts.message import Message, incident_message, recycle_message
from alerts.notifiers.delivery import Route, recipients
from alerts.recycle_requests import ask_again, ask_for_age, request
from alerts.recycle_store import Episode
from baselines import verdict_store
from baselines.device import DRIVER
from baselines.verdict import Check, Level, Reason, Status, Verdict
from probes.messages import Life
from watchdog.metrics import Metrics
from watchdog.standing import Standing
from watchdog.target import Target

log = structlog.get_logger("watchdog")


GONE_S = 120.0


class Effects:
    """Applies what `incident.step` decided.

    changed: called after a commit that may have put something into the outbox or asked for a recycle.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        routes: Sequence[Route],
        metrics: Metrics,
        *,
        now: Callable[[], float],
        new_id: Callable[[], str],
        changed: Callable[[], None],
    ) -> None:
        self._targets = targets
        self._routes = routes
        self._metrics = metrics
        self._now = now
        self._new_id = new_id
        self._changed = changed
        self._enqueued = False
        self._aged: set[Life] = set()
        self._standing = Standing()

    def restore(self, connection: Connection) -> None:
        """Take up where the last run ended: standing verdicts, open incidents and breakers show at once.

        Again after a change of configuration: what stood goes on, but for what is not watched any more. What comes from
        the database counts as said now: it may be old only because nothing changed since.
        """
        stored = [replace(verdict, at=self._now()) for verdict in verdict_store.latest_verdicts(connection)]
        stood = [*stored, *self._standing]  # the later word stands
        self._standing = Standing()
        for verdict in stood:
            if verdict.target in self._targets and self._targets[verdict.target].watches(verdict.subject):
                self._standing.put(verdict)
        for target, check in {(v.target, v.check) for v in self._standing}:
            self._metrics.observe_status(target, check, self._standing.status(target, check))
        self._metrics.observe_incidents(alert_store.count_firing(connection))
        self._show_breakers(connection)

    def _show_breakers(self, connection: Connection) -> None:
        recycled = recycle_store.recycled_targets(connection)
        for name, target in self._targets.items():
            ineffective = recycle_store.ineffective_in_a_row(connection, name) if name in recycled else 0
            self._metrics.breaker.labels(name).set(ineffective >= target.policy.breaker_limit)

    def muted(self, connection: Connection, verdict: Verdict | Incident) -> bool:
        """Whether nobody is to be told now: `mode = "observe"`, or a silence."""
        observing = verdict.target in self._targets and self._targets[verdict.target].mode == "observe"
        return observing or alert_store.is_silenced(connection, verdict.target, verdict.check, now=self._now())

    def record_verdict(self, connection: Connection, verdict: Verdict) -> None:
        """Store a verdict when it says something else than the one that stands; it stands once it is committed."""
        before = self._standing.before(verdict)
        if self._is_a_blink(before, verdict):
            return
        if before is None or _words(before) != _words(verdict):
            verdict_store.save_verdict(connection, verdict)
            log.info("verdict", target=verdict.target, check=verdict.check, subject=verdict.subject, **_words(verdict))
        elif verdict.status is Status.WORSE:
            verdict_store.refresh_verdict(connection, verdict)

    def _is_a_blink(self, before: Verdict | None, verdict: Verdict) -> bool:
        """A burst that our own delay tainted, soon after one that could be judged: what that one said still stands."""
        if before is None or verdict.reason is not Reason.TAINTED or before.reason is Reason.TAINTED:
            return False
        return verdict.at - before.at <= self._targets[verdict.target].evidence_age_s

    def apply(self, connection: Connection, before: Incident | None, step: Step) -> None:
        """Save the incident and enqueue what the step asks for."""
        incident = step.incident
        if incident is None or (incident is before and not step.effects):
            return
        alert_store.save_incident(connection, incident)
        for effect in step.effects:
            match effect:
                case Tell(event=event, why=why):
                    self._tell_incident(connection, incident, event, why)
                case RequestRecycle():
                    asked = request(
                        incident.target,
                        Trigger.INCIDENT,
                        incident.reason,
                        incident.id,
                        now=self._now(),
                        new_id=self._new_id,
                    )
                    recycle_store.save_episode(connection, asked)
                    self._enqueued = True

    def committed(self, verdicts: Sequence[Verdict], firing: Mapping[tuple[str, Check, Level], int]) -> None:
        """After the commit: the verdicts stand, metrics follow, threads wake."""
        for v in verdicts:
            if not self._is_a_blink(self._standing.before(v), v):
                self._standing.put(v)
        for verdict in verdicts:
            self._metrics.observe_verdict(verdict)
            self._metrics.observe_status(
                verdict.target, verdict.check, self._standing.status(verdict.target, verdict.check)
            )
        self._metrics.observe_incidents(firing)
        if self._enqueued:
            self._enqueued = False
            self._changed()

    def remind_all(self, connection: Connection) -> None:
        """Reminders that are due, requests that the gate may now grant, and workers that are due by schedule."""
        now = self._now()
        for incident in alert_store.list_incidents(connection, only_open=True, limit=1000):
            if (gone := self._gone(incident, now)) is not None:
                self.apply(connection, incident, retire(incident, now=now, why=gone))
                self._forget(connection, incident.target, incident.check, incident.subject)
                continue
            muted = self.muted(connection, incident)
            self.apply(connection, incident, remind(incident, now=now, policy=POLICIES[incident.check], muted=muted))
        self._forget_unseen(connection, now)
        asked = ask_again(connection, self._targets, now=now, new_id=self._new_id)
        asked += ask_for_age(connection, self._targets, now=now, new_id=self._new_id)
        self._enqueued = self._enqueued or bool(asked)
        self._count_due(connection)
        self._show_breakers(connection)

    def _count_due(self, connection: Connection) -> None:
        """In mode "alert": each worker once that would have been recycled by schedule."""
        for name, target in self._targets.items():
            if target.mode == "act":
                continue
            for life, reason in due_by_schedule(connection, target).items():
                if life not in self._aged:
                    self._aged.add(life)
                    self._metrics.would_recycle.labels(name, reason).inc()

    def _gone(self, incident: Incident, now: float) -> StepReason | None:
        """Why no verdict about it can come: the worker ended and nobody has taken its slot for a while, or the target
        runs on other devices now."""
        target = self._targets.get(incident.target)
        if target is None or now - incident.updated_at < GONE_S + target.policies.leak.judge_every_s:
            return None  # judged just now, or being restarted
        if incident.check is Check.MEMORY and target.workers is not None:
            gone = incident.subject not in {f"slot {slot}" for slot in target.workers.known()}
            return StepReason.WORKER_GONE if gone else None
        if incident.check is Check.GPU and incident.subject != DRIVER and target.devices:
            return StepReason.DEVICE_LEFT if incident.subject not in target.device_subjects() else None
        return None

    def _forget_unseen(self, connection: Connection, now: float) -> None:
        """What is no longer sampled is not OK: workers that cannot be found, slots that are gone, devices left."""
        for verdict in self._standing:
            target = self._targets.get(verdict.target)
            if verdict.check not in (Check.MEMORY, Check.GPU) or verdict.reason is Reason.NO_DATA or target is None:
                continue
            if now - verdict.at > GONE_S + 2 * max(target.policies.leak.judge_every_s, target.memory_interval_s):
                self._forget(connection, verdict.target, verdict.check, verdict.subject)

    def _forget(self, connection: Connection, target: str, check: Check, subject: str) -> None:
        """What was said of it stands no longer."""
        verdict = Verdict(
            target=target, check=check, subject=subject, at=self._now(), status=Status.UNKNOWN, reason=Reason.NO_DATA
        )
        verdict_store.save_verdict(connection, verdict)
        self._standing.put(verdict)
        self._metrics.observe_status(target, check, self._standing.status(target, check))

    def tell_recycle(self, connection: Connection, episode: Episode) -> None:
        """Say how a recycle ended; inside the transaction that ends it."""
        incident = alert_store.find_incident(connection, episode.incident_id) if episode.incident_id else None
        self._enqueue(connection, recycle_message(asdict(episode), incident=incident, now=self._now()), muted=False)
        if episode.outcome is Outcome.VERIFIED and incident is not None and incident.check is Check.MEMORY:
            # A new life says nothing for hours. Its proof ends the incident; should it leak too, that is a new one.
            self.apply(connection, incident, retire(incident, now=self._now(), why=StepReason.RECYCLED))

    def recycle_ended(self, episode: Episode) -> None:
        """After the episode: count it."""
        target = self._targets.get(episode.target)
        if episode.outcome is Outcome.BLOCKED and episode.detail in (GateReason.MODE, GateReason.NO_RECYCLER):
            self._metrics.would_recycle.labels(episode.target, episode.reason).inc()
        elif episode.outcome is not None:
            reason = "by_hand" if episode.trigger is Trigger.HAND else episode.reason
            self._metrics.recycles.labels(episode.target, reason, episode.outcome).inc()
        if target is not None:
            with target.database.read() as connection:
                self._show_breakers(connection)
        self._changed()

    def _tell_incident(self, connection: Connection, incident: Incident, event: Event, why: StepReason) -> None:
        target = self._targets.get(incident.target)
        episode = recycle_store.last_of_incident(connection, incident.id, acted=event is Event.RESOLVED)
        message = incident_message(
            incident,
            event,
            why=why,
            now=self._now(),
            mode=target.mode if target else "observe",
            has_recycler=target is not None and target.recycler is not None,
            gate=self._ask_gate(connection, incident, target) if target is not None else None,
            episode=asdict(episode) if episode else None,
        )
        log.warning(
            "incident",
            told=event,
            target=incident.target,
            check=incident.check,
            level=incident.level,
            text=message.title,
        )
        self._enqueue(connection, message, muted=self.muted(connection, incident))

    def _ask_gate(self, connection: Connection, incident: Incident, target: Target) -> GateReason:
        """What the gate would say now, so that nobody is told of a recycle that will not come."""
        now = self._now()
        asked = request(incident.target, Trigger.INCIDENT, incident.reason, incident.id, now=now, new_id=self._new_id)
        return may_recycle(gather_facts(connection, asked, target, now=now), target.policy, now=now)

    def _enqueue(self, connection: Connection, message: Message, *, muted: bool) -> None:
        told = (
            delivery_store.told_notifiers(connection, message.incident_id) if message.incident_id else frozenset[str]()
        )
        routes = recipients(message, self._routes, told=told, muted=muted)
        added = delivery_store.enqueue_deliveries(connection, message, routes, now=self._now())
        self._enqueued = self._enqueued or added > 0


def _words(verdict: Verdict) -> dict[str, str]:
    """What makes a verdict another one: not its figures, which change with every burst."""
    return {
        "status": verdict.status,
        "reason": verdict.reason,
        "cause": verdict.cause,
        "level": verdict.level,
    }
