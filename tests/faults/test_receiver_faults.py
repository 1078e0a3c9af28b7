"""Receivers that hang, drip, are down, or ask for patience: everybody else hears in time, and nothing is lost."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from builders import Clock, make_incident
from daemon_stage import Webhook, receiving, wait_until
from fault_stage import FaultStage
from ports import free_port

from alerts import delivery_store
from alerts.delivery_store import DeliveryState
from alerts.incident import Event, StepReason
from alerts.message import incident_message
from alerts.notifiers.delivery import Route
from alerts.notifiers.slack import SlackNotifier
from alerts.notifiers.transport import SharedTransport
from alerts.outbox import DeliveryResult, Outbox
from baselines.database import Database

HOUR_S = 3600.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_receiver_that_never_finishes_is_left_behind(stage: FaultStage, webhook: Webhook, mode: str) -> None:
    """It hangs, or sends its headers a byte at a time: each attempt ends by its time-out, the others are told at once,
    probes keep their time, and it hears the same message once it is well."""
    webhook.mode = mode
    with receiving() as other:
        stage.write_config(stage.target(free_port(), "sick"), stage.beats(), webhook=webhook)
        more = f'[[notifier]]\nname = "other"\nkind = "webhook"\nurl = "{other.url}"\n'
        stage.config.write_text(stage.config.read_text() + more)
        daemon = stage.start_daemon()
        with stage.keeping_time():
            wait_until(lambda: other.taken("firing"), "the other receiver is told")
            wait_until(lambda: len(webhook.attempts) >= 2, "the attempt ended and there is a second one")
        assert stage.value("watchdog_deliveries_total", notifier="events", result="retry") >= 1
        assert "no complete answer within 2 s" in stage.log_of(daemon)
        webhook.mode = "ok"
        wait_until(lambda: webhook.taken("firing"), "it is told once it is well")
        assert len(webhook.taken("firing")) == len(other.taken("firing")) == 1
        assert len({key for _, key, _ in webhook.attempts}) == 1


@dataclass
class Slack:
    """A real HTTP server whose behaviour is a function of the fake time.

    Down for an hour: it closes the connection for half of it, then answers 503. Then for ten minutes it answers 429 and
    asks for 90 s, three times over. Then it takes everything.
    """

    clock: Clock
    down_until: float
    storm_until: float
    attempts: list[tuple[float, str, int]] = field(default_factory=list)  # (when, text, answer; 0: hung up)
    url: str = ""

    def answer(self) -> tuple[int, str]:
        now = self.clock()
        if now < self.down_until:
            return (0 if now < self.down_until - HOUR_S / 2 else 503), ""
        return (429, "Retry-After: 90\r\n") if now < self.storm_until else (200, "")

    def taken(self) -> list[str]:
        return [text for _, text, status in self.attempts if status == 200]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slack(clock: Clock) -> Iterator[Slack]:
    hook = Slack(clock, down_until=clock.at + HOUR_S, storm_until=clock.at + HOUR_S + 600)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            status, more = hook.answer()
            hook.attempts.append((clock.at, text, status))
            if status:
                self.wfile.write(f"HTTP/1.1 {status} X\r\n{more}Content-Length: 0\r\n\r\n".encode())

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook.url = f"http://127.0.0.1:{server.server_address[1]}/services/T0/B0/x"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield hook
    server.shutdown()
    server.server_close()


def test_hour_without_slack_and_a_storm_of_429_lose_nothing(database: Database, clock: Clock, slack: Slack) -> None:
    """Ten incidents fire and resolve meanwhile. Each is told once, its end after its beginning; Slack is not hammered,
    and is left alone for as long as it asks: not only with the one message that it turned down, but with all."""
    begin = clock.at
    transport = SharedTransport()
    notifier = SlackNotifier(name="slack", url=slack.url, transport=transport, now=clock)
    due = sorted(
        [(begin + 300.0 * i, i, Event.FIRING) for i in range(10)]
        + [(begin + 300.0 * i + 900, i, Event.RESOLVED) for i in range(10)]
    )
    done, failed = threading.Event(), Counter[DeliveryResult]()

    def pass_time(wake: threading.Event, seconds: float) -> None:
        """The outbox waits: so much time passes, and what happens in it is put into the outbox."""
        clock.at += max(0.01, seconds)
        with database.write(durable=True) as connection:
            while due and due[0][0] <= clock.at:
                at, number, event = due.pop(0)
                why = StepReason.FIRED if event is Event.FIRING else StepReason.RECOVERED
                incident = make_incident(f"i{number}", target=f"model-{number}")
                message = incident_message(incident, event, why=why, now=at)
                delivery_store.enqueue_deliveries(connection, message, [Route(notifier=notifier)], now=at)
        if clock.at > slack.storm_until + 2 * HOUR_S:
            done.set()
            wake.wait(20.0)

    outbox = Outbox(
        database,
        [notifier],
        now=clock,
        rng=random.Random(3),
        wait=pass_time,
        on_result=lambda _name, result: failed.update([result]),
    )
    outbox.start()
    assert done.wait(60.0), "fake hours take seconds"
    assert outbox.stop(deadline_s=20.0) == []
    transport.close()

    with database.read() as connection:
        assert {d.state for d in delivery_store.list_deliveries(connection)} == {DeliveryState.SENT}
    assert Counter(slack.taken()).most_common(1)[0][1] == 1
    assert len(slack.taken()) == 20
    for number in range(10):
        mine = [text for text in slack.taken() if f"model-{number}" in text]
        assert ["resolved" in text.lower() for text in mine] == [False, True]
    _assert_patience(slack)
    assert failed[DeliveryResult.SENT] == 20
    assert failed[DeliveryResult.ERROR] == failed[DeliveryResult.DEAD] == 0


def _assert_patience(slack: Slack) -> None:
    """No attempt within the 90 s that each 429 asks for, and while it is down few of them, spread out."""
    asked = [at for at, _, status in slack.attempts if status == 429]
    for at in asked:
        assert not [when for when, *_ in slack.attempts if at < when < at + 90.0]
    assert 1 <= len(asked) <= 7
    while_down = [at for at, _, status in slack.attempts if status in (0, 503)]
    assert len(while_down) < 400, "a message about every ten seconds, for up to ten that wait"
