"""One recycle from suspicion to proof, as a transition table; and the gate that decides whether it may happen at all.

    SUSPECT -> GATE -> DRAIN -> RECYCLE -> WAIT_READY -> WARM_UP -> VERIFY -> COOLDOWN
                 |       ^         |            |           |          |         ^
                 |       |         +------------+-----------+          +-> TRIPPED (it did not help, again)
                 |       |                      v                                |
                 |       |                  ESCALATED                            |
                 |       +---- TRIM ---------------------------------------------+ (memory came back: not recycled)
                 +--------------^
                 v
              BLOCKED

Rules for editors of this file: it imports no clock and does no I/O. The row of an episode is written *before* the state
it names is entered, so a crash leaves the state that may have begun; `resume_from` says how to go on, and from RECYCLE
on the act is never repeated. An event that the table does not hold raises and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from baselines.verdict import Cause, Level


class State(StrEnum):
    SUSPECT = "suspect"
    GATE = "gate"
    TRIM = "trim"
    DRAIN = "drain"
    RECYCLE = "recycle"
    WAIT_READY = "wait_ready"
    WARM_UP = "warm_up"
    VERIFY = "verify"
    COOLDOWN = "cooldown"
    BLOCKED = "blocked"
    ESCALATED = "escalated"
    TRIPPED = "tripped"


class Event(StrEnum):
    REQUESTED = "requested"
    ALLOWED = "allowed"
    TRIM_FIRST = "trim_first"
    REFUSED = "refused"
    CAME_BACK = "came_back"  # the memory, when it was trimmed
    HELD = "held"
    DRAINED = "drained"
    ACTED = "acted"
    READY = "ready"
    WARM = "warm"
    FINISHED = "finished"
    HELPLESS = "helpless"  # did not help, and neither did the one before
    FAILED = "failed"


class Outcome(StrEnum):
    """Why an episode ended. The value is the metric's `result`."""

    VERIFIED = "verified"
    TRIMMED = "trimmed"
    NOT_HELPED = "not_helped"
    ACT_FAILED = "act_failed"
    NOT_READY = "not_ready"
    INTERRUPTED = "interrupted"
    BLOCKED = "blocked"


BEFORE_ACTING = frozenset({State.SUSPECT, State.GATE, State.TRIM})
"""No worker was touched yet, and the target is still in rotation; a trim takes nothing that anybody uses."""

ENDED = frozenset({State.COOLDOWN, State.BLOCKED, State.ESCALATED, State.TRIPPED})
INEFFECTIVE = frozenset({Outcome.NOT_HELPED, Outcome.ACT_FAILED, Outcome.NOT_READY})

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.SUSPECT: {Event.REQUESTED: State.GATE},
    State.GATE: {Event.ALLOWED: State.DRAIN, Event.TRIM_FIRST: State.TRIM, Event.REFUSED: State.BLOCKED},
    State.TRIM: {Event.CAME_BACK: State.COOLDOWN, Event.HELD: State.DRAIN},
    State.DRAIN: {Event.DRAINED: State.RECYCLE},
    State.RECYCLE: {Event.ACTED: State.WAIT_READY, Event.FAILED: State.ESCALATED, Event.HELPLESS: State.TRIPPED},
    State.WAIT_READY: {Event.READY: State.WARM_UP, Event.FAILED: State.ESCALATED, Event.HELPLESS: State.TRIPPED},
    State.WARM_UP: {Event.WARM: State.VERIFY, Event.FAILED: State.ESCALATED, Event.HELPLESS: State.TRIPPED},
    State.VERIFY: {Event.FINISHED: State.COOLDOWN, Event.HELPLESS: State.TRIPPED},
}


class IllegalTransition(Exception):  # noqa: N818  (the name says what happened)
    """The episode is not in a state in which this can happen."""


def advance(state: State, event: Event) -> State:
    """The next state. Raises IllegalTransition when the table has none."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen in state {state}") from None


def resume_from(state: State, *, old_lives_alive: bool | None) -> State | None:
    """Where to go on after a crash of the daemon; None means: do not, a person must look.

    Before RECYCLE nothing was done, so the gate is asked again. From RECYCLE on the act may have happened: if the old
    workers are gone it did; if they live (old_lives_alive) it is unknown whether the order was given, and it is never
    given twice. old_lives_alive is None when the processes are not watched: then the answers decide.
    """
    if state in BEFORE_ACTING or state is State.DRAIN:
        return State.GATE
    if state is State.RECYCLE:
        return None if old_lives_alive else State.WAIT_READY
    return State.WAIT_READY


class Trigger(StrEnum):
    """AGE: by schedule, whatever the evidence says; the worker's age or the requests it has served."""

    INCIDENT = "incident"
    AGE = "age"
    HAND = "hand"


STALE_REQUEST_S = 300.0  # what a person asked for so long ago is not begun: they may be long gone


class GateReason(StrEnum):
    """The gate's answer. Everything but ALLOWED ends the episode as BLOCKED."""

    ALLOWED = "allowed"
    NO_RECYCLER = "no_recycler"
    INCIDENT_OVER = "incident_over"
    CAUSE_NOT_MODEL = "cause_not_model"
    HARDWARE = "hardware"
    LEVEL_TOO_LOW = "level_too_low"
    EVIDENCE_MISSING = "evidence_missing"
    WORKER_GONE = "worker_gone"
    BREAKER_OPEN = "breaker_open"
    IN_FLIGHT = "in_flight"
    GROUP_BUSY = "group_busy"
    SILENCED = "silenced"
    RECOVERING = "recovering"
    EVIDENCE_STALE = "evidence_stale"
    REQUEST_STALE = "request_stale"
    JUST_RECYCLED = "just_recycled"
    TOO_YOUNG = "too_young"
    COOLING_DOWN = "cooling_down"
    BUDGET_SPENT = "budget_spent"
    MODE = "mode"


PASSING = frozenset(
    {
        GateReason.MODE,
        GateReason.NO_RECYCLER,
        GateReason.WORKER_GONE,
        GateReason.BREAKER_OPEN,
        GateReason.RECOVERING,
        GateReason.EVIDENCE_STALE,
        GateReason.IN_FLIGHT,
        GateReason.GROUP_BUSY,
        GateReason.SILENCED,
        GateReason.TOO_YOUNG,
        GateReason.COOLING_DOWN,
        GateReason.BUDGET_SPENT,
        GateReason.EVIDENCE_MISSING,
        GateReason.CAUSE_NOT_MODEL,
        GateReason.HARDWARE,
        GateReason.LEVEL_TOO_LOW,
    }
)
"""Refusals that time, new evidence or another configuration may lift: the gate is asked again while it fires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecyclePolicy:
    """When a recycle is allowed. Durations in seconds.

    min_uptime_s: a worker younger than this is not recycled on evidence (also holds over a restart of the daemon).
    cooldown_s: after an episode ended, doubled for each ineffective one in a row.
    budget, budget_window_s: at most so many acts in the window (design section 4: three in six hours). Recycles by age
        neither spend it nor are held by it: they are as many as the configuration says.
    breaker_limit: so many ineffective recycles in a row open the breaker, which only a person closes.
    group_share: at most this share of a group's targets at the same time, but always one.
    max_age_s: scheduled recycling by age; None for never. max_age_jitter: spread of it, as a share. max_requests,
        max_requests_jitter: the same by requests served, as the agent counts them.
    """

    min_uptime_s: float = 1800.0
    cooldown_s: float = 1800.0
    budget: int = 3
    budget_window_s: float = 6 * 3600.0
    breaker_limit: int = 2
    group_share: float = 0.25
    max_age_s: float | None = None
    max_age_jitter: float = 0.1
    max_requests: int | None = None
    max_requests_jitter: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFacts:
    """What the gate needs to know, gathered by the caller at one moment.

    firing, cause, level: of the incident; None for the other triggers. blamed: cause `model` in as many verdicts in a
        row as it takes to fire. recovering: its newest verdict was good. stale: its newest is too old to act on.
    asked_s: age of the request. recycled_since_asked: another episode acted meanwhile, or ended.
    workers: processes alive, None when they are not watched; youngest_uptime_s: of those that would be recycled.
    missing: a signal that should be there and is not (for example the GPU of a `device = "cuda"` target).
    hardware: what is wrong with its device that a recycle cannot help (`gpu_signals.standing_in_the_way`).
    acts: times at which this target was acted on (not by age), any order. ineffective: in a row, since the last reset.
    last_ended_at: of the last episode that acted. busy_in_group: other targets of the group in an episode now.
    """

    trigger: Trigger
    mode: str
    has_recycler: bool
    firing: bool = True
    cause: Cause | None = None
    level: Level | None = None
    blamed: bool = True
    recovering: bool = False
    stale: bool = False
    asked_s: float = 0.0
    recycled_since_asked: bool = False
    missing: str | None = None
    hardware: str | None = None
    workers: int | None = None
    youngest_uptime_s: float | None = None
    in_flight: bool = False
    busy_in_group: int = 0
    group_size: int = 1
    silenced: bool = False
    acts: tuple[float, ...] = ()
    ineffective: int = 0
    last_ended_at: float | None = None


def may_recycle(facts: GateFacts, policy: RecyclePolicy, *, now: float) -> GateReason:
    """The gate. `mode` is asked last, so that MODE means "would have recycled".

    A person (`watchdog recycle`) is not held by evidence, age, cooldown, budget, silences and mode, but is by a
    recycle under way or done since they asked, by the group's share and by the breaker, which they can reset. What is
    not watched (workers is None) is not acted on by itself: neither its age nor its idleness can be known.
    """
    refusals = [
        (not facts.has_recycler, GateReason.NO_RECYCLER),
        (facts.ineffective >= policy.breaker_limit, GateReason.BREAKER_OPEN),
        (facts.in_flight, GateReason.IN_FLIGHT),
        (facts.busy_in_group >= max(1, int(policy.group_share * facts.group_size)), GateReason.GROUP_BUSY),
    ]
    if facts.trigger is Trigger.INCIDENT:
        refusals += [
            (not facts.firing, GateReason.INCIDENT_OVER),
            (facts.recovering, GateReason.RECOVERING),
            (facts.stale, GateReason.EVIDENCE_STALE),
            (facts.cause is not Cause.MODEL or not facts.blamed, GateReason.CAUSE_NOT_MODEL),
            (facts.level not in (Level.PAGE, Level.URGENT), GateReason.LEVEL_TOO_LOW),
            (facts.missing is not None or facts.workers is None, GateReason.EVIDENCE_MISSING),
        ]
    if facts.trigger is Trigger.HAND:
        refusals += [
            (facts.asked_s > STALE_REQUEST_S, GateReason.REQUEST_STALE),
            (facts.recycled_since_asked, GateReason.JUST_RECYCLED),
        ]
    if facts.trigger is not Trigger.HAND:
        cooldown_s = policy.cooldown_s * 2**facts.ineffective
        youngest = facts.youngest_uptime_s
        refusals += [
            (facts.hardware is not None, GateReason.HARDWARE),
            (facts.workers == 0, GateReason.WORKER_GONE),
            (facts.silenced, GateReason.SILENCED),
            (youngest is not None and youngest < policy.min_uptime_s, GateReason.TOO_YOUNG),
            (facts.last_ended_at is not None and now - facts.last_ended_at < cooldown_s, GateReason.COOLING_DOWN),
            (facts.trigger is not Trigger.AGE and _spent(facts, policy, now), GateReason.BUDGET_SPENT),
            (facts.mode != "act", GateReason.MODE),
        ]
    return next((reason for refused, reason in refusals if refused), GateReason.ALLOWED)


def _spent(facts: GateFacts, policy: RecyclePolicy, now: float) -> bool:
    return sum(now - at < policy.budget_window_s for at in facts.acts) >= policy.budget


def is_too_old(life: str, uptime_s: float, policy: RecyclePolicy) -> bool:
    """Whether a worker has reached max_age_s, spread by +-max_age_jitter so that replicas do not go together.

    The spread is by a hash of the life: the same after every restart of the daemon, different for every worker.
    """
    if policy.max_age_s is None:
        return False
    return uptime_s >= policy.max_age_s * _spread(life, policy.max_age_jitter)


def is_worn_out(life: str, requests: int, policy: RecyclePolicy) -> bool:
    """Whether a worker has served max_requests, spread likewise."""
    if policy.max_requests is None:
        return False
    return requests >= policy.max_requests * _spread(life, policy.max_requests_jitter)


def _spread(life: str, jitter: float) -> float:
    unit = int.from_bytes(sha256(life.encode()).digest()[:4], "big") / 2**32  # uniform in [0, 1)
    return 1 + jitter * (2 * unit - 1)
