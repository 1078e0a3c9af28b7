"""How punctual the probes are, in words: what a late or skipped probe means for whoever trusts them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog

LATE_S = 1.0  # a probe a minute that starts a second late still says the same
WINDOW_S = 60.0
KEPT = 10_000  # late ones; more need not be told apart

log = structlog.get_logger("schedule")


class Punctuality:
    """Keeps the late and skipped runs of the last WINDOW_S. May be told from several threads."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._late: deque[tuple[float, float | None]] = deque(maxlen=KEPT)  # (when, by how much; None: skipped)

    def started(self, late_s: float) -> None:
        """A probe started so late."""
        if late_s > LATE_S:
            self._add(late_s)

    def skipped(self) -> None:
        """A probe could not start within its interval and was left out."""
        self._add(None)

    def note(self) -> str | None:
        """What went wrong within the window; None when all was in time."""
        recent = self._recent()
        if not recent:
            return None
        late = [late_s for late_s in recent if late_s is not None]
        said = [f"{len(late)} started late, the latest by {max(late):.1f} s"] if late else []
        said += [f"{len(recent) - len(late)} were skipped"] if len(late) < len(recent) else []
        return f"of the probes of the last minute {' and '.join(said)}: too much hangs, or the machine is too busy"

    def _add(self, late_s: float | None) -> None:
        begins = not self._recent()
        self._late.append((self._monotonic(), late_s))
        if begins:
            log.warning("probes are late or skipped", late_s=None if late_s is None else round(late_s, 2))

    def _recent(self) -> list[float | None]:
        since = self._monotonic() - WINDOW_S
        return [late_s for at, late_s in self._late.copy() if at > since]
