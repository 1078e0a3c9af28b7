"""The states of an incident, the table that moves it, and the words for what a step did and why.

    INACTIVE -> PENDING -> FIRING -> RESOLVED
       ^           |         ^          |
       +-----------+         +----------+   (soon after it resolved: the same incident again)

Rules for editors of this file: it imports nothing but the standard library's values. A signal that the table does not
hold raises and changes nothing. INACTIVE is never stored: an incident that never fired leaves no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Signal(StrEnum):
    STRIKE = "strike"  # bad, not often enough yet
    ENOUGH_STRIKES = "enough_strikes"
    GOOD = "good"  # good, not often enough yet
    QUIET = "quiet"  # good, and no strike is left in the window
    ENOUGH_GOOD = "enough_good"
    REMOVED = "removed"  # what it is about is no longer watched


TRANSITIONS: Mapping[State, Mapping[Signal, State]] = {
    State.INACTIVE: {Signal.STRIKE: State.PENDING, Signal.ENOUGH_STRIKES: State.FIRING},
    State.PENDING: {
        Signal.STRIKE: State.PENDING,
        Signal.ENOUGH_STRIKES: State.FIRING,
        Signal.GOOD: State.PENDING,
        Signal.QUIET: State.INACTIVE,
        Signal.REMOVED: State.INACTIVE,
    },
    State.FIRING: {
        Signal.STRIKE: State.FIRING,
        Signal.ENOUGH_STRIKES: State.FIRING,
        Signal.GOOD: State.FIRING,
        Signal.ENOUGH_GOOD: State.RESOLVED,
        Signal.REMOVED: State.RESOLVED,
    },
    State.RESOLVED: {
        Signal.STRIKE: State.RESOLVED,
        Signal.ENOUGH_STRIKES: State.FIRING,
        Signal.GOOD: State.RESOLVED,
        Signal.QUIET: State.RESOLVED,
    },
}

OPEN = frozenset({State.PENDING, State.FIRING})


class IllegalSignal(Exception):  # noqa: N818  (the name says what happened)
    """The incident is not in a state in which this can happen."""


def advance(state: State, signal: Signal) -> State:
    """The next state. Raises IllegalSignal when the table has none."""
    try:
        return TRANSITIONS[state][signal]
    except KeyError:
        raise IllegalSignal(f"{signal} cannot happen in state {state}") from None


class Event(StrEnum):
    """What people are told. The value is the `event` of the webhook."""

    FIRING = "firing"
    REMINDER = "reminder"
    RESOLVED = "resolved"
    RECYCLE = "recycle"
    TEST = "test"


class StepReason(StrEnum):
    """Why a step did what it did."""

    NO_EVIDENCE = "no_evidence"
    ALL_GOOD = "all_good"
    OTHER_LIFE = "other_life"
    STRIKE_COUNTED = "strike_counted"
    GOOD_COUNTED = "good_counted"
    WENT_QUIET = "went_quiet"
    FIRED = "fired"
    REOPENED = "reopened"
    FLAPPING = "flapping"
    ESCALATED = "escalated"
    STILL_FIRING = "still_firing"
    RECOVERED = "recovered"
    REMOVED = "removed"
    WORKER_GONE = "worker_gone"
    DEVICE_LEFT = "device_left"
    RECYCLED = "recycled"
    # of reminders
    REPEAT_DUE = "repeat_due"
    UNTOLD = "untold"  # it fired while muted and fires still
    NOT_DUE = "not_due"
    NOT_FIRING = "not_firing"
    ACKNOWLEDGED = "acknowledged"
    MUTED = "muted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Effect: tell people. `why` tells a first firing from an escalation, a reopening, a removal."""

    event: Event
    why: StepReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecycle:
    """Effect: ask the gate for a recycle of this worker (None: not known which)."""

    life: str | None


Effect = Tell | RequestRecycle
