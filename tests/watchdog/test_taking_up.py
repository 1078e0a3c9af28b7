"""Going on where the last run or configuration ended: what nobody watches any more is closed, told and kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from builders import NOW, make_incident

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.delivery_store import DeliveryState
from alerts.episode import Outcome, State, Trigger
from alerts.incident import State as IncidentState
from alerts.message import trial_message
from alerts.notifiers.transport import SharedTransport
from alerts.recycle_store import Episode
from baselines.database import Database
from watchdog.bootstrap import Shared, build_metrics
from watchdog.config import parse_config
from watchdog.effects import Effects
from watchdog.rebuild import build_watch
from watchdog.taking_up import NOT_CONFIGURED, take_up
from watchdog.watch import Watch

EPISODE = Episode(
    id="r1", target="gone", trigger=Trigger.HAND, reason="by hand", incident_id=None, requested_at=NOW, updated_at=NOW
)


@dataclass
class Bench:
    database: Database
    watch: Watch
    effects: Effects

    def take_up(self, running: frozenset[str] = frozenset()) -> dict[str, int]:
        with self.database.write(durable=True) as connection:
            buried = take_up(connection, self.watch, self.effects, fresh=(), running=running, now=NOW)
        return dict(buried)

    def store(self, episode: Episode) -> None:
        with self.database.write() as connection:
            recycle_store.save_episode(connection, episode)

    def episode(self) -> Episode:
        with self.database.read() as connection:
            found = recycle_store.get_episode(connection, "r1")
        assert found is not None
        return found


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    config = parse_config(
        {
            "target": [{"name": "chat", "device": "cpu", "canary": [{"url": "http://127.0.0.1:1/"}]}],
            "notifier": [{"name": "x", "kind": "webhook", "url": "http://127.0.0.1:1/"}],
        }
    )
    transport = SharedTransport()
    watch = build_watch(config, Shared(database=database), transport)
    effects = Effects(
        watch.targets,
        watch.routes,
        build_metrics(config),
        now=lambda: NOW,
        new_id=lambda: "r2",
        changed=lambda: None,
    )
    yield Bench(database, watch, effects)
    transport.close()


@pytest.mark.parametrize(
    ("target", "subject", "left"),
    [
        ("chat", "default", IncidentState.FIRING),
        ("chat", "old", IncidentState.RESOLVED),
        ("chat", "peers default", IncidentState.RESOLVED),
        ("gone", "default", IncidentState.RESOLVED),
    ],
    ids=["watched", "its canary is gone", "its peers are gone", "its target is gone"],
)
def test_incident_of_what_is_gone_is_closed(bench: Bench, target: str, subject: str, left: IncidentState) -> None:
    """No verdict can ever resolve it; the others go on."""
    with bench.database.write() as connection:
        alert_store.save_incident(connection, make_incident("i1", target=target, subject=subject))
    bench.take_up()
    with bench.database.read() as connection:
        found = alert_store.find_incident(connection, "i1")
    assert found is not None
    assert found.state is left


@pytest.mark.parametrize(
    ("state", "ended", "outcome", "told"),
    [
        (State.SUSPECT, State.BLOCKED, Outcome.BLOCKED, 0),
        (State.RECYCLE, State.ESCALATED, Outcome.INTERRUPTED, 1),
        (State.VERIFY, State.ESCALATED, Outcome.INTERRUPTED, 1),
    ],
    ids=["not begun", "in the act", "after the act"],
)
def test_recycle_that_nobody_goes_on_with_is_ended(
    bench: Bench, state: State, ended: State, outcome: Outcome, told: int
) -> None:
    """Nothing is left in the middle; people are told unless nothing was done."""
    bench.store(replace(EPISODE, state=state))
    bench.take_up()
    episode = bench.episode()
    assert (episode.state, episode.outcome, episode.detail) == (ended, outcome, NOT_CONFIGURED)
    assert episode.ended_at == NOW
    with bench.database.read() as connection:
        assert len(delivery_store.list_deliveries(connection)) == told


def test_recycle_that_is_being_carried_out_goes_on(bench: Bench) -> None:
    """Its thread has the old target, and ends it."""
    bench.store(replace(EPISODE, state=State.RECYCLE))
    bench.take_up(running=frozenset({"gone"}))
    assert bench.episode().state is State.RECYCLE


def test_messages_of_notifiers_that_are_gone_are_counted_and_kept(bench: Bench) -> None:
    """By the notifier; those of the others still go out."""
    (route,) = bench.watch.routes
    with bench.database.write() as connection:
        for name in ("x", "gone"):
            message = trial_message(name, now=NOW)
            delivery_store.enqueue_deliveries(connection, message, [route], now=NOW)
        connection.exec_driver_sql("update deliveries set notifier = 'gone' where key like '%gone%'")
    assert bench.take_up() == {"gone": 1}
    assert bench.take_up() == {}, "told once"
    with bench.database.read() as connection:
        states = {d.notifier: d.state for d in delivery_store.list_deliveries(connection)}
    assert states == {"gone": DeliveryState.DEAD, "x": DeliveryState.PENDING}
