"""An incident from the first bad verdict to the last good one; and when people are told.

Theory of operation. A verdict becomes a signal, the signal moves the state (`incident_state.TRANSITIONS`), and the move
has effects:

- WORSE pushes its strikes into a window of the last `fire_window` verdicts; when they sum to `fire_strikes` it fires.
- OK pushes a zero. A pending incident whose window holds no strike any more closes without a word. A firing one
  resolves after `resolve_after` OK verdicts in a row: two thresholds, so that one good answer ends nothing.
- UNKNOWN is no signal. It changes nothing at all: missing evidence is neither good nor bad. Only where it refutes the
  very reason of the incident (a limit is kept, though there is no baseline) it counts as good.
- An OK about another worker says nothing about the worker that failed, unless that worker is gone.

The level never falls while an incident is open: a forecast that sways between watch and page pages once.
An incident that fired again soon after it resolved is the same incident; when it does so often it is flapping, is told
as such, and stays open until it has been good for much longer.

Rules for editors of this file: it imports no clock and does no I/O, and each answer carries its reason, which is the
metric label, the log field and the word in the test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from alerts.incident_state import (
    OPEN,
    Effect,
    Event,
    IllegalSignal,
    RequestRecycle,
    Signal,
    State,
    StepReason,
    Tell,
    advance,
)
from baselines.verdict import Cause, Check, Evidence, Level, Reason, Status, Verdict

__all__ = [  # what callers need in one place
    "OPEN",
    "POLICIES",
    "Effect",
    "Event",
    "IllegalSignal",
    "Incident",
    "IncidentPolicy",
    "RequestRecycle",
    "State",
    "Step",
    "StepReason",
    "Tell",
    "acknowledge",
    "good_needed",
    "is_blamed",
    "is_flapping",
    "remind",
    "retire",
    "step",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentPolicy:
    """When an incident fires and resolves. Durations in seconds.

    fire_strikes of the last fire_window verdicts. Detectors that persist by themselves fire at 1.
    repeat_s: a reminder while it fires and nobody acknowledged it; 4 h is Alertmanager's default too.
    flap_window_s: firing again this soon after it resolved is the same incident; at flap_limit such returns it is
    flapping and needs flap_resolve_factor times as many good verdicts in a row.
    """

    fire_strikes: int
    fire_window: int
    resolve_after: int = 3
    repeat_s: float = 4 * 3600.0
    flap_window_s: float = 15 * 60.0
    flap_limit: int = 3
    flap_resolve_factor: int = 4


POLICIES: Mapping[Check, IncidentPolicy] = {
    Check.AVAILABILITY: IncidentPolicy(fire_strikes=3, fire_window=5),
    Check.OUTPUT: IncidentPolicy(fire_strikes=2, fire_window=2),
    Check.LATENCY: IncidentPolicy(fire_strikes=1, fire_window=1),
    Check.MEMORY: IncidentPolicy(fire_strikes=1, fire_window=1),
    Check.GPU: IncidentPolicy(fire_strikes=1, fire_window=1),
}
"""Design section 2, "Sustain is said once"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One trouble of one (target, check, subject). Times are Unix seconds.

    status: of the last verdict that counted. reason, cause, evidence, life: of the last bad one; once a leak is gone,
    evidence is of the verdict that said so. level: the highest.
    since: when the trouble began, as the detector estimates it; opened_at: the first bad verdict.
    told_at: when people were last told; None while nobody was told of this firing.
    blamed: strikes in a row that blamed the model at a level that acts.
    strikes: of the last verdicts, oldest first. flaps: how often it came back soon after it resolved.
    """

    id: str
    target: str
    check: Check
    subject: str
    state: State
    status: Status
    reason: Reason
    cause: Cause
    level: Level
    since: float
    opened_at: float
    updated_at: float
    fired_at: float | None = None
    told_at: float | None = None
    resolved_at: float | None = None
    strikes: tuple[int, ...] = ()
    blamed: int = 0
    good_in_a_row: int = 0
    flaps: int = 0
    life: str | None = None
    acked_by: str | None = None
    evidence: Evidence = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The incident after a verdict (the same object when nothing changed), what to do about it, and why."""

    incident: Incident | None
    effects: tuple[Effect, ...] = ()
    why: StepReason


def step(
    incident: Incident | None,
    verdict: Verdict,
    *,
    now: float,
    policy: IncidentPolicy,
    new_id: Callable[[], str],
    alive: frozenset[str] | None = None,
    muted: bool = False,
) -> Step:
    """Take one verdict into account.

    incident: the newest one of the verdict's (target, check, subject), resolved or not; None when there is none.
    new_id: called at most once, when a new incident opens.
    alive: lives of the target's workers now; None when not known, and then an OK about any worker counts.
    muted: a silence or `mode = "observe"`: firing is not told now (a reminder makes up for it once that is over).
        That something is over is told all the same to whom it was told that it began.
    """
    if verdict.status is Status.UNKNOWN and not _is_refuted(incident, verdict):
        return Step(incident=incident, why=StepReason.NO_EVIDENCE)
    if verdict.status is Status.WORSE:
        return _take_bad(incident, verdict, now=now, policy=policy, new_id=new_id, muted=muted)
    if incident is None or (incident.state is State.RESOLVED and not any(incident.strikes)):
        return Step(incident=incident, why=StepReason.ALL_GOOD)
    if _is_about_another(incident, verdict, alive):
        return Step(incident=incident, why=StepReason.OTHER_LIFE)
    return _take_good(incident, verdict, now=now, policy=policy)


def remind(incident: Incident, *, now: float, policy: IncidentPolicy, muted: bool = False) -> Step:
    """Tell again what still fires: every repeat_s, or at once when its firing was muted and is no longer."""
    if incident.state is not State.FIRING:
        return Step(incident=incident, why=StepReason.NOT_FIRING)
    if muted:
        return Step(incident=incident, why=StepReason.MUTED)
    if incident.acked_by is not None:
        return Step(incident=incident, why=StepReason.ACKNOWLEDGED)
    if incident.told_at is None:
        return _tell(replace(incident, told_at=now), Event.FIRING, StepReason.UNTOLD)
    if now - incident.told_at < policy.repeat_s:
        return Step(incident=incident, why=StepReason.NOT_DUE)
    return _tell(replace(incident, told_at=now), Event.REMINDER, StepReason.REPEAT_DUE)


def retire(incident: Incident, *, now: float, why: StepReason = StepReason.REMOVED) -> Step:
    """Close an incident that can get no more verdicts: its target or canary is not configured, its worker is gone."""
    if incident.state not in OPEN:
        return Step(incident=incident, why=StepReason.NOT_FIRING)
    state = advance(incident.state, Signal.REMOVED)
    return _close(incident, state, now=now, why=why)


def acknowledge(incident: Incident, *, by: str, now: float) -> Incident:
    """Somebody is on it: no more reminders until it rises in level or comes back. Raises IllegalSignal unless open."""
    if incident.state not in OPEN:
        raise IllegalSignal(f"incident {incident.id} is {incident.state}: nothing to acknowledge")
    return replace(incident, acked_by=by, updated_at=now)


def is_blamed(incident: Incident, policy: IncidentPolicy) -> bool:
    """Whether the model was blamed in as many verdicts in a row as it takes to fire: one odd reading is not enough."""
    return incident.blamed >= policy.fire_strikes


def is_flapping(incident: Incident, policy: IncidentPolicy) -> bool:
    return incident.flaps >= policy.flap_limit


def good_needed(incident: Incident, policy: IncidentPolicy) -> int:
    """How many good verdicts in a row resolve it."""
    return policy.resolve_after * (policy.flap_resolve_factor if is_flapping(incident, policy) else 1)


# --- good -----------------------------------------------------------------------------------------------------------


def _is_refuted(incident: Incident | None, verdict: Verdict) -> bool:
    return incident is not None and verdict.refutes is not None and incident.reason is verdict.refutes


def _is_about_another(incident: Incident, verdict: Verdict, alive: frozenset[str] | None) -> bool:
    if incident.life is None or verdict.life is None or alive is None:
        return False
    return verdict.life != incident.life and incident.life in alive


def _take_good(incident: Incident, verdict: Verdict, *, now: float, policy: IncidentPolicy) -> Step:
    counted = replace(
        incident,
        status=Status.OK,
        updated_at=now,
        blamed=0,
        strikes=_push(incident.strikes, 0, policy),
        good_in_a_row=incident.good_in_a_row + 1,
    )
    if incident.state is State.FIRING:
        enough = counted.good_in_a_row >= good_needed(incident, policy)
        signal = Signal.ENOUGH_GOOD if enough else Signal.GOOD
    else:
        signal = Signal.GOOD if any(counted.strikes) else Signal.QUIET
    state = advance(incident.state, signal)
    if signal is Signal.ENOUGH_GOOD:
        if verdict.reason is Reason.LEAK_GONE:  # how it is now, beside how it was
            counted = replace(counted, evidence=dict(verdict.evidence))
        return _close(counted, state, now=now, why=StepReason.RECOVERED)
    why = StepReason.WENT_QUIET if signal is Signal.QUIET else StepReason.GOOD_COUNTED
    return Step(incident=replace(counted, state=state), why=why)


def _close(incident: Incident, state: State, *, now: float, why: StepReason) -> Step:
    resolved_at = now if state is State.RESOLVED else None
    closed = replace(incident, state=state, resolved_at=resolved_at, updated_at=now, strikes=(), blamed=0)
    if state is State.RESOLVED and incident.told_at is not None:
        return _tell(replace(closed, told_at=now), Event.RESOLVED, why)
    return Step(incident=closed, why=why)


# --- bad ------------------------------------------------------------------------------------------------------------


def _take_bad(
    incident: Incident | None,
    verdict: Verdict,
    *,
    now: float,
    policy: IncidentPolicy,
    new_id: Callable[[], str],
    muted: bool,
) -> Step:
    before = incident.strikes if incident else ()
    if incident is None or _is_long_over(incident, now=now, policy=policy):
        incident = _new(verdict, incident_id=new_id(), now=now)
    # A WORSE verdict stands for one strike at the least, whatever its judge forgot to say.
    strikes = _push(before, max(1, verdict.strikes), policy)
    blamed = incident.blamed + max(1, verdict.strikes) if _acts(verdict) else 0
    struck = replace(incident, status=Status.WORSE, updated_at=now, strikes=strikes, good_in_a_row=0, blamed=blamed)
    signal = Signal.ENOUGH_STRIKES if sum(strikes) >= policy.fire_strikes else Signal.STRIKE
    state = advance(incident.state, signal)
    if incident.state is State.FIRING:
        return _go_on_firing(struck, verdict, now=now, muted=muted, newly_blamed=_newly(incident, struck, policy))
    if state is State.FIRING:
        return _fire(struck, verdict, now=now, policy=policy, muted=muted)
    if state is State.RESOLVED:  # what it was stays on record unless it fires again
        return Step(incident=replace(struck, status=incident.status), why=StepReason.STRIKE_COUNTED)
    return Step(incident=replace(_record(struck, verdict), state=state), why=StepReason.STRIKE_COUNTED)


def _fire(incident: Incident, verdict: Verdict, *, now: float, policy: IncidentPolicy, muted: bool) -> Step:
    why, began = StepReason.FIRED, min(incident.since, _since(verdict))
    if incident.state is State.RESOLVED:
        incident = replace(
            incident, flaps=incident.flaps + 1, level=verdict.level, resolved_at=None, told_at=None, acked_by=None
        )
        why, began = StepReason.REOPENED, _since(verdict)
        if is_flapping(incident, policy):
            why = StepReason.FLAPPING
    fired = replace(_record(incident, verdict), state=State.FIRING, fired_at=now, since=began)
    recycle = (RequestRecycle(life=verdict.life),) if is_blamed(fired, policy) else ()
    if muted:
        return Step(incident=fired, effects=recycle, why=why)
    return _tell(replace(fired, told_at=now), Event.FIRING, why, *recycle)


def _go_on_firing(incident: Incident, verdict: Verdict, *, now: float, muted: bool, newly_blamed: bool) -> Step:
    rose = verdict.level.rank > incident.level.rank
    recycle = (RequestRecycle(life=verdict.life),) if newly_blamed else ()
    recorded = _record(incident, verdict)
    if not rose:
        return Step(incident=recorded, effects=recycle, why=StepReason.STILL_FIRING)
    recorded = replace(recorded, acked_by=None)  # what was acknowledged was less than this
    if verdict.check is Check.LATENCY and verdict.since is not None:
        # The machine's slowdown hid this one, which began later. (Of a failed request `since` is its own time.)
        recorded = replace(recorded, since=verdict.since)
    if muted:
        return Step(incident=recorded, effects=recycle, why=StepReason.ESCALATED)
    return _tell(replace(recorded, told_at=now), Event.FIRING, StepReason.ESCALATED, *recycle)


# --- parts ----------------------------------------------------------------------------------------------------------


def _new(verdict: Verdict, *, incident_id: str, now: float) -> Incident:
    return Incident(
        id=incident_id,
        target=verdict.target,
        check=verdict.check,
        subject=verdict.subject,
        state=State.INACTIVE,
        status=verdict.status,
        reason=verdict.reason,
        cause=verdict.cause,
        level=verdict.level,
        since=_since(verdict),
        opened_at=now,
        updated_at=now,
    )


def _record(incident: Incident, verdict: Verdict) -> Incident:
    return replace(
        incident,
        reason=verdict.reason,
        cause=verdict.cause,
        level=max(incident.level, verdict.level, key=lambda level: level.rank),
        life=verdict.life,
        evidence=dict(verdict.evidence),
    )


def _newly(before: Incident, after: Incident, policy: IncidentPolicy) -> bool:
    return is_blamed(after, policy) and not is_blamed(before, policy)


def _since(verdict: Verdict) -> float:
    return verdict.at if verdict.since is None else verdict.since


def _push(strikes: tuple[int, ...], strike: int, policy: IncidentPolicy) -> tuple[int, ...]:
    return (*strikes, strike)[-policy.fire_window :]


def _is_long_over(incident: Incident, *, now: float, policy: IncidentPolicy) -> bool:
    if incident.state is not State.RESOLVED or incident.resolved_at is None:
        return incident.state is State.INACTIVE
    return now - incident.resolved_at > policy.flap_window_s


def _acts(verdict: Verdict) -> bool:
    """Whether a recycle may answer it: only a fault of the model or its server, and only at page or urgent."""
    return verdict.cause is Cause.MODEL and verdict.level in (Level.PAGE, Level.URGENT)


def _tell(incident: Incident, event: Event, why: StepReason, *also: Effect) -> Step:
    return Step(incident=incident, effects=(Tell(event=event, why=why), *also), why=why)
