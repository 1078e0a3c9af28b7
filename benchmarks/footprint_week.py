"""A week of ten targets through the daemon's own parts, on a clock that jumps from one result to the next.

`python -m benchmarks.footprint_week FOLDER DAYS` prints "day N: RESIDENT_MIB" after each day. Every target has a
burst a minute and a memory sample every five, a worker that is replaced every day, and a fault of twenty minutes every
day; metrics are scraped and the page is read.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from alerts.notifiers.transport import SharedTransport
from baselines.database import open_database
from benchmarks.footprint import TARGETS
from probes.messages import Burst, Identity, Life, MemorySample, Outcome, Output, Sample
from probes.taint import run_queue_delay_s
from watchdog.bootstrap import Shared, build_metrics, new_episode_id
from watchdog.config import parse_config
from watchdog.effects import Effects
from watchdog.health import Health
from watchdog.housekeeping import keep_house
from watchdog.logs import set_up_logging
from watchdog.migrations.migrate import bring_up_to_date
from watchdog.pipeline import Pipeline
from watchdog.policies import retention_of
from watchdog.provisional import Provisional
from watchdog.rebuild import build_watch
from watchdog.watch import Current
from watchdog.web.app import create_app

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
BURST = 10
FAULT_S = 1200.0
SCRAPE_EVERY_S = 900.0
MEMORY_EVERY_S = 300.0
IDENTITY = Identity(input_hash="abc")
ANSWER = Output(content_hash="f00d", shape=(3,), finite=True, count=3, mean=0.25, values=(0.125, 0.25, 0.375))


@dataclass
class Clock:
    at: float

    def __call__(self) -> float:
        return self.at


def burst_of(name: str, at: float, life: str, rng: random.Random, *, faulty: bool) -> Burst:
    """Ten answers of a healthy server, or the time-out of a hanging one."""
    if faulty:
        samples: tuple[Sample, ...] = (
            Sample(at=at, outcome=Outcome.TIMEOUT, detail="no complete answer within 10 s: no answer began"),
        )
        return Burst(target=name, canary="default", at=at, samples=samples, identity=IDENTITY, workers_alive=1)
    latencies = [0.02 * rng.lognormvariate(0.0, 0.15) for _ in range(BURST)]
    samples = tuple(
        Sample(at=at, outcome=Outcome.GOOD, latency_s=s, first_byte_s=0.9 * s, life=life) for s in latencies
    )
    return Burst(
        target=name, canary="default", at=at, samples=samples, identity=IDENTITY, output=ANSWER, workers_alive=1
    )


def memory_of(name: str, at: float, life: str, rng: random.Random) -> MemorySample:
    used = int(2e9 + 1e7 * rng.random())
    return MemorySample(target=name, slot=0, life=life, at=at, host_anon_bytes=used, capacity_bytes=16_000_000_000)


def resident_mib() -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


class Week:
    """The parts between the probes' threads and the disk, put together as the daemon does."""

    def __init__(self, folder: Path) -> None:
        targets = [
            {"name": f"target-{i}", "device": "cpu", "canary": [{"url": "http://127.0.0.1:9/"}]} for i in range(TARGETS)
        ]
        notifier = {"name": "nobody", "kind": "webhook", "url": "http://127.0.0.1:9/"}
        url = f"sqlite:///{folder}/week.db"
        self.config = parse_config({"store": {"url": url}, "notifier": [notifier], "target": targets})
        self.clock = Clock(time.time())
        self.database = open_database(url)
        bring_up_to_date(self.database)
        shared = Shared(database=self.database, sleep=time.sleep, own_delay_s=run_queue_delay_s)
        self.current = Current(build_watch(self.config, shared, SharedTransport()))
        metrics = build_metrics(self.config)
        effects = Effects(
            self.current.targets,
            self.current.routes,
            metrics,
            now=self.clock,
            new_id=new_episode_id,
            changed=lambda: None,
        )
        self.metrics = metrics
        self.pipeline = Pipeline(self.database, self.current.targets, effects, now=self.clock)
        self.provisional = Provisional(self.database, self.current.targets, now=self.clock)
        app = create_app(
            self.database,
            self.config,
            metrics.registry,
            now=self.clock,
            liveness=Health(self.database, metrics).liveness,
            draining=frozenset,
            started_at=self.clock(),
        )
        self.web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
        self.rng = random.Random(1)

    async def minute(self, number: int) -> None:
        self.clock.at += MINUTE_S
        of_day = (number * MINUTE_S) % DAY_S
        for i, name in enumerate(self.current.targets):
            life = Life(pid=1000 + i, start_ticks=int(number * MINUTE_S // DAY_S)).key
            begins = HOUR_S * (1 + 2 * i)
            burst = burst_of(name, self.clock(), life, self.rng, faulty=begins <= of_day < begins + FAULT_S)
            self.metrics.observe_burst(burst)
            self.pipeline.take_burst(burst)
            self.provisional.consider(burst)
            if of_day % MEMORY_EVERY_S == 0:
                samples = [memory_of(name, self.clock(), life, self.rng)]
                self.metrics.observe_memory(name, samples)
                self.pipeline.take_memory(name, samples)
        self.pipeline.tick()
        if of_day % SCRAPE_EVERY_S == 0:
            for path in ("/metrics", "/", "/api/v1/targets", "/api/v1/incidents"):
                (await self.web.get(path)).raise_for_status()
        if of_day % HOUR_S == 0:
            while keep_house(self.database, retention_of(self.config.store), now=self.clock()):
                pass


async def main(folder: Path, days: int) -> None:
    set_up_logging(format="console", level="error")
    week = Week(folder)
    per_day = int(DAY_S // MINUTE_S)
    for number in range(days * per_day):
        await week.minute(number)
        if (number + 1) % per_day == 0:
            print(f"day {(number + 1) // per_day}: {resident_mib():.1f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
