"""What canaries cost the server: the p99 of real traffic with and without them, paired, in one run.

Two equal PyTorch servers get the same requests at the same moments. One of them is watched at default settings, then
the other: what differs between the servers or changes with time cancels out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import report
from benchmarks.watched import HERE, Child, Daemon, answers, free_port, scratch_folder, wait_until

SERVER = HERE.parent / "watchdog" / "demo" / "server.py"
RATE = 40.0  # requests a second: a quarter of what one server can do
BLOCK_S = 60.0  # one burst of the canary falls into each block
TOKENS = list(range(24))
LIMIT_PERCENT = 1.0
KEEP_ALIVE_S = 3.0  # uvicorn closes a connection that was idle for five seconds


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


async def drive(clients: list[Client], seconds: float, seed: int) -> list[list[tuple[float, float]]]:
    """(moment, latency) of each request, by client; both get each request at the same moment."""
    rng, loop, began = random.Random(seed), asyncio.get_running_loop(), time.perf_counter()
    found: list[list[tuple[float, float]]] = [[] for _ in clients]
    tasks: set[asyncio.Task[None]] = set()

    async def one(which: int, moment: float) -> None:
        found[which].append((moment, await clients[which].ask()))

    moment = 0.0
    while (moment := moment + rng.expovariate(RATE)) < seconds:
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        order = [0, 1] if rng.random() < 0.5 else [1, 0]
        for which in order:
            task = loop.create_task(one(which, moment))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return found


def configuration(port: int) -> str:
    """Default settings: what a user who wrote down nothing but the address gets."""
    return (
        f'[[target]]\nname = "watched"\ndevice = "cpu"\n[[target.canary]]\nurl = "http://127.0.0.1:{port}/predict"\n'
        f"json = {{ tokens = {TOKENS} }}\n[target.canary.expect]\njson_path = 'embedding'\n"
    )


def blocks(found: list[tuple[float, float]], seconds: float) -> list[list[float]]:
    """Latencies of each block of the run."""
    parts: list[list[float]] = [[] for _ in range(max(1, math.floor(seconds / BLOCK_S)))]
    for moment, latency in found:
        if (which := int(moment // BLOCK_S)) < len(parts):
            parts[which].append(latency)
    return parts


def p99_ratio(pairs: list[tuple[list[list[float]], list[list[float]]]]) -> float:
    """Geometric mean over the halves of the run of p99 watched / p99 alone."""
    logs = [math.log(np.quantile(np.concatenate(w), 0.99) / np.quantile(np.concatenate(a), 0.99)) for w, a in pairs]
    return math.exp(sum(logs) / len(logs))


def interval(pairs: list[tuple[list[list[float]], list[list[float]]]]) -> tuple[float, float]:
    """95 % of a bootstrap over blocks, the two servers' blocks of one moment kept together."""
    rng = random.Random(0)
    ratios = []
    for _ in range(500):
        drawn = []
        for watched, alone in pairs:
            picks = rng.choices(range(len(watched)), k=len(watched))
            drawn.append(([watched[i] for i in picks], [alone[i] for i in picks]))
        ratios.append(p99_ratio(drawn))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=int, default=5, help="for each half")


def run(options: argparse.Namespace) -> report.Report:
    seconds = options.minutes * BLOCK_S
    pairs = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(scratch_folder()))
        ports = [free_port(), free_port()]
        for which, port in enumerate(ports):
            argv = [sys.executable, str(SERVER), "--port", str(port)]
            stack.enter_context(Child(argv, log=folder / f"server-{which}.log"))
        for port in ports:
            wait_until(lambda port=port: answers(port), "the server listens")  # type: ignore[misc]
        for which, port in enumerate(ports):
            home = folder / str(which)
            home.mkdir()
            clients = [Client(p) for p in ports]
            asyncio.run(drive(clients, 5.0, seed=99))  # warm
            with Daemon(home, [configuration(port)]).wait_ready():
                found = asyncio.run(drive([Client(p) for p in ports], seconds, seed=which))
            pairs.append((blocks(found[which], seconds), blocks(found[1 - which], seconds)))
    ratio, (low, high) = p99_ratio(pairs), interval(pairs)
    rows = []
    for which, (watched, alone) in enumerate(pairs):
        for name, parts in (("watched", watched), ("alone", alone)):
            pooled = np.concatenate(parts)
            quantiles = [f"{1e3 * np.quantile(pooled, q):.2f} ms" for q in (0.5, 0.95, 0.99)]
            rows.append((f"half {which + 1}", name, len(pooled), *quantiles))
    report.show_table(rows, header=("", "server", "requests", "p50", "p95", "p99"))
    percent, bounds = 100 * (ratio - 1), (100 * (low - 1), 100 * (high - 1))
    print(f"\np99 watched over alone: {percent:+.2f} % (95 % interval {bounds[0]:+.2f} to {bounds[1]:+.2f} %)")
    goal = report.Goal(
        name="change of the traffic's p99",
        goal=f"<= {LIMIT_PERCENT:g} %",
        value=f"{percent:+.2f} % ({bounds[0]:+.2f} to {bounds[1]:+.2f})",
        met=True if bounds[1] <= LIMIT_PERCENT else False if bounds[0] > LIMIT_PERCENT else None,
    )
    figures = {"p99_change_percent": percent, "low": bounds[0], "high": bounds[1], "table": rows}
    return report.Report(name="effect", figures=figures, goals=[goal])


if __name__ == "__main__":
    report.main(run, describe, __doc__)
