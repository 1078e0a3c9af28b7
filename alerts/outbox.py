"""Delivers what the outbox holds, one thread per notifier: a receiver that hangs delays nobody else's messages.

A crash between sending and noting it down sends once more, with the same idempotency key, at the next start.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from enum import StrEnum
from time import monotonic
from traceback import format_exc

import structlog

from alerts import delivery_store
from alerts.delivery_store import MAX_AHEAD_S, Delivery
from alerts.notifiers.delivery import DeliveryError, Notifier
from baselines.database import Database

BASE_DELAY_S = 2.0
MAX_DELAY_S = 600.0
MAX_RETRY_AFTER_S = 3600.0  # a receiver that asks for a day must not silence us for one
GIVE_UP_S = 24 * 3600.0
GIVE_UP_ATTEMPTS = 20  # besides: a clock that was set forward by a day makes no message a day old
POLL_S = 5.0  # what another process (the command line) put into the outbox is seen this soon

_log = structlog.get_logger(__name__)


class DeliveryResult(StrEnum):
    """How an attempt ended. The value is the label `result` of `deliveries_total`."""

    SENT = "sent"
    RETRY = "retry"
    DEAD = "dead"
    ERROR = "error"  # a fault of the watchdog's own


def next_attempt(attempts: int, retry_after_s: float | None, rng: random.Random) -> float:
    """Seconds to wait after the `attempts`-th failed attempt (1 is the first).

    Exponential backoff with full jitter, uniform in [0, min(cap, base * 2**(attempts - 1))] (Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015); never sooner than the receiver asked for.
    """
    ceiling_s = min(MAX_DELAY_S, BASE_DELAY_S * 2.0 ** min(attempts - 1, 30))
    return max(rng.uniform(0.0, ceiling_s), min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))


def lease_of(notifier: Notifier) -> float:
    """How long an attempt may take: a wait each for a pooled connection, to connect, to write, and two to read."""
    return 5 * notifier.timeout_s + 15.0


class Courier:
    """Delivers for one notifier, one after the other."""

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        *,
        now: Callable[[], float],
        rng: random.Random,
        on_result: Callable[[str, DeliveryResult], None],
    ) -> None:
        self.notifier = notifier
        self._database = database
        self._now = now
        self._rng = rng
        self._on_result = on_result
        self._quiet_until = 0.0  # the receiver asked for patience: it means us, not the one message it turned down

    def deliver_due(self, *, stopping: Callable[[], bool] = lambda: False) -> float | None:
        """Try all that is due now; returns the seconds until the next one is, None when nothing is pending."""
        while not stopping():
            with self._database.read() as connection:
                due_at = delivery_store.next_due_at(connection, self.notifier.name)
            if due_at is None:
                return None
            delay_s = max(due_at, self._quiet_until) - self._now()
            if 0 < delay_s <= MAX_AHEAD_S:
                return delay_s
            delivery = self._claim()
            if delivery is None:  # somebody else was faster
                return POLL_S
            self._attempt(delivery)
        return None

    def _claim(self) -> Delivery | None:
        with self._database.write(durable=True) as connection:
            return delivery_store.claim_due(
                connection, self.notifier.name, now=self._now(), lease_s=lease_of(self.notifier)
            )

    def _attempt(self, delivery: Delivery) -> None:
        old = self._now() - delivery.created_at > GIVE_UP_S
        if delivery.attempts > GIVE_UP_ATTEMPTS and old:  # its attempts never came to an end
            self._note_failure(delivery, DeliveryError(delivery.last_error or "given up", permanent=True))
            return
        try:
            self.notifier.send(delivery.payload, key=delivery.key)
        except DeliveryError as error:
            self._note_failure(delivery, error)
            return
        with self._database.write(durable=True) as connection:
            delivery_store.mark_sent(connection, delivery, now=self._now())
        self._on_result(self.notifier.name, DeliveryResult.SENT)
        _log.info("delivery sent", notifier=self.notifier.name, key=delivery.key, attempts=delivery.attempts)

    def _note_failure(self, delivery: Delivery, error: DeliveryError) -> None:
        now = self._now()
        if error.retry_after_s is not None:
            self._quiet_until = now + min(error.retry_after_s, MAX_RETRY_AFTER_S)
        next_at = now + next_attempt(delivery.attempts, error.retry_after_s, self._rng)
        too_old = delivery.attempts >= GIVE_UP_ATTEMPTS and next_at - delivery.created_at > GIVE_UP_S
        retry_at = None if error.permanent or too_old else next_at
        with self._database.write(durable=True) as connection:
            delivery_store.mark_failed(connection, delivery, error=error.reason, retry_at=retry_at)
        result = DeliveryResult.DEAD if retry_at is None else DeliveryResult.RETRY
        self._on_result(self.notifier.name, result)
        _log.warning(
            "delivery failed",
            notifier=self.notifier.name,
            key=delivery.key,
            attempts=delivery.attempts,
            result=result,
            reason=error.reason,
            retry_in_s=None if retry_at is None else round(retry_at - now, 1),
        )


class Outbox:
    """The couriers' threads.

    wait: waits on a thread's wake-up call for at most so many seconds (tests wait on a clock of their own).
    on_result: called on the courier's thread with the notifier's name, for the metrics.
    """

    def __init__(
        self,
        database: Database,
        notifiers: Sequence[Notifier],
        *,
        now: Callable[[], float],
        rng: random.Random | None = None,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
        on_result: Callable[[str, DeliveryResult], None] = lambda _notifier, _result: None,
    ) -> None:
        self._database = database
        self._notifiers = [notifier.name for notifier in notifiers]
        self._wait = wait
        self._on_result = on_result
        self._stopping = threading.Event()
        self._threads: list[tuple[threading.Event, threading.Thread]] = []
        for notifier in notifiers:
            courier = Courier(database, notifier, now=now, rng=rng or random.Random(), on_result=on_result)  # noqa: S311
            wake = threading.Event()
            # A daemon thread: a receiver that hangs must not hold up the end of the process past the deadline.
            thread = threading.Thread(
                target=self._run, args=(courier, wake), name=f"outbox-{notifier.name}", daemon=True
            )
            self._threads.append((wake, thread))

    def start(self) -> None:
        """Take over what the last run left under way, and deliver. At most one outbox may serve a notifier.

        Whoever held those leases is dead: an alert must not wait for the end of one, a minute at the defaults.
        """
        with self._database.write(durable=True) as connection:
            delivery_store.end_leases(connection, self._notifiers)
        for _, thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Something was put into the outbox: look now. Call it after the commit."""
        for wake, _ in self._threads:
            wake.set()

    def stop(self, *, deadline_s: float) -> list[str]:
        """Let each finish the attempt it is in; returns the threads that did not within deadline_s.

        What they were delivering goes out again after the next start.
        """
        self._stopping.set()
        self.wake()
        end = monotonic() + deadline_s
        for _, thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - monotonic()))
        return [thread.name for _, thread in self._threads if thread.is_alive()]

    def _run(self, courier: Courier, wake: threading.Event) -> None:
        while not self._stopping.is_set():
            wake.clear()  # before looking: what comes in meanwhile wakes the wait below
            try:
                delay_s = courier.deliver_due(stopping=self._stopping.is_set)
            except Exception:  # noqa: BLE001  (the thread's one catch-all: whatever happens, the next message goes out)
                delay_s = POLL_S
                self._on_result(courier.notifier.name, DeliveryResult.ERROR)
                # The standard library's traceback: a renderer that shows local variables would show the URL.
                _log.error("delivery thread failed", notifier=courier.notifier.name, exception=format_exc())
            if not self._stopping.is_set():
                self._wait(wake, POLL_S if delay_s is None else min(delay_s, POLL_S))
