"""What the daemon, the page, the API and the command line ask of the database, and how long it takes on two of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection

from alerts import store as alert_store
from baselines import baseline_store, burst_store, memory_store
from baselines.database import Database
from baselines.leak import LeakPolicy
from baselines.scan import KEPT
from baselines.verdict import Check
from watchdog.config import Config
from watchdog.history import By, read_canaries, read_workers
from watchdog.status import read_readiness, read_targets
from watchdog.web.api import COLLECTIONS
from watchdog.web.page import render

Query = Callable[[Connection], object]
ROUNDS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One query on the younger and the older database. items: what it gave back; 1 where that is one thing.

    ratio: of the times an item, for a list that has grown to its limit is longer and takes longer.
    """

    name: str
    first_ms: float
    last_ms: float
    first_items: int
    last_items: int

    @property
    def ratio(self) -> float:
        return (self.last_ms / self.last_items) / (self.first_ms / self.first_items)


def queries(config: Config, *, now: float) -> dict[str, Query]:
    """By name. now: the end of what is stored, for questions about the last hours."""
    target = config.target[0]
    lookback_s, window = LeakPolicy().lookback_s, KEPT
    asked: dict[str, Query] = {
        "page": lambda c: render(read_targets(c, config), now=now),
        "readyz of a target": lambda c: read_readiness(c, target),
        "judging: window of bursts": lambda c: burst_store.bursts_since(c, target.name, "default", limit=window - 1),
        "judging: last good, first burst": lambda c: (
            burst_store.last_good_at(c, target.name, "default"),
            burst_store.first_burst_at(c, target.name, "default"),
        ),
        "judging: memory of a life": lambda c: [
            memory_store.memory_since(c, target.name, newest.life, since=now - lookback_s)
            for newest in memory_store.latest_memory(c, target.name)
        ],
        "judging: active baseline": lambda c: baseline_store.active_baseline(c, target.name, "default"),
        "judging: incident of a subject": lambda c: alert_store.load_incident(
            c, target.name, Check.AVAILABILITY, "default"
        ),
        "open incidents": lambda c: alert_store.list_incidents(c, only_open=True, limit=1000),
        "firing by level": alert_store.count_firing,
        "history: a week by the hour": lambda c: read_canaries(
            c, target.name, ["default"], by=By.HOUR, since=now - 7 * 86400
        ),
        "history: a month by the day": lambda c: (
            read_canaries(c, target.name, ["default"], by=By.DAY, since=now - 29 * 86400),
            read_workers(c, target.name, by=By.DAY, since=now - 29 * 86400),
        ),
    }
    for name, collection in COLLECTIONS.items():
        asked[f"api: {name}"] = _as_json(collection.read, TypeAdapter(list[collection.item]), config)  # type: ignore[name-defined]  # a type made at run time
    return asked


def _as_json(read: Callable[[Connection, Config, str | None], list[Any]], adapter: Any, config: Config) -> Query:
    def ask(connection: Connection) -> list[Any]:
        items = read(connection, config, None)
        adapter.dump_json(items)
        return items

    return ask


def compare(first: Database, last: Database, asked: Mapping[str, tuple[Query, Query]]) -> list[Timing]:
    """Each query on both, turn by turn: CPU time of the fastest round, which a busy machine disturbs least.

    asked: by name the question to the first and the same to the last, each about its own last hours.
    """
    timings = []
    for name, (to_first, to_last) in asked.items():
        took: dict[str, list[float]] = {"first": [], "last": []}
        items: dict[str, int] = {}
        for _ in range(ROUNDS):
            for which, database, query in (("first", first, to_first), ("last", last, to_last)):
                with database.read() as connection:
                    began = time.thread_time()
                    found = query(connection)
                    took[which].append(time.thread_time() - began)
                items[which] = max(1, len(found)) if name.startswith("api: ") and isinstance(found, Sized) else 1
        timings.append(
            Timing(
                name=name,
                first_ms=min(took["first"]) * 1e3,
                last_ms=min(took["last"]) * 1e3,
                first_items=items["first"],
                last_items=items["last"],
            )
        )
    return timings
