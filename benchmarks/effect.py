"""What canaries cost the server: the p99 of real traffic with them in it, and without them, paired, in one run.

One PyTorch server gets steady traffic and is watched with bursts as they are by default. Most requests meet none. So
the p99 of all requests is compared with the p99 of those that were under way while the watchdog did nothing: the same
requests but for a few, on the same machine in the same minutes, so that its noise cancels. (Two servers side by side,
one of them watched, could not tell 1 %: the noise of the machine is ten times that.) Bursts come ten times as often as
by default, so that enough requests meet one, and those that do count for a tenth, as there would be of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from baselines import burst_store
from baselines.database import open_database
from baselines.quantiles import Floats
from benchmarks import report
from benchmarks.watched import HERE, Child, Daemon, answers, free_port, scratch_folder, wait_until
from probes.messages import Burst

SERVER = HERE.parent / "watchdog" / "demo" / "server.py"
RATE = 40.0  # requests a second: a quarter of what the server can do
INTERVAL_S, DEFAULT_INTERVAL_S = 6.0, 60.0
BLOCK_S = 60.0  # what the bootstrap draws
TOKENS = list(range(24))
LIMIT_PERCENT = 1.0
KEEP_ALIVE_S = 3.0  # uvicorn closes a connection that was idle for five seconds
BEFORE_S, AFTER_S = (
    0.2,
    1.0,
)  # warm-up requests come before the first sample; judging, storing and queues after the last


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the traffic: when it was due (Unix seconds), and seconds from sending it to the last byte."""

    at: float
    latency_s: float


class Client:
    """Real traffic to one server: keep-alive connections, as many as needed, requests on time whatever is in flight."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        body = json.dumps({"tokens": TOKENS}).encode()
        self._question = (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    async def ask(self) -> float:
        """Seconds from now to the last byte."""
        began = time.perf_counter()
        reader, writer = self._take() or await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._question)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(row[15:]) for row in head.lower().split(b"\r\n") if row.startswith(b"content-length:"))
        await reader.readexactly(length)
        ended = time.perf_counter()
        self._idle.append((ended, reader, writer))
        return ended - began

    def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The connection used last, unless the server is about to close it."""
        while self._idle:
            used_at, reader, writer = self._idle.pop()
            if time.perf_counter() - used_at < KEEP_ALIVE_S:
                return reader, writer
            writer.close()
        return None


async def drive(client: Client, seconds: float, seed: int) -> list[Asked]:
    """Poisson traffic, never held up by answers that are late."""
    rng, loop, began, shift = random.Random(seed), asyncio.get_running_loop(), time.perf_counter(), time.time()
    shift -= began
    found: list[Asked] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(moment: float) -> None:
        latency_s = await client.ask()
        found.append(Asked(moment + shift, latency_s))

    moment = began
    while (moment := moment + rng.expovariate(RATE)) < began + seconds:
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        task = loop.create_task(one(moment))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return found


def configuration(port: int) -> str:
    """What a user who wrote down nothing but the address gets, but for the interval.

    max_busy grows with it, so that a burst stays as large as it is by default.
    """
    return (
        f'[[target]]\nname = "watched"\ndevice = "cpu"\n[[target.canary]]\nurl = "http://127.0.0.1:{port}/predict"\n'
        f'interval = "{INTERVAL_S:g}s"\nmax_busy = {0.01 * DEFAULT_INTERVAL_S / INTERVAL_S}\n'
        f"json = {{ tokens = {TOKENS} }}\n[target.canary.expect]\njson_path = 'embedding'\n"
    )


def met_a_burst(asked: Asked, bursts: Sequence[Burst]) -> bool:
    """Whether the watchdog was at work while the request was under way."""
    return any(
        asked.at + asked.latency_s >= burst.samples[0].at - BEFORE_S
        and asked.at <= burst.samples[-1].at + (burst.samples[-1].latency_s or 0.0) + AFTER_S
        for burst in bursts
    )


@dataclass(frozen=True, slots=True)
class Block:
    """Latencies in seconds of one minute: those that met a burst, and the others."""

    beside: Floats
    apart: Floats


def blocks(found: Sequence[Asked], bursts: Sequence[Burst]) -> list[Block]:
    """The run in minutes, the last one left out unless it is whole."""
    began = min(asked.at for asked in found)
    count = math.floor((max(a.at for a in found) - began + 1.0) / BLOCK_S)
    parts: list[tuple[list[float], list[float]]] = [([], []) for _ in range(count)]
    for asked in found:
        if (which := int((asked.at - began) // BLOCK_S)) < count:
            beside, apart = parts[which]
            (beside if met_a_burst(asked, bursts) else apart).append(asked.latency_s)
    return [Block(np.array(beside), np.array(apart)) for beside, apart in parts]


def p99_ratio(parts: Sequence[Block], *, rarity: float = INTERVAL_S / DEFAULT_INTERVAL_S) -> float:
    """p99 of all requests, as they would be at the default interval, over the p99 of those that met no burst.

    By how many more requests lie above the latter, and how steep the tail is there: log latency against log share, from
    p98 to p99.5. (The quotient of two sample quantiles jumps from one request's latency to the next one's.)
    rarity: how many requests would meet something by default, for each that did here.
    """
    apart = np.concatenate([part.apart for part in parts])
    beside = np.concatenate([part.beside for part in parts])
    p98, p99, p995 = np.quantile(apart, [0.98, 0.99, 0.995])
    share = len(beside) * rarity / (len(apart) + len(beside))
    tail = float(np.mean(apart > p99))
    grown = 1 + share * (float(np.mean(beside > p99)) / tail - 1)
    steepness = math.log(p995 / p98) / math.log(0.02 / 0.005)
    return math.exp(steepness * math.log(grown))


@dataclass(frozen=True, slots=True)
class Change:
    """Of the p99, in per cent, with its 95 % interval."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.percent:+.2f} % ({self.low:+.2f} to {self.high:+.2f})"

    def goal(self, name: str) -> report.Goal:
        """Met, or missed, when the whole interval says so."""
        met = True if self.high <= LIMIT_PERCENT else False if self.low > LIMIT_PERCENT else None
        return report.Goal(name=name, goal=f"<= {LIMIT_PERCENT:g} %", value=str(self), met=met)


def change(parts: Sequence[Block], *, rarity: float = INTERVAL_S / DEFAULT_INTERVAL_S) -> Change:
    """See `p99_ratio`; the interval is a bootstrap's over the parts."""
    rng = random.Random(0)
    ratios = [p99_ratio(rng.choices(parts, k=len(parts)), rarity=rarity) for _ in range(1000)]
    low, high = (100 * (float(bound) - 1) for bound in np.quantile(ratios, [0.025, 0.975]))
    return Change(100 * (p99_ratio(parts, rarity=rarity) - 1), low, high)


def measure(seconds: float) -> tuple[list[Asked], list[Burst]]:
    """The traffic of a run, and the bursts that fell into it."""
    with scratch_folder() as name:
        folder, port = Path(name), free_port()
        with Child([sys.executable, str(SERVER), "--port", str(port)], log=folder / "server.log"):
            wait_until(lambda: answers(port), "the server listens")
            asyncio.run(drive(Client(port), 5.0, seed=99))  # warm
            with Daemon(folder, [configuration(port)]).wait_ready() as daemon:
                found = asyncio.run(drive(Client(port), seconds, seed=1))
                database = open_database(f"sqlite:///{daemon.database}")
                with database.read() as connection:
                    bursts = burst_store.bursts_since(connection, "watched", "default", since=0.0, limit=100_000)
                database.close()
    return found, bursts


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=int, default=10)


def run(options: argparse.Namespace) -> report.Report:
    found, bursts = measure(options.minutes * BLOCK_S)
    parts = blocks(found, bursts)
    changed = change(parts)
    rows = []
    for name, latencies in (
        ("beside a burst", np.concatenate([part.beside for part in parts])),
        ("apart from it", np.concatenate([part.apart for part in parts])),
    ):
        quantiles = [f"{1e3 * np.quantile(latencies, q):.2f} ms" for q in (0.5, 0.95, 0.99)]
        rows.append((name, len(latencies), *quantiles))
    report.show_table(rows, header=("", "requests", "p50", "p95", "p99"))
    samples = sum(len(burst.samples) for burst in bursts)
    print(f"\n{len(bursts)} bursts, {samples} requests of the canary")
    print(f"p99 of all over p99 without bursts: {changed}")
    figures = {
        "p99_change_percent": changed.percent,
        "low": changed.low,
        "high": changed.high,
        "bursts": len(bursts),
        "canary_requests": samples,
        "table": rows,
    }
    return report.Report(name="effect", figures=figures, goals=[changed.goal("change of the traffic's p99")])


if __name__ == "__main__":
    report.main(run, describe, __doc__)
