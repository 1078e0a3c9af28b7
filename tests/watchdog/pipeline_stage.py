"""The real pipeline and effects on a real database, for tests that bring the results."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from builders import NOW, Clock, make_baseline, make_burst, make_target
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.delivery_store import Delivery
from alerts.incident import Incident
from alerts.message import Message, webhook_payload
from alerts.notifiers.delivery import Route
from alerts.recycle_store import Episode
from baselines import baseline_store, schema, verdict_store
from baselines.database import Database
from baselines.verdict import Check, Reason, Status
from probes.messages import Burst, Life, MemorySample
from probes.messages import Outcome as Answer
from watchdog.effects import Effects
from watchdog.metrics import Metrics
from watchdog.pipeline import Pipeline
from watchdog.target import Target

WORKER = Life(pid=7, start_ticks=100)
HUNG = {"workers_alive": 1, "worker_cpu": 0.0}  # alive and idle while it is asked: its own fault


class Ops:
    """A notifier that nothing is sent through: the outbox has its own tests."""

    name = "ops"
    timeout_s = 5.0

    def render(self, message: Message) -> dict[str, Any]:
        return webhook_payload(message)

    def send(self, payload: object, *, key: str) -> None:
        raise AssertionError("these tests store deliveries and send none")


@dataclass
class Workers:
    """The workers of a target as the pipeline asks for them."""

    lives: list[Life] = field(default_factory=lambda: [WORKER])

    def find(self) -> dict[int, Life]:
        return dict(enumerate(self.lives))

    def known(self) -> dict[int, Life]:
        return self.find()

    def sample(self, now: float) -> list[MemorySample]:
        return []


class Bench:
    """The real pipeline and effects on a real database; bursts come from the test."""

    def __init__(self, database: Database, **target: object) -> None:
        self.database = database
        self.clock = Clock()
        self.workers = Workers()
        self.target: Target = make_target(database, **{"workers": self.workers, **target})
        self.woken = 0
        self.start()

    def start(self) -> None:
        """As a daemon that starts: nothing is remembered but what is in the database."""
        self.target.leaks.clear()
        self.target.latencies.clear()
        self.metrics = Metrics(CollectorRegistry(), targets={"chat": ["default"]}, notifiers=["ops"])
        numbers = itertools.count()
        self.effects = Effects(
            {"chat": self.target},
            [Route(notifier=Ops())],
            self.metrics,
            now=self.clock,
            new_id=lambda: f"recycle-{next(numbers)}-{self.clock.at}",
            changed=self.wake,
        )
        with self.database.read() as connection:
            self.effects.restore(connection)
        self.pipeline = Pipeline(self.database, {"chat": self.target}, self.effects, now=self.clock)

    def wake(self) -> None:
        self.woken += 1

    def take(self, *outcomes: Answer, **about: object) -> None:
        """One burst, a minute after the one before."""
        self.clock.at += 60
        self.pipeline.take_burst(self.burst(*outcomes, **about))

    def burst(self, *outcomes: Answer, **about: object) -> Burst:
        return make_burst(*outcomes, **{"at": self.clock.at, **about})

    def baseline(self) -> None:
        with self.database.write() as connection:
            baseline_store.promote(
                connection, baseline_store.save_baseline(connection, make_baseline()), at=NOW, by="ana", why=""
            )

    def count(self, name: str) -> int:
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(schema.metadata.tables[name])).scalar_one()

    def counts(self) -> dict[str, int]:
        return {name: self.count(name) for name in schema.metadata.tables}

    @property
    def incidents(self) -> list[Incident]:
        with self.database.read() as connection:
            return alert_store.list_incidents(connection)

    @property
    def deliveries(self) -> list[Delivery]:
        with self.database.read() as connection:
            return list(reversed(delivery_store.list_deliveries(connection)))

    @property
    def told(self) -> list[str]:
        return [delivery.event for delivery in self.deliveries]

    @property
    def recycles(self) -> list[Episode]:
        with self.database.read() as connection:
            return list(reversed(recycle_store.list_episodes(connection)))

    def verdicts(self, check: Check) -> list[tuple[Status, Reason]]:
        """Stored verdicts, oldest first."""
        with self.database.read() as connection:
            found = verdict_store.verdict_history(connection, "chat")
        return [(v.status, v.reason) for v in reversed(found) if v.check is check]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)
