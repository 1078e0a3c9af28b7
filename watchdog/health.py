"""What the daemon says of itself on /healthz: what is wrong with it, and what a person should know or see to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from baselines.condition import last_set_aside
from baselines.database import Database
from watchdog.metrics import Metrics
from watchdog.web.app import Liveness

Words = Callable[[], str | None]
"""What there is to say now; None when there is nothing."""

log = structlog.get_logger("daemon")


class Health:
    """Counts the watchdog's own errors, and asks everybody what is wrong. Any thread may call it."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._dropped = 0
        self._problems: list[Words] = []
        self._notes: list[Words] = [self._say_dropped, self.look_aside]

    def ask(self, *, problems: Sequence[Words], notes: Sequence[Words]) -> None:
        """Ask these from now on.

        problems: a restart may cure what they say, or nobody is watching: 503. notes: neither.
        """
        self._problems += problems
        self._notes += notes

    def count_error(self, where: str) -> None:
        """An error of the watchdog's own, by its place (`metrics.ERROR_PLACES`)."""
        self._metrics.errors.labels(where).inc()
        if where == "results_dropped":
            self._dropped += 1
            if self._dropped == 1:
                log.error("results are dropped: they are measured faster than they can be stored")

    def look_aside(self) -> str | None:
        """Whether a corrupt database lies aside, for the metric too: it is moved away by whoever has seen to it."""
        kept = last_set_aside(self._database.path)
        self._metrics.set_aside(None if kept is None else kept.at)
        return None if kept is None else kept.note

    def liveness(self) -> Liveness:
        """Everybody's answer at this moment."""
        return Liveness(problems=_ask(self._problems), notes=_ask(self._notes))

    def _say_dropped(self) -> str | None:
        if not self._dropped:
            return None
        return f"{self._dropped} results were dropped since the start: the database took nothing for too long"


def _ask(questions: Sequence[Words]) -> tuple[str, ...]:
    return tuple(said for question in questions if (said := question()))
