"""Records the latencies of `regressing_server.py` as the daemon's own canary measures them, its control beside each.

A burst each EVERY_S stands for one a minute, and so the files say. On a contended host other processes burn the cores
in blocks of 6 to 15 bursts; a shared one is left to whoever else is there. The change comes at a random burst, 120 to
200 after the baseline. `python -m benchmarks.regression_recorder [SEED...]`: two to three minutes a trace.

In each folder: SEED.csv.gz in the format of `watchdog replay` (load: CPU seconds a second of the server's process while
the burst waited), SEED.host.csv.gz with what the host said of each burst, and index.json.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from benchmarks import report
from benchmarks.regressing_server import TOKENS, WIDTH
from benchmarks.watched import TICKS, Child, answers, free_port, wait_until
from probes.canary.burst import CanaryPlan
from probes.canary.http import HttpCanary
from probes.expectation import Expectation
from probes.messages import Burst, Family
from probes.process import ProcessSpec, WorkerWatch
from probes.taint import OwnDelay

SERVER = Path(__file__).with_name("regressing_server.py")
FOLDER = Path(__file__).with_name("data") / "detection"
EVERY_S, STANDS_FOR_S = 0.35, 60.0
SIZE, BASELINE, JUDGED = 10, 60, 310  # requests a burst; bursts
ONSET = (120, 200)  # bursts after the baseline
QUIET_MEAN, BLOCK, BURNERS = 40, (6, 15), (1, 2)  # of the contention: bursts, bursts, processes
SLOW_SHARE, SLOW_RISE = 0.12, 0.5  # of the requests take the slow path of a tail change, and are so much slower
TRIED_BLOCKS, TRIES = 24, 15
COLUMNS = ("time", "latency_s", "ok", "reason", "burst", "control_s", "load", "worker")
HOST_COLUMNS = ("burst", "burners", "took_s", "steal_s", "idle_s", "pressure_s", "server_delay_s", "server_cpu_s")
BURN = "block = bytearray(4_000_000)\nwhile True:\n    for i in range(0, len(block), 64): block[i] ^= 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One trace to record. host: "contended" or "shared". change: "none", "+20 %", "+30 %" or "p95 only"."""

    seed: int
    host: str
    change: str

    @property
    def tuning(self) -> bool:
        """Whether detectors may be tuned on it; the others are for reports alone."""
        return self.seed < len(SEEN)

    @property
    def rise(self) -> float:
        """Of a slow request, as a fraction."""
        if self.change == "none":
            return 0.0
        return SLOW_RISE if self.change == "p95 only" else float(self.change[1:-2]) / 100

    @property
    def share(self) -> float:
        """Of the requests that are slower after the change."""
        return SLOW_SHARE if self.change == "p95 only" else 1.0


SEEN = (
    *[("contended", change) for change in ("none", "+20 %", "p95 only", "+30 %", "none", "+20 %") for _ in range(2)],
    *[("contended", change) for change in ("none", "none", "+30 %", "p95 only")],
    *[("shared", change) for change in ("none", "+20 %", "+30 %", "none", "+20 %", "none")],
)
FRESH = (
    *[("contended", change) for change in ("+20 %", "none", "+30 %", "+20 %", "none", "+30 %", "+20 %", "p95 only")],
    *[("shared", change) for change in ("+20 %", "none", "+30 %", "+20 %")],
)
PLANS = tuple(Plan(seed=seed, host=host, change=change) for seed, (host, change) in enumerate((*SEEN, *FRESH)))


def contention(rng: random.Random, bursts: int) -> list[int]:
    """How many processes burn the cores during each burst: quiet and busy by turns, quiet first."""
    found: list[int] = []
    while len(found) < bursts:
        found += [0] * (int(rng.expovariate(1 / QUIET_MEAN)) + 1)
        found += [rng.randint(*BURNERS)] * rng.randint(*BLOCK)
    return found[:bursts]


def rows_of(number: int, burst: Burst) -> list[tuple[str | int, ...]]:
    """The burst's cells for COLUMNS, as one of a minute each; what our own delay may have tainted is left out."""
    load = "" if burst.worker_cpu is None else f"{burst.worker_cpu:.3f}"
    return [
        (
            f"{number * STANDS_FOR_S + s.at - burst.at:.3f}",
            "" if s.latency_s is None else f"{s.latency_s:.6f}",
            int(s.outcome.family is Family.GOOD),
            s.outcome,
            number,
            "" if s.control_s is None else f"{s.control_s:.6f}",
            load,
            s.life or "",
        )
        for s in burst.samples
        if not s.tainted
    ]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Compressed; the same rows always make the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


class Served:
    """The server, its canary, and the processes that burn its cores; all end with the stack."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        port, pid_file = free_port(), folder / "pid"
        url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, str(SERVER), "--port", str(port), "--pid-file", str(pid_file)]
        self._server = stack.enter_context(Child(argv, log=folder / "server.log"))
        argv = [sys.executable, "-c", BURN]
        self._burners = [stack.enter_context(Child(argv, log=folder / "burner.log")) for _ in range(BURNERS[1])]
        self.burn(0)
        own_delay = OwnDelay(monotonic=time.perf_counter)
        own_delay.start()
        stack.callback(own_delay.stop)
        self._client = stack.enter_context(httpx.Client(base_url=url, trust_env=False))
        self._body = np.random.default_rng(0).standard_normal((TOKENS, WIDTH), dtype=np.float32).tobytes()
        self._canary = HttpCanary(
            target="recorded",
            name="predict",
            plan=CanaryPlan(interval_s=STANDS_FOR_S, timeout_s=5.0, size=SIZE, warmup=1, max_busy=0.01),
            expectation=Expectation(json_path="label"),
            method="POST",
            url=f"{url}/predict",
            headers={},
            body=self._body,
            content_type="application/octet-stream",
            control_url=f"{url}/gemm",
            workers=WorkerWatch(ProcessSpec(pid_file=pid_file, workers="self"), target="recorded"),
            now=time.time,
            monotonic=time.perf_counter,
            own_delay_s=own_delay,
        )
        wait_until(lambda: answers(port), "the server listens")

    def burst(self) -> Burst:
        return self._canary.burst(size=SIZE)

    def burn(self, count: int) -> None:
        """Let so many of the burners run from now on."""
        for number, burner in enumerate(self._burners):
            burner.process.send_signal(signal.SIGCONT if number < count else signal.SIGSTOP)

    def switch(self, blocks: int, share: float = 1.0) -> None:
        self._client.post("/switch", params={"blocks": blocks, "share": share}).raise_for_status()

    def cost_s(self) -> float:
        """CPU seconds of the server for a request, each after a control: what is in the caches counts."""
        spent_s = 0.0
        for _ in range(SIZE):
            self._client.get("/gemm").raise_for_status()
            before_s = self.look()[-1]
            self._client.post("/predict", content=self._body).raise_for_status()
            spent_s += self.look()[-1] - before_s
        return spent_s / SIZE

    def look(self) -> tuple[float, ...]:
        """Counters in seconds: steal and idle of all cores, pressure on them, delay and CPU of the server's threads."""
        cpu = Path("/proc/stat").read_text().split(maxsplit=9)
        pressure = Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]
        tasks = Path(f"/proc/{self._server.process.pid}/task").glob("*/schedstat")
        spent = [[int(cell) / 1e9 for cell in task.read_text().split()[:2]] for task in tasks]
        ran_s, waited_s = (sum(column) for column in zip(*spent, strict=True))
        return int(cpu[8]) / TICKS, int(cpu[4]) / TICKS, int(pressure) / 1e6, waited_s, ran_s


def calibrate(served: Served, rise: float) -> tuple[int, float]:
    """(blocks that make a request so much slower, the rise that was measured with them), in CPU time of the server.

    That hardly depends on who else wants the cores.
    """
    blocks = round(TRIED_BLOCKS * rise / _rise(served, TRIED_BLOCKS))
    return blocks, _rise(served, blocks)


def _rise(served: Served, blocks: int) -> float:
    """Of the CPU time of a request with so many blocks over one without, taken in turns; as a fraction."""
    spent: dict[int, list[float]] = {0: [], blocks: []}
    for _ in range(TRIES):
        for extra, each in spent.items():
            served.switch(extra)
            each.append(served.cost_s())
    served.switch(0)
    return median(spent[blocks]) / median(spent[0]) - 1


def record(plan: Plan, folder: Path) -> dict[str, object]:
    """Write the two files of one trace; what the index says of it. onset: the first burst after the change, from 0."""
    rng = random.Random(plan.seed)
    total, onset = BASELINE + JUDGED, BASELINE + rng.randint(*ONSET)
    burners = contention(rng, total) if plan.host == "contended" else [0] * total
    rows: list[tuple[str | int, ...]] = []
    host: list[tuple[object, ...]] = []
    with ExitStack() as stack:
        served = Served(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)
        blocks, rise = calibrate(served, plan.rise) if plan.rise else (0, 0.0)
        due = time.perf_counter()
        for number, count in enumerate(burners):
            served.burn(count)
            if blocks and number == onset:
                served.switch(blocks, plan.share)
            due = max(due + EVERY_S, time.perf_counter())  # after a long burst the next ones come no sooner
            time.sleep(max(0.0, due - time.perf_counter()))
            before, began = served.look(), time.perf_counter()
            burst = served.burst()
            took_s, after = time.perf_counter() - began, served.look()
            rows += rows_of(number, burst)
            changes = (f"{b - a:.4f}" for a, b in zip(before, after, strict=True))
            host.append((number, count, f"{took_s:.4f}", *changes))
    write_csv(folder / f"{plan.seed:02}.csv.gz", COLUMNS, rows)
    write_csv(folder / f"{plan.seed:02}.host.csv.gz", HOST_COLUMNS, host)
    return {
        **asdict(plan),
        "tuning": plan.tuning,
        "onset": onset if blocks else None,
        "blocks": blocks,
        "measured_rise": round(rise, 3),
        "left_out": SIZE * total - len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="*", help="of the traces to record; all without one")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--note", default="", help="about the machine, for the index")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else server and burners would go on
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "index.json"
    index = json.loads(path.read_text()) if path.exists() else {"traces": []}
    about = {"machine": report.machine(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "note": options.note}
    for plan in PLANS:
        if options.seed and plan.seed not in options.seed:
            continue
        trace = record(plan, options.folder)
        kept = [each for each in index["traces"] if each["seed"] != plan.seed]
        index = {
            **about,
            "every_s": EVERY_S,
            "baseline": BASELINE,
            "traces": sorted([*kept, trace], key=lambda each: int(each["seed"])),
        }
        path.write_text(json.dumps(index, indent=1) + "\n")
        print(json.dumps(trace), flush=True)


if __name__ == "__main__":
    main()
