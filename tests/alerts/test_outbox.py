"""The outbox against real HTTP receivers that hang, fail, ask for patience, refuse; and against kill -9."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from alerts import delivery_store
from alerts.delivery_store import Delivery, DeliveryState
from alerts.incident import Event, Incident, State, StepReason
from alerts.message import Message, incident_message
from alerts.notifiers.delivery import Route
from alerts.notifiers.webhook import WebhookNotifier
from alerts.outbox import (
    BASE_DELAY_S,
    GIVE_UP_ATTEMPTS,
    GIVE_UP_S,
    MAX_DELAY_S,
    MAX_RETRY_AFTER_S,
    Courier,
    DeliveryResult,
    Outbox,
    lease_of,
    next_attempt,
)
from baselines.database import Database
from baselines.verdict import Cause, Check, Level, Reason, Status

DEADLINE_S = 20.0
REPOSITORY = Path(__file__).parents[2]


def a_message(incident_id: str = "i1", event: Event = Event.FIRING, at: float = 0.0) -> Message:
    incident = Incident(
        id=incident_id,
        target="chat",
        check=Check.AVAILABILITY,
        subject="default",
        state=State.FIRING,
        status=Status.WORSE,
        reason=Reason.TIMEOUT,
        cause=Cause.MODEL,
        level=Level.PAGE,
        since=at,
        opened_at=at,
        updated_at=at,
    )
    return incident_message(incident, event, why=StepReason.FIRED, now=at)


@pytest.fixture
def notifier(receiver, transport, clock) -> WebhookNotifier:
    return WebhookNotifier(name="ops", url=receiver.url, transport=transport, now=clock, secret="s3cret", timeout_s=5.0)


@pytest.fixture
def results() -> Counter[DeliveryResult]:
    return Counter()


@pytest.fixture
def courier(database, notifier, clock, results) -> Courier:
    return Courier(
        database,
        notifier,
        now=clock,
        rng=random.Random(7),
        on_result=lambda _name, result: results.update([result]),
    )


def enqueue(database: Database, notifier: Any, *messages: Message, now: float) -> None:
    with database.write(durable=True) as connection:
        for message in messages:
            delivery_store.enqueue_deliveries(connection, message, [Route(notifier=notifier)], now=now)


def stored(database: Database) -> list[Delivery]:
    """All deliveries, oldest first."""
    with database.read() as connection:
        return delivery_store.list_deliveries(connection)[::-1]


def wait_until(holds: Callable[[], bool]) -> None:
    """Poll a condition on the database; fails after DEADLINE_S."""
    end, pause = monotonic() + DEADLINE_S, threading.Event()
    while not holds():
        assert monotonic() < end
        pause.wait(0.02)


# --- one courier, a clock that stands still ---------------------------------------------------------------------------


def test_what_is_taken_is_marked_sent(*, database, courier, notifier, clock, receiver, results) -> None:
    """Once, with the stored payload and the stored key."""
    enqueue(database, notifier, a_message(), now=clock())
    assert courier.deliver_due() is None
    (delivery,) = stored(database)
    (received,) = receiver.received
    assert (delivery.state, delivery.attempts, delivery.sent_at) == (DeliveryState.SENT, 1, clock())
    assert received.headers["Idempotency-Key"] == delivery.key
    assert json.loads(received.body) == delivery.payload
    assert courier.deliver_due() is None
    assert (len(receiver.received), results) == (1, {DeliveryResult.SENT: 1})


def test_500_then_200_is_delivered_with_the_same_key(
    *, database, courier, notifier, clock, receiver, reply, results
) -> None:
    """A receiver's bad moment costs a few seconds, and it can tell the repeat."""
    receiver.replies.append(reply(500))
    enqueue(database, notifier, a_message(), now=clock())
    delay_s = courier.deliver_due()
    assert delay_s is not None
    assert 0 <= delay_s <= BASE_DELAY_S
    assert stored(database)[0].last_error == "answered 500"
    clock.at += delay_s
    assert courier.deliver_due() is None
    assert stored(database)[0].state is DeliveryState.SENT
    keys = {received.headers["Idempotency-Key"] for received in receiver.received}
    bodies = {received.body for received in receiver.received}
    assert (len(receiver.received), len(keys), len(bodies)) == (2, 1, 1)
    assert results == {DeliveryResult.RETRY: 1, DeliveryResult.SENT: 1}


def test_retry_after_is_honoured(*, database, courier, notifier, clock, receiver, reply) -> None:
    """Not a moment sooner than the receiver asked for."""
    receiver.replies.append(reply(429, headers={"Retry-After": "120"}))
    enqueue(database, notifier, a_message(), now=clock())
    assert courier.deliver_due() == pytest.approx(120.0)
    clock.at += 119.0
    assert courier.deliver_due() == pytest.approx(1.0)
    assert len(receiver.received) == 1
    clock.at += 1.0
    assert courier.deliver_due() is None
    assert stored(database)[0].state is DeliveryState.SENT


def test_404_is_a_dead_letter_at_once(*, database, courier, notifier, clock, receiver, reply, results) -> None:
    """Kept, with the reason; never tried again; holds up nothing."""
    receiver.replies.append(reply(404))
    enqueue(database, notifier, a_message(), a_message(event=Event.RESOLVED), now=clock())
    assert courier.deliver_due() is None
    dead, over = stored(database)
    assert (dead.state, dead.attempts, dead.last_error) == (DeliveryState.DEAD, 1, "answered 404")
    assert over.state is DeliveryState.SENT
    assert results == {DeliveryResult.DEAD: 1, DeliveryResult.SENT: 1}


def test_it_gives_up_after_a_day_and_not_before(*, database, courier, notifier, clock, receiver, reply) -> None:
    """A receiver may be down for a night."""
    receiver.replies.extend(reply(503, headers={"Retry-After": "86400"}) for _ in range(100))
    enqueue(database, notifier, a_message(), now=clock())
    began = last = clock()
    while (delay_s := courier.deliver_due()) is not None:
        last = clock()
        clock.at += delay_s
    (delivery,) = stored(database)
    assert delivery.state is DeliveryState.DEAD
    assert GIVE_UP_S - MAX_RETRY_AFTER_S <= last - began <= GIVE_UP_S
    assert delivery.attempts == 1 + GIVE_UP_S / MAX_RETRY_AFTER_S  # an hour at a time, whatever it asks for


def test_resolved_is_not_sent_while_firing_is_still_to_be(
    *, database, courier, notifier, clock, receiver, reply
) -> None:
    """In order for one incident; another one goes on meanwhile."""
    receiver.replies.append(reply(503))
    firing, over = a_message("i1"), a_message("i1", Event.RESOLVED, at=1.0)
    enqueue(database, notifier, firing, over, a_message("i2"), now=clock())
    clock.at += courier.deliver_due()
    assert courier.deliver_due() is None
    said = [(m["incident"]["id"], m["event"]) for m in (json.loads(r.body) for r in receiver.received)]
    assert said == [("i1", "firing"), ("i2", "firing"), ("i1", "firing"), ("i1", "resolved")]


def test_one_whose_attempts_never_end_is_given_up_after_a_day(database, courier, notifier, clock, receiver) -> None:
    """A message that breaks its sender each time does not come back for ever; a fresh one always gets its attempt."""
    enqueue(database, notifier, a_message(), now=clock())
    for _ in range(GIVE_UP_ATTEMPTS):
        with database.write(durable=True) as connection:
            delivery_store.claim_due(connection, "ops", now=clock(), lease_s=1.0)  # and then the sender died
        clock.at += 1.0
    enqueue(database, notifier, a_message("i2"), now=clock())
    clock.at += GIVE_UP_S + 1
    assert courier.deliver_due() is None
    assert [d.state for d in stored(database)] == [DeliveryState.DEAD, DeliveryState.SENT]


def test_no_secret_is_stored_or_logged(*, database, courier, notifier, clock, receiver, reply) -> None:
    """The URL and the signing secret are in no row and no log line."""
    receiver.replies.append(reply(500))
    receiver.replies.append(reply(404))
    enqueue(database, notifier, a_message(), a_message("i2"), now=clock())
    with capture_logs() as logs:
        courier.deliver_due()
    assert len(logs) == 2
    for text in (str(logs), str(stored(database)), repr(notifier)):
        assert "the-secret-part" not in text
        assert "s3cret" not in text


def test_kill_9_between_sending_and_noting_it_sends_again_with_the_same_key(
    *, database, courier, notifier, clock, receiver, reply
) -> None:
    """A real process is killed after the receiver took the message; the next one waits for the lease, then repeats."""
    receiver.replies.append(reply(hang=True))
    enqueue(database, notifier, a_message(), now=clock())
    child = subprocess.Popen(
        [sys.executable, "-c", _DAEMON, f"sqlite:///{database.path}", receiver.url, str(clock())], cwd=REPOSITORY
    )
    try:
        receiver.wait_for(1)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(DEADLINE_S)
    delay_s = courier.deliver_due()
    assert delay_s == pytest.approx(lease_of(notifier))
    assert len(receiver.received) == 1
    clock.at += delay_s
    assert courier.deliver_due() is None
    first, second = receiver.received
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.body == second.body
    assert (stored(database)[0].state, stored(database)[0].attempts) == (DeliveryState.SENT, 2)


_DAEMON = """
import sys, threading, httpx
from alerts.notifiers.webhook import WebhookNotifier
from alerts.outbox import Outbox
from baselines.database import open_database
url, hook, now = sys.argv[1], sys.argv[2], float(sys.argv[3])
with httpx.HTTPTransport(trust_env=False) as transport:
    ops = WebhookNotifier(name="ops", url=hook, transport=transport, now=lambda: now, secret="s3cret", timeout_s=5.0)
    Outbox(open_database(url), [ops], now=lambda: now).start()
    threading.Event().wait(60)
"""


# --- the threads ------------------------------------------------------------------------------------------------------


def test_a_hanging_receiver_delays_no_other(
    *, database, notifier, transport, clock, receiver, other_receiver, reply
) -> None:
    """Slack hangs; the pager's message arrives all the same, and the next one too."""
    receiver.replies.append(reply(hang=True))
    pager = WebhookNotifier(name="pager", url=other_receiver.url, transport=transport, now=clock)
    outbox = Outbox(database, [notifier, pager], now=clock)
    outbox.start()
    try:
        for number in range(3):
            for each in (notifier, pager):
                enqueue(database, each, a_message(f"i{number}"), now=clock())
            outbox.wake()
            other_receiver.wait_for(number + 1)
        assert len(receiver.wait_for(1)) == 1  # still in its first attempt
    finally:
        left = outbox.stop(deadline_s=0.0)
        assert set(left) <= {"outbox-ops", "outbox-pager"}
        receiver.close()
        assert outbox.stop(deadline_s=DEADLINE_S) == []


def test_what_is_put_in_goes_out_without_waiting_for_a_poll(database, notifier, clock, receiver) -> None:
    """The wait is a wake-up call, not a sleep: this one would wait for ever."""
    was_set: list[bool] = []

    def wait(wake: threading.Event, _seconds: float) -> None:
        was_set.append(wake.is_set())
        wake.wait(DEADLINE_S)

    outbox = Outbox(database, [notifier], now=clock, wait=wait)
    outbox.start()
    try:
        for number in range(3):
            enqueue(database, notifier, a_message(f"i{number}"), now=clock())
            outbox.wake()
            receiver.wait_for(number + 1)
        wait_until(lambda: was_set and not was_set[-1])  # a call that was answered is over: no spinning
    finally:
        assert outbox.stop(deadline_s=DEADLINE_S) == []
    assert {d.state for d in stored(database)} == {DeliveryState.SENT}


def test_what_was_left_goes_out_after_a_restart(database, notifier, clock, receiver) -> None:
    """The outbox is the table, not the thread."""
    enqueue(database, notifier, a_message(), now=clock())
    outbox = Outbox(database, [notifier], now=clock)
    outbox.start()
    receiver.wait_for(1)
    assert outbox.stop(deadline_s=DEADLINE_S) == []
    assert stored(database)[0].state is DeliveryState.SENT


def test_stopping_before_starting_is_no_error(database, notifier, clock) -> None:
    """A daemon that fails to come up still goes down in order."""
    assert Outbox(database, [notifier], now=clock).stop(deadline_s=1.0) == []


class _Broken(WebhookNotifier):
    """A sender with a fault of its own."""

    def send(self, payload: Mapping[str, Any], *, key: str) -> None:
        if "broken" in key:
            raise ZeroDivisionError("oops")
        super().send(payload, key=key)


def test_a_fault_of_our_own_stops_no_thread(database, receiver, transport, clock) -> None:
    """Counted, logged, and the next message goes out; the broken one waits for its lease."""
    broken = _Broken(name="ops", url=receiver.url, transport=transport, now=clock)
    enqueue(database, broken, a_message("broken"), a_message("i2"), now=clock())
    results: list[tuple[str, DeliveryResult]] = []
    with capture_logs() as logs:
        outbox = Outbox(
            database,
            [broken],
            now=clock,
            wait=lambda wake, _seconds: wake.wait(0.02),
            on_result=lambda *result: results.append(result),
        )
        outbox.start()
        receiver.wait_for(1)
        wait_until(lambda: stored(database)[1].state is DeliveryState.SENT)
        assert outbox.stop(deadline_s=DEADLINE_S) == []
    assert results == [("ops", DeliveryResult.ERROR), ("ops", DeliveryResult.SENT)]
    assert "ZeroDivisionError" in next(log["exception"] for log in logs if log["log_level"] == "error")
    assert stored(database)[0].state is DeliveryState.PENDING


# --- the backoff ------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 10_000),
    st.one_of(st.none(), st.floats(0, 1e7, allow_nan=False)),
    st.integers(0, 2**32),
)
def test_backoff_is_bounded_and_never_sooner_than_asked(attempts: int, retry_after_s: float | None, seed: int) -> None:
    """Between what the receiver asked for (an hour at the most) and the cap."""
    delay_s = next_attempt(attempts, retry_after_s, random.Random(seed))
    ceiling_s = min(MAX_DELAY_S, BASE_DELAY_S * 2.0 ** min(attempts - 1, 100))
    asked_s = min(retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    assert asked_s <= delay_s <= max(asked_s, ceiling_s)


def test_backoff_doubles_and_is_spread_over_the_whole_range() -> None:
    """Full jitter: on average half the ceiling, so that receivers are not hit by everybody at once."""
    rng = random.Random(1)
    for attempts, ceiling_s in ((1, 2.0), (2, 4.0), (5, 32.0), (9, 512.0), (10, 600.0), (40, 600.0)):
        delays = [next_attempt(attempts, None, rng) for _ in range(2000)]
        assert max(delays) > 0.95 * ceiling_s
        assert min(delays) < 0.05 * ceiling_s
        assert sum(delays) / len(delays) == pytest.approx(ceiling_s / 2, rel=0.08)
