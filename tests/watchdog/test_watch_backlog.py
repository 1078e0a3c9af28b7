"""Whether people are told in time: read from a real outbox, shown in metrics, log and /healthz."""

from __future__ import annotations

import pytest
from builders import NOW, Clock
from prometheus_client import generate_latest

from alerts import delivery_store
from alerts.backlog import Backlog, read_backlogs
from alerts.message import trial_message
from alerts.notifiers.delivery import Route
from alerts.notifiers.transport import SharedTransport
from baselines.database import Database
from watchdog.backlog import LATE_S, BacklogWatch
from watchdog.bootstrap import build_metrics, build_routes
from watchdog.config import Config, parse_config


@pytest.fixture
def config() -> Config:
    notifiers = [{"name": name, "kind": "webhook", "url": "http://127.0.0.1:1/"} for name in ("x", "y")]
    return parse_config({"target": [{"name": "a", "canary": [{"url": "http://127.0.0.1:1/"}]}], "notifier": notifiers})


@pytest.fixture
def routes(config: Config) -> dict[str, Route]:
    return {r.notifier.name: r for r in build_routes(config, SharedTransport())}


def enqueue(database: Database, route: Route, *, at: float) -> None:
    with database.write() as connection:
        message = trial_message(route.notifier.name, now=at)
        delivery_store.enqueue_deliveries(connection, message, [route], now=at)


def fail(database: Database, notifier: str, *, at: float, retry_at: float | None) -> None:
    with database.write() as connection:
        claimed = delivery_store.claim_due(connection, notifier, now=at, lease_s=10.0)
        assert claimed is not None
        delivery_store.mark_failed(connection, claimed, error="answered 500", retry_at=retry_at)


def test_backlog_is_what_waits_and_what_was_given_up(database: Database, routes: dict[str, Route]) -> None:
    """By notifier; the oldest is the one that was enqueued first, whenever it is due."""
    with database.read() as connection:
        assert read_backlogs(connection) == {}
    for at in (NOW, NOW + 1, NOW + 2):
        enqueue(database, routes["x"], at=at)
    enqueue(database, routes["y"], at=NOW)
    fail(database, "x", at=NOW, retry_at=NOW + 999)
    fail(database, "y", at=NOW, retry_at=None)
    with database.read() as connection:
        assert read_backlogs(connection) == {
            "x": Backlog(pending=3, oldest_at=NOW, last_error="answered 500"),
            "y": Backlog(dead=1),
        }


def test_late_messages_are_a_note_until_they_are_delivered(
    database: Database, config: Config, routes: dict[str, Route]
) -> None:
    """With the reason of the last attempt; metrics are there at zero from the start, and go back to it."""
    clock, metrics = Clock(), build_metrics(config)
    watch = BacklogWatch(database, metrics, notifiers=lambda: ["x", "y"], now=clock)

    def shown() -> set[str]:
        lines = generate_latest(metrics.registry).decode().splitlines()
        return {line for line in lines if line.startswith(("watchdog_delivery_oldest", "watchdog_dead_letters"))}

    nothing = {
        f'watchdog_{name}{{notifier="{notifier}"}} 0.0'
        for name in ("delivery_oldest_pending_seconds", "dead_letters")
        for notifier in ("x", "y")
    }
    assert shown() == nothing
    enqueue(database, routes["x"], at=NOW)
    fail(database, "x", at=NOW, retry_at=NOW + 999)
    clock.at += LATE_S
    watch.look()
    assert watch.note() is None
    assert 'watchdog_delivery_oldest_pending_seconds{notifier="x"} 300.0' in shown()

    clock.at += 60
    watch.look()
    assert watch.note() == "notifier x: 1 wait to be delivered, the oldest for 6 min: answered 500"
    fail(database, "x", at=NOW + 1000, retry_at=None)
    watch.look()
    assert watch.note() is None
    assert shown() - nothing == {'watchdog_dead_letters{notifier="x"} 1.0'}


def test_notifier_that_is_gone_is_shown_as_long_as_it_has_dead_letters(
    database: Database, config: Config, routes: dict[str, Route]
) -> None:
    """Somebody should have a look at what was given up."""
    metrics = build_metrics(config)
    enqueue(database, routes["y"], at=NOW)
    with database.write() as connection:
        delivery_store.bury_orphans(connection, ["x"])
    BacklogWatch(database, metrics, notifiers=lambda: ["x"], now=Clock()).look()
    assert b'watchdog_dead_letters{notifier="y"} 1.0' in generate_latest(metrics.registry)
