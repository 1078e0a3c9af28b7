"""The web application in this process, on a database with something of everything in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from builders import NOW, make_baseline, make_burst, make_incident
from starlette.applications import Starlette

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.episode import Outcome as RecycleOutcome
from alerts.episode import State as RecycleState
from alerts.episode import Trigger
from alerts.message import trial_message
from alerts.notifiers.delivery import Route
from alerts.notifiers.transport import SharedTransport
from alerts.recycle_store import Episode
from baselines import baseline_store, burst_store, memory_store, verdict_store
from baselines.database import Database, open_database
from baselines.verdict import Check, Reason, Status, Verdict
from probes.messages import MemorySample
from watchdog.bootstrap import build_metrics, build_notifier
from watchdog.config import Config, parse_config
from watchdog.migrations.migrate import bring_up_to_date
from watchdog.web.app import Liveness, create_app

WATCHED = {"process": {"port": 1}}


def make_config(chat: Mapping[str, object] = WATCHED, **web: object) -> Config:
    canary = {"url": "http://127.0.0.1:1/"}
    targets = [{"name": "chat", "canary": [canary], **chat}, {"name": "other", "canary": [canary]}]
    notifier = {"name": "events", "kind": "webhook", "url": "http://127.0.0.1:1/key"}
    return parse_config({"web": web, "target": targets, "notifier": [notifier]})


@dataclass
class Site:
    """The application as it answers; `problems` and `draining` are what the daemon would say."""

    database: Database
    config: Config
    problems: tuple[str, ...] = ()
    draining: frozenset[str] = frozenset()

    @cached_property
    def app(self) -> Starlette:
        return create_app(
            self.database,
            self.config,
            build_metrics(self.config).registry,
            now=lambda: NOW,
            liveness=lambda: Liveness(problems=self.problems),
            draining=lambda: self.draining,
        )

    def ask(self, path: str, *, method: str = "GET", host: str = "127.0.0.1:9477", **more: Any) -> httpx.Response:
        """more: headers, content, json as httpx takes them."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=self.app), base_url=f"http://{host}"
            ) as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())


@contextmanager
def opened_site(folder: Path, **web: object) -> Iterator[Site]:
    """A site of its own; nothing is known yet."""
    database = open_database(f"sqlite:///{folder}/watchdog.db")
    bring_up_to_date(database)
    yield Site(database, make_config(**web))
    database.close()


def make_verdict(check: Check, status: Status, **about: Any) -> Verdict:
    values = {"target": "chat", "subject": "default", "at": NOW - 30, "reason": Reason.REGRESSED, "evidence": {}}
    return Verdict(**values | about, check=check, status=status)


def make_episode(**about: Any) -> Episode:
    values = {
        "id": "recycle-1",
        "target": "chat",
        "trigger": Trigger.INCIDENT,
        "reason": "leaking",
        "requested_at": NOW - 50,
        "updated_at": NOW - 40,
        "state": RecycleState.COOLDOWN,
        "outcome": RecycleOutcome.VERIFIED,
        "acted_at": NOW - 49,
        "ended_at": NOW - 40,
    }
    return Episode(**values | about)


def fill(database: Database, config: Config) -> None:
    """Some of everything, about `chat` alone."""
    transport = SharedTransport()
    route = Route(notifier=build_notifier(config.notifier[0], transport))
    message = replace(trial_message("events", now=NOW), target="chat", incident_id="i1")
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst(at=NOW - 30))
        sample = MemorySample(
            target="chat", slot=0, life="77@5", at=NOW - 20, host_anon_bytes=5_000_000, capacity_bytes=8 * 10**9
        )
        memory_store.add_memory(connection, [sample])
        baseline = baseline_store.save_baseline(connection, make_baseline(label="v1", provenance={"torch": "2.13"}))
        baseline_store.promote(connection, baseline, at=NOW, by="ann", why="first")
        evidence = {"ratio": 1.3, "ratio_low": float("nan"), "samples": 60, "outcome": None, "worst": "aten::mm"}
        verdict_store.save_verdict(
            connection, make_verdict(Check.LATENCY, Status.WORSE, evidence=evidence, since=NOW - 90)
        )
        alert_store.save_incident(connection, make_incident(check=Check.LATENCY, reason=Reason.REGRESSED))
        recycle_store.save_episode(connection, make_episode(incident_id="i1"))
        delivery_store.enqueue_deliveries(connection, message, [route], now=NOW)
        by_hand = replace(message, id="recycle-1-recycle-7", incident_id=None)
        delivery_store.enqueue_deliveries(connection, by_hand, [route], now=NOW)
    transport.close()
