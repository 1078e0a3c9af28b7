"""Who delivers: real outboxes on a real database; receivers that take, fail or hang as they are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import NOW, wait_until

from alerts import delivery_store
from alerts.delivery_store import DeliveryState, list_deliveries
from alerts.message import Message, trial_message
from alerts.notifiers.delivery import Route
from alerts.outbox import Outbox
from baselines.database import Database
from watchdog.couriers import Couriers


@dataclass
class Receiver:
    """A notifier; `hanging` holds an attempt until `release`."""

    name: str
    timeout_s: float = 5.0
    hanging: bool = False
    release: threading.Event = field(default_factory=threading.Event)
    begun: int = 0
    taken: list[str] = field(default_factory=list)

    def render(self, message: Message) -> dict[str, Any]:
        return {"id": message.id}

    def send(self, payload: Mapping[str, Any], *, key: str) -> None:
        self.begun += 1
        if self.hanging:
            self.release.wait(20)
        self.taken.append(key)


@dataclass
class Bench:
    database: Database
    receivers: list[Receiver] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.couriers = Couriers(lambda notifier: Outbox(self.database, [notifier], now=lambda: NOW + 10))

    def follow(self, *receivers: Receiver) -> None:
        self.receivers += receivers
        self.couriers.follow(receivers)

    def enqueue(self, number: int, *receivers: Receiver) -> None:
        routes = [Route(notifier=r) for r in receivers]
        with self.database.write(durable=True) as connection:
            message = trial_message(f"t{number}", now=NOW + number)
            delivery_store.enqueue_deliveries(connection, message, routes, now=NOW)
        self.couriers.wake()

    def states(self) -> dict[DeliveryState, int]:
        with self.database.read() as connection:
            found = [d.state for d in list_deliveries(connection)]
        return {state: found.count(state) for state in found}

    def close(self) -> None:
        for receiver in self.receivers:
            receiver.release.set()
        assert self.couriers.stop(deadline_s=10) == []


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database)
    yield bench
    bench.close()


def test_nothing_is_delivered_before_it_settles(bench: Bench) -> None:
    """To follow is quick and writes nothing; to settle starts them."""
    receiver = Receiver("x")
    bench.follow(receiver)
    bench.enqueue(1, receiver)
    assert receiver.taken == []
    assert bench.couriers.settle() is False
    wait_until(lambda: len(receiver.taken) == 1, "delivered")


def test_unchanged_one_goes_on_in_the_middle_of_an_attempt(bench: Bench) -> None:
    """Others come and go beside it."""
    stays = Receiver("stays", hanging=True)
    bench.follow(stays)
    bench.couriers.settle()
    bench.enqueue(1, stays)
    wait_until(lambda: stays.begun, "an attempt is under way")
    comes = Receiver("comes")
    bench.follow(stays, comes)
    assert bench.couriers.settle() is False
    bench.enqueue(2, comes)
    wait_until(lambda: len(comes.taken) == 1, "the new one delivers meanwhile")
    bench.follow(stays)
    stays.hanging = False
    stays.release.set()
    wait_until(lambda: len(stays.taken) == 1, "it ends")
    assert stays.begun == 1


def test_successor_waits_for_the_attempt_under_way(bench: Bench) -> None:
    """The same name with another receiver: one of the two takes the message, not both."""
    old, new = Receiver("x", hanging=True), Receiver("x")
    bench.follow(old)
    bench.couriers.settle()
    bench.enqueue(1, old)
    wait_until(lambda: old.begun, "an attempt is under way")
    bench.follow(new)
    assert bench.couriers.settle() is True
    bench.enqueue(2, new)
    threading.Event().wait(0.2)  # time enough for a delivery
    assert new.begun == 0
    old.release.set()
    wait_until(lambda: not bench.couriers.settle(), "the old one has ended")
    wait_until(lambda: bench.states() == {DeliveryState.SENT: 2}, "both are delivered")
    assert (old.begun, len(old.taken), len(new.taken)) == (1, 1, 1)


def test_removed_and_added_again_waits_as_well(bench: Bench) -> None:
    """Also when it was gone in between."""
    old, new = Receiver("x", hanging=True), Receiver("x")
    bench.follow(old)
    bench.couriers.settle()
    bench.enqueue(1, old)
    wait_until(lambda: old.begun, "an attempt is under way")
    bench.follow()
    assert bench.couriers.settle() is True
    bench.follow(new)
    assert bench.couriers.settle() is True
    old.release.set()
    wait_until(lambda: not bench.couriers.settle(), "the old one has ended")
    assert new.begun == 0


def test_stop_waits_for_who_is_leaving_too(bench: Bench) -> None:
    """Nobody is cut off in an attempt; who does not end in time is named."""
    old = Receiver("x", hanging=True)
    bench.follow(old)
    bench.couriers.settle()
    bench.enqueue(1, old)
    wait_until(lambda: old.begun, "an attempt is under way")
    bench.follow()
    assert bench.couriers.stop(deadline_s=0.05) == ["outbox-x"]
    old.release.set()
    assert bench.couriers.stop(deadline_s=10) == []
    assert bench.states() == {DeliveryState.SENT: 1}
