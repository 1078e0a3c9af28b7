"""What came of one state of an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alerts.episode import Event, Outcome
from probes.messages import Life


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """The event for the transition table, and what to write down."""

    event: Event
    detail: str
    outcome: Outcome | None = None
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)
    lives_before: tuple[Life, ...] | None = None
