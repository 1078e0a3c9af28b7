"""Whether people are told in time: looks at the outbox on every tick, for the metrics, the log and /healthz."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from alerts.backlog import Backlog, read_backlogs
from baselines.database import Database
from watchdog.metrics import Metrics

LATE_S = 300.0  # the first attempts are over by then; an alert that comes later than this is late for whoever waits

log = structlog.get_logger("outbox")


class BacklogWatch:
    """Looks on the judge thread; `note` may be asked from any.

    notifiers: those configured now.
    """

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        *,
        notifiers: Callable[[], Sequence[str]],
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._notifiers = notifiers
        self._now = now
        self._late: dict[str, str] = {}

    def look(self) -> None:
        """Read how far behind each notifier is."""
        with self._database.read() as connection:
            found = read_backlogs(connection)
        now = self._now()
        late = {}
        for name in {*self._notifiers(), *found}:
            backlog = found.get(name, Backlog())
            waits_s = 0.0 if backlog.oldest_at is None else max(0.0, now - backlog.oldest_at)
            self._metrics.oldest_pending.labels(name).set(waits_s)
            self._metrics.dead_letters.labels(name).set(backlog.dead)
            if waits_s > LATE_S:
                late[name] = _words(name, backlog, waits_s)
        for name in late.keys() - self._late.keys():
            log.error("messages cannot be delivered", notifier=name, pending=found[name].pending)
        for name in self._late.keys() - late.keys():
            log.info("messages are delivered again", notifier=name)
        self._late = late

    def note(self) -> str | None:
        """Who is not told in time and why, in words for /healthz; None when all are."""
        return "; ".join(self._late.values()) or None


def _words(name: str, backlog: Backlog, waits_s: float) -> str:
    why = f": {backlog.last_error}" if backlog.last_error else ""
    return f"notifier {name}: {backlog.pending} wait to be delivered, the oldest for {waits_s / 60:.0f} min{why}"
