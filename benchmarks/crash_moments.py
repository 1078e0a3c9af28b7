"""When to kill, and whether it was the moment: signs that show outside, in the receiver, the acts and the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.crash_plan import Phase
from benchmarks.crash_stage import Stage

RETRYING = "select 1 from deliveries where state = 'pending' and attempts > 0 and lease_until is null"
UNDER_WAY = "select key from deliveries where state = 'pending' and lease_until is not null"
PENDING = "select key from deliveries where state = 'pending'"
EPISODE = "select state from recycles order by requested_at desc limit 1"
EPISODE_STATES = {  # one that is not named here is called as its phase is
    Phase.ASKED: ("suspect", "gate", "drain"),
    Phase.BEFORE_ACT: ("recycle",),
    Phase.ACT: ("recycle",),
    Phase.ENDED: ("cooldown", "escalated", "tripped"),
}


class Moment:
    """One moment that is waited for. Made right before: what was there already is not it."""

    def __init__(self, stage: Stage, phase: Phase) -> None:
        self._stage, self._phase = stage, phase
        self._accepted = len(stage.receiver.accepted())
        self._acts = len(stage.acts())

    def has_come(self) -> bool:
        """The sign to kill at."""
        stage = self._stage
        signs: Mapping[Phase, Callable[[], object]] = {
            Phase.RANDOM: lambda: True,
            Phase.COMMIT: lambda: stage.rows("select 1 from deliveries where event = 'firing'"),
            Phase.DELIVER: stage.receiver.in_flight,
            Phase.ANSWERED: lambda: len(stage.receiver.accepted()) > self._accepted,
            Phase.RETRY: lambda: stage.rows(RETRYING),
            Phase.RESOLVE: lambda: stage.rows("select 1 from deliveries where event = 'resolved'"),
            Phase.ACT: self._has_acted,
        }
        return bool(signs.get(self._phase, self._is_in_state)())

    def was_hit(self) -> bool:
        """Whether what the dead left behind looks like the moment; asked right after the kill."""
        looks: Mapping[Phase, Callable[[], object]] = {
            Phase.COMMIT: lambda: self._is_untold("firing"),
            Phase.RESOLVE: lambda: self._is_untold("resolved"),
            Phase.ENDED: lambda: self._is_untold("recycle"),
            Phase.ANSWERED: lambda: self._pending() & {a.key for a in self._stage.receiver.accepted()},
            Phase.BEFORE_ACT: lambda: self._is_in_state() and not self._has_acted(),
            Phase.ACT: lambda: self._is_in_state() and self._has_acted(),
        }
        return bool(looks.get(self._phase, self.has_come)())

    def _is_in_state(self) -> bool:
        states = EPISODE_STATES.get(self._phase, (self._phase.value,))
        return any(state in states for (state,) in self._stage.rows(EPISODE))

    def _has_acted(self) -> bool:
        return len(self._stage.acts()) > self._acts

    def _pending(self) -> set[str]:
        return {key for (key,) in self._stage.rows(PENDING)}

    def _is_untold(self, event: str) -> bool:
        events = {attempt.payload["event"] for attempt in list(self._stage.receiver.attempts)}
        return bool(self._pending()) and event not in events
