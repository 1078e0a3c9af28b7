"""What the agent costs the process it is in: time a request, memory, and what it does while nobody asks.

Time is paired: the same call with and without the middleware, block by block in turns within one process, so that the
machine's noise cancels. Memory is private memory before and after, in processes that had loaded what a real server
has; a bare interpreter, which has none of it yet, is shown beside. Without a daemon it is looked at for a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import report
from benchmarks.watched import HERE, scratch_folder, wait_until
from probes.agent import AgentClient, AgentSpec
from probes.messages import Life
from probes.process import life_of

ASKED = 100
IDLE_S = 65.0  # the agent looks after its socket once a minute


@contextmanager
def host(*argv: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.agent_host", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def agent_of(process: subprocess.Popen[str], folder: str) -> tuple[AgentClient, Life]:
    life = life_of(process.pid)
    assert life is not None
    client = AgentClient(AgentSpec(folder=Path(folder)), monotonic=time.monotonic)
    wait_until(lambda: client.ask([life])[life].report, "the agent answers")
    return client, life


def per_request() -> dict[str, dict[str, float]]:
    """Microseconds more for each kind of request: the median over the blocks, and their quartiles."""
    with scratch_folder() as folder, host("requests", folder) as process:
        blocks: dict[str, list[float]] = json.loads(said(process))
    return {
        name: {"median_us": median(took), "low_us": quantiles(took, n=4)[0], "high_us": quantiles(took, n=4)[2]}
        for name, took in blocks.items()
    }


def memory(kind: str, rounds: int) -> dict[str, Any]:
    """KiB more, the median over processes; and what one question and one trim take there, in milliseconds."""
    found: list[dict[str, float]] = []
    asked_ms: list[float] = []
    trim_ms: dict[str, list[float]] = {}
    for _ in range(rounds):
        with scratch_folder() as folder, host("memory", folder, kind) as process:
            assert said(process) == "ready"
            client, life = agent_of(process, folder)
            for _ in range(ASKED):
                began = time.perf_counter()
                assert client.ask([life])[life].report is not None
                asked_ms.append(1000 * (time.perf_counter() - began))
            go_on(process)
            assert said(process) == "asked"
            trimmed = client.trim(life).trimmed
            assert trimmed is not None
            for step in trimmed.steps:
                trim_ms.setdefault(step.name, []).append(1000 * step.took_s)
            go_on(process)
            found.append(json.loads(said(process)))
    return {
        **{key: median(each[key] for each in found) for key in found[0]},
        "question_ms": median(asked_ms),
        "trim_ms": {name: median(took) for name, took in trim_ms.items()},
    }


def left_alone(seconds: float) -> dict[str, float]:
    """CPU of the agent's thread, and how often it woke, in that time without a daemon."""
    with scratch_folder() as folder, host("idle", folder) as process:
        assert said(process) == "ready"
        agent_of(process, folder)
        (thread,) = [t for t in Path(f"/proc/{process.pid}/task").iterdir() if t.name != str(process.pid)]
        before = _used(thread)
        time.sleep(seconds)
        cpu_s, wakes = (after - had for after, had in zip(_used(thread), before, strict=True))
    return {"seconds": seconds, "cpu_us": cpu_s * 1e6, "wakes": wakes, "percent_of_a_core": 100 * cpu_s / seconds}


def _used(thread: Path) -> tuple[float, int]:
    """CPU seconds, to the nanosecond, and voluntary switches."""
    cpu_s = int((thread / "schedstat").read_text().split()[0]) / 1e9
    return cpu_s, int((thread / "status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="processes whose memory is compared")
    parser.add_argument("--seconds", type=float, default=IDLE_S, help="how long it is left alone")


def run(options: argparse.Namespace) -> report.Report:
    requests = per_request()
    kinds = {kind: memory(kind, options.rounds) for kind in ("server", "bare")}
    alone = left_alone(options.seconds)
    rows = [(name, *(f"{value:.2f}" for value in took.values())) for name, took in requests.items()]
    report.show_table(rows, header=("us more a request", "median", "quartile", "quartile"))
    for kind, found in kinds.items():
        print(f"{kind}: {found['asked_kib']:.0f} KiB more than {found['whole_kib']:.0f},", end=" ")
        print(f"a question takes {found['question_ms']:.2f} ms, a trim {found['trim_ms']}")
    print(f"left alone for {alone['seconds']:.0f} s: {alone['cpu_us']:.0f} us of CPU, {alone['wakes']} wakes")
    worst = max(took["median_us"] for name, took in requests.items() if name in ("ASGI", "WSGI", "watching()"))
    goals = [
        report.at_most("a request through the middleware (aim 5 us)", worst, 20, "us"),
        report.at_most("resident memory in a server", kinds["server"]["asked_kib"] / 1024, 2, "MiB"),
        report.at_most("without a daemon", alone["percent_of_a_core"], 0.01, "% of a core", digits=4),
    ]
    figures = {"requests": requests, "memory": kinds, "left_alone": alone}
    return report.Report(name="agent", figures=figures, goals=goals)


if __name__ == "__main__":
    report.main(run, describe, __doc__)
