"""The daemon as a real process among faults, a metronome as the control for its rhythm, a receiver gone wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
from daemon_stage import Stage, wait_until
from prometheus_client.parser import text_string_to_metric_families

LATENESS = "watchdog_probe_lateness_seconds_bucket"
LATENESS_GOAL_S = 0.05
LOOK_S = 0.33
ENOUGH_RUNS = 120  # for a p99 that is not the one worst of a few

METRONOME = """
import queue, sys, threading, time
late, due, over, handed, paused = [], time.monotonic(), threading.Event(), queue.SimpleQueue(), 0.0

def take():
    while (at := handed.get()) is not None:
        late.append(time.monotonic() - at)

taker = threading.Thread(target=take)
taker.start()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.is_set():
    slept, due = time.monotonic(), due + 0.02
    time.sleep(max(0.0, due - slept))
    overslept = time.monotonic() - max(due, slept)
    paused += overslept if overslept > 0.1 else 0.0
    handed.put(due)
handed.put(None)
taker.join()
late.sort()
print(late[int(0.99 * (len(late) - 1))], paused)
"""


@dataclass
class Machine:
    """What a process saw that only sleeps: the p99 of being late, and the seconds of all pauses above 0.1 s."""

    p99_s: float = 0.0
    paused_s: float = 0.0


@contextmanager
def metronome() -> Iterator[Machine]:
    """A process that sleeps to a rhythm while the block runs; what came of it is known afterwards.

    One thread wakes up and hands over to another, as any schedule does. Nothing else: its lateness is the machine's.
    Of a pause each wake-up that fell into it counts, by its own lateness.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", METRONOME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    machine = Machine()
    try:
        yield machine
        said, _ = child.communicate(timeout=20)
        machine.p99_s, machine.paused_s = map(float, said.split())
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(10)


@dataclass
class FaultStage(Stage):
    """A stage that reads the daemon's own figures."""

    _pause: threading.Event = field(default_factory=threading.Event)
    _looked_at: float = 0.0

    def rest(self) -> None:
        """Until the next look is due, three times a second at most: looking must not disturb what is looked at."""
        self._pause.wait(max(0.0, self._looked_at + LOOK_S - time.monotonic()))

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample by name and labels."""
        self.rest()
        self._looked_at = time.monotonic()
        answer = self.get("/metrics")
        assert answer is not None
        families = text_string_to_metric_families(answer.text)
        return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}

    def value(self, name: str, **labels: str) -> float:
        """The sum over the samples of this name with these labels."""
        wanted = set(labels.items())
        return sum(v for (each, have), v in self.metrics().items() if each == name and wanted <= have)

    def health(self) -> dict[str, Any]:
        answer = self.get("/healthz")
        assert answer is not None
        found: dict[str, Any] = answer.json()
        return found | {"status": answer.status_code}

    def notes(self) -> list[str]:
        """Those of /healthz, but for the one that a pause of the machine makes: that probes were late."""
        return [note for note in self.health()["notes"] if not note.startswith("of the probes of the last minute")]

    def lateness(self) -> dict[float, float]:
        """Cumulative counts of the lateness histogram by upper bound."""
        return {float(dict(labels)["le"]): v for (name, labels), v in self.metrics().items() if name == LATENESS}

    def beats(self) -> str:
        """Two targets that are well and asked ten times a second: their rhythm is what has to be kept.

        Without a baseline their latency is not judged: on a machine busy with other tests it may well get worse.
        """
        port = self.start_server("beat")
        return "".join(
            f"""
[[target]]
name = "beat-{number}"
device = "cpu"
auto_baseline = false
[[target.canary]]
url = "http://127.0.0.1:{port}/predict"
json = [1]
interval = "100ms"
timeout = "5s"
max_busy = 1.0
burst = 1
warmup = 0
[target.canary.expect]
json_path = "numbers"
"""
            for number in (1, 2)
        )

    @contextmanager
    def keeping_time(self) -> Iterator[None]:
        """While the block runs, 99 of 100 probes start within 50 ms and what the machine itself was late.

        Goes on for ENOUGH_RUNS of them: watch `beats()`.
        """
        before = self.lateness()
        infinite = float("inf")
        with metronome() as machine:
            yield
            enough = before[infinite] + ENOUGH_RUNS
            wait_until(lambda: self.lateness()[infinite] >= enough, "enough probes to speak of a p99")
        after = self.lateness()
        p99_s = quantile({bound: after[bound] - before[bound] for bound in after}, 0.99)
        assert p99_s <= LATENESS_GOAL_S + machine.p99_s, (
            f"p99 {p99_s:.3f} s; a process that only sleeps: {machine.p99_s:.3f} s"
        )

    def count(self, where: str = "1") -> int:
        """Stored bursts."""
        return int(self.rows(f"select count(*) from bursts where {where}")[0][0])

    def wait_for_bursts(self, more: int, where: str = "1") -> None:
        have = self.count(where)
        wait_until(lambda: self.count(where) >= have + more, f"{more} more bursts where {where}")

    def resident_bytes(self, child: subprocess.Popen[bytes]) -> int:
        return int(psutil.Process(child.pid).memory_info().rss)

    def end(self, daemon: subprocess.Popen[bytes]) -> int:
        """SIGTERM; the exit code."""
        daemon.terminate()
        return daemon.wait(20)


def quantile(cumulative: dict[float, float], q: float) -> float:
    """Of a Prometheus histogram, linear within a bucket; the last finite bound when it lies above. 0 when empty."""
    bounds = sorted(cumulative)
    total = cumulative[bounds[-1]]
    rank, lower, below = q * total, 0.0, 0.0
    for bound in bounds:
        if cumulative[bound] >= rank > 0:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / max(1e-9, cumulative[bound] - below)
        lower, below = bound, cumulative[bound]
    return 0.0
