"""Who delivers: an outbox for each notifier, so that a change of one disturbs no other.

At most one outbox serves a notifier: the next one of that name begins when the attempt under way in the last one has
come to its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

import structlog
from sqlalchemy.exc import DatabaseError as SqlError

from alerts.notifiers.delivery import Notifier
from alerts.outbox import Outbox

log = structlog.get_logger("outbox")


@dataclass(slots=True, kw_only=True)
class _Courier:
    notifier: Notifier
    outbox: Outbox
    started: bool = False


class Couriers:
    """The outboxes of the notifiers configured now, and those that still finish an attempt."""

    def __init__(self, make: Callable[[Notifier], Outbox]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._serving: dict[str, _Courier] = {}
        self._leaving: list[_Courier] = []

    def follow(self, notifiers: Iterable[Notifier]) -> None:
        """Serve these and no others; the same object goes on undisturbed. Returns at once; `settle` does the rest."""
        wanted = {notifier.name: notifier for notifier in notifiers}
        with self._lock:
            for name, courier in list(self._serving.items()):
                if wanted.get(name) is not courier.notifier:
                    del self._serving[name]
                    self._leave(courier)
            for name, notifier in wanted.items():
                if name not in self._serving:
                    self._serving[name] = _Courier(notifier=notifier, outbox=self._make(notifier))

    def _leave(self, courier: _Courier) -> None:
        if courier.started and courier.outbox.stop(deadline_s=0.0):
            self._leaving.append(courier)

    def settle(self) -> bool:
        """Start whoever need not wait for a predecessor; True while somebody has to, or the database is locked."""
        with self._lock:
            self._leaving = [c for c in self._leaving if c.outbox.stop(deadline_s=0.0)]
            busy = {c.notifier.name for c in self._leaving}
            waiting = [c for name, c in self._serving.items() if not c.started and name not in busy]
            for courier in waiting:
                try:
                    courier.outbox.start()
                except SqlError as error:
                    log.warning("cannot deliver yet", notifier=courier.notifier.name, error=str(error.orig))
                else:
                    courier.started = True
            return bool(self._leaving) or not all(c.started for c in self._serving.values())

    def wake(self) -> None:
        """Something was put into the outbox: look now. Call it after the commit."""
        for courier in list(self._serving.values()):
            courier.outbox.wake()

    def stop(self, *, deadline_s: float) -> list[str]:
        """Let each finish the attempt it is in; returns the threads that did not within deadline_s."""
        end = monotonic() + deadline_s
        with self._lock:
            all_of_them = [c.outbox for c in (*self._serving.values(), *self._leaving) if c.started]
        for outbox in all_of_them:
            outbox.stop(deadline_s=0.0)
        return [name for outbox in all_of_them for name in outbox.stop(deadline_s=max(0.0, end - monotonic()))]
