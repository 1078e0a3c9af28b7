"""What the daemon itself needs: memory, start, idle CPU; and whether it grows over a week of results.

The week is simulated: bursts, memory samples, faults and restarts of workers go through the daemon's own pipeline, with
its metrics scraped and its page read, on a clock that jumps from one result to the next.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from pathlib import Path
from statistics import median

import httpx

from benchmarks import report
from benchmarks.watched import Child, Daemon, PacedServer, scratch_folder, target

TARGETS = 10
PATHS = ("/", "/metrics", "/healthz", "/api/v1/targets", "/api/v1/verdicts", "/api/v1/incidents")
WEEK = "benchmarks.footprint_week"


def start_to_first_canary(rounds: int) -> dict[str, float]:
    """Median seconds from starting the process to its first connection to the target; on a new and an old database."""
    took: dict[str, list[float]] = {"new database": [], "old database": []}
    for _ in range(rounds):
        with scratch_folder() as path, socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            for values in took.values():
                came = threading.Event()
                at: list[float] = []

                def accept(came: threading.Event = came, at: list[float] = at) -> None:
                    connection, _ = listener.accept()
                    at.append(time.perf_counter())
                    connection.close()
                    came.set()

                threading.Thread(target=accept, daemon=True).start()
                began = time.perf_counter()
                with Daemon(Path(path), [target("first", url)]):
                    if not came.wait(60):
                        raise TimeoutError((Path(path) / "daemon.log").read_text())
                values.append(at[0] - began)
    return {which: median(values) for which, values in took.items()}


def resident(seconds: float) -> dict[str, float]:
    """Ten targets at default settings, read by a browser and by Prometheus: MiB now, and the most it ever was."""
    with scratch_folder() as path, PacedServer(Path(path)) as server:
        targets = [target(f"target-{i}", server.url(f"target-{i}")) for i in range(TARGETS)]
        with Daemon(Path(path), targets).wait_ready() as daemon:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for page in PATHS:
                    httpx.get(f"http://127.0.0.1:{daemon.port}{page}", timeout=30.0).raise_for_status()
                time.sleep(5.0)
            return {"now": daemon.memory_mib(), "peak": daemon.memory_mib("VmHWM"), "threads": daemon.threads()}


def idle(seconds: float) -> float:
    """Percent of a core with one target a minute."""
    with (
        scratch_folder() as path,
        PacedServer(Path(path)) as server,
        Daemon(Path(path), [target("only", server.url("only"))]).wait_ready() as daemon,
    ):
        time.sleep(10.0)  # past the start
        before, began = daemon.cpu_s(), time.monotonic()
        time.sleep(seconds)
        return 100 * (daemon.cpu_s() - before) / (time.monotonic() - began)


def week(days: int) -> list[float]:
    """Resident MiB at the end of each simulated day."""
    with scratch_folder() as path:
        log = Path(path) / "week.log"
        with Child([sys.executable, "-m", WEEK, path, str(days)], log=log) as child:
            child.process.wait(3600)
        if child.process.returncode != 0:
            raise RuntimeError(log.read_text())
        return [float(line.split()[-1]) for line in log.read_text().splitlines() if line.startswith("day")]


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=120.0, help="for memory, and for idle CPU")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5, help="starts to take the median of")


def run(options: argparse.Namespace) -> report.Report:
    starts = start_to_first_canary(options.rounds)
    memory = resident(options.seconds)
    idle_percent = idle(options.seconds)
    days = week(options.days)
    growth = days[-1] - days[0]
    print("start to first canary:", ", ".join(f"{which} {value:.2f} s" for which, value in starts.items()))
    print(f"resident with ten targets: {memory['now']:.1f} MiB, peak {memory['peak']:.1f} MiB")
    print(f"idle: {idle_percent:.2f} % of a core")
    print("resident at the end of each day:", " ".join(f"{mib:.1f}" for mib in days))
    goals = [
        report.at_most("resident with ten targets", memory["now"], 90, "MiB", digits=1),
        report.at_most("start to first canary", max(starts.values()), 1.5, "s"),
        report.at_most("idle CPU at one target a minute", idle_percent, 0.5, "% of a core"),
        report.at_most(f"growth from the first day to day {len(days)}", growth, 1.0, "MiB"),
    ]
    figures = {"start_s": starts, "resident_mib": memory, "idle_percent": idle_percent, "day_mib": days}
    return report.Report(name="footprint", figures=figures, goals=goals)


if __name__ == "__main__":
    report.main(run, describe, __doc__)
