"""What a notifier is, how its sending fails, and who is told what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from alerts.incident import Event
from alerts.message import Message
from baselines.verdict import Level


class DeliveryError(Exception):
    """The receiver did not take it.

    permanent: trying again cannot help; a person must change something, and `reason` says what.
    retry_after_s: the receiver asked to be left alone that long; None when it did not say.
    reason: one line for a person. It never holds the URL or a secret.
    """

    def __init__(self, reason: str, *, permanent: bool, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class Notifier(Protocol):
    """One receiver. timeout_s bounds a whole attempt, but for the name lookup."""

    name: str
    timeout_s: float

    def render(self, message: Message) -> dict[str, Any]:
        """The message in this receiver's form, as JSON can carry it. Stored, and sent unchanged on every attempt."""

    def send(self, payload: Mapping[str, Any], *, key: str) -> None:
        """Hand it over. key is the same on every attempt. Raises DeliveryError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a notifier wants to hear: from min_level on, about these targets (empty: all)."""

    notifier: Notifier
    min_level: Level = Level.WATCH
    targets: frozenset[str] = frozenset()


def recipients(
    message: Message, routes: Sequence[Route], *, told: frozenset[str] = frozenset(), muted: bool = False
) -> list[Route]:
    """Who is told.

    told: names of the notifiers that were told that this incident fires.
    1. That it is over hears exactly who heard that it began, whatever the level, the silence or the configuration
       says by now. 2. Nobody else hears a muted target. 3. The rest is the notifier's choice of level and targets.
    """
    if message.event is Event.RESOLVED:
        return [route for route in routes if route.notifier.name in told]
    if muted:
        return []
    return [
        route
        for route in routes
        if message.level.rank >= route.min_level.rank and (not route.targets or message.target in route.targets)
    ]
