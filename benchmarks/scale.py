"""How many targets one core can watch: lateness, CPU and memory from 1 to 2,000 targets at default settings.

The daemon is pinned to one core; the server that answers, about 10 ms a request, to another.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import report
from benchmarks.watched import Daemon, PacedServer, histogram_quantile, scratch_folder, target, wait_until

LATENESS = "watchdog_probe_lateness_seconds"
PROMISED = 1_000  # targets


def measure(number: int, seconds: float) -> dict[str, float]:
    """One daemon with so many targets: warm up for one interval, then look for so many seconds."""
    with scratch_folder() as path, PacedServer(Path(path), median_ms=10.0, core=1) as server:
        targets = [target(f"target-{i}", server.url(f"target-{i}")) for i in range(number)]
        with Daemon(Path(path), targets, core=0).wait_ready() as daemon:
            wait_until(lambda: daemon.total("watchdog_probe_lateness_seconds_count") >= number, "each had a burst", 180)
            before, cpu_before, began = daemon.metrics(), daemon.cpu_s(), time.monotonic()
            time.sleep(seconds)
            after, cpu_s, took_s = daemon.metrics(), daemon.cpu_s() - cpu_before, time.monotonic() - began
            bursts = after[f"{LATENESS}_count"] - before[f"{LATENESS}_count"]
            began = time.monotonic()
            daemon.metrics()
            return {
                "targets": number,
                "bursts": bursts,
                "bursts_due": number * took_s / 60.0,
                "lateness_p50_s": histogram_quantile(after, LATENESS, 0.5, since=before),
                "lateness_p99_s": histogram_quantile(after, LATENESS, 0.99, since=before),
                "core_share": cpu_s / took_s,
                "cpu_per_burst_ms": 1e3 * cpu_s / max(1.0, bursts),
                "resident_mib": daemon.memory_mib(),
                "threads": daemon.threads(),
                "results_waiting": after["watchdog_results_queued"],
                "scrape_s": time.monotonic() - began,
                "database_mib": sum(f.stat().st_size for f in Path(path).glob("watchdog.db*")) / 2**20,
            }


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """The curve as a picture."""
    import matplotlib as mpl  # noqa: PLC0415  (only for the picture)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    targets = [row["targets"] for row in rows]
    for axis, (key, label) in zip(
        axes,
        (("core_share", "share of one core"), ("resident_mib", "resident MiB"), ("lateness_p99_s", "lateness p99, s")),
        strict=True,
    ):
        axis.plot(targets, [row[key] for row in rows], marker="o")
        axis.set(xlabel="targets, each 10 requests every 60 s", ylabel=label, xscale="log", ylim=(0, None))
        axis.grid(visible=True, alpha=0.3)
    figure.savefig(path)


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 10, 100, 500, 1000, 2000])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look, after each had its first burst")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")


def run(options: argparse.Namespace) -> report.Report:
    rows = []
    for number in options.targets:
        rows.append(measure(number, options.seconds))
        print(" ".join(f"{key}={value:.4g}" for key, value in rows[-1].items()), flush=True)
    print()
    report.show_table(
        [
            (
                f"{row['targets']:.0f}",
                f"{100 * row['core_share']:.1f} %",
                f"{row['cpu_per_burst_ms']:.1f} ms",
                f"{row['resident_mib']:.0f} MiB",
                f"<= {1e3 * row['lateness_p50_s']:.0f} ms",
                f"<= {1e3 * row['lateness_p99_s']:.0f} ms",
                f"{row['results_waiting']:.0f}",
                f"{row['threads']:.0f}",
                f"{1e3 * row['scrape_s']:.0f} ms",
            )
            for row in rows
        ],
        header=("targets", "core", "CPU/burst", "resident", "late p50", "late p99", "queued", "threads", "/metrics"),
    )
    if options.picture:
        draw(rows, options.picture)
    goals = []
    for row in rows:
        if row["targets"] == PROMISED:
            goals.append(report.at_most("lateness p99 with 1,000 targets", row["lateness_p99_s"], 1.0, "s"))
            goals.append(report.at_most("CPU with 1,000 targets", row["core_share"], 1.0, "cores"))
            done = row["bursts"] / row["bursts_due"]
            goals.append(report.at_least("bursts done of those due", done, 0.98, ""))
    return report.Report(name="scale", figures={"curve": rows}, goals=goals)


if __name__ == "__main__":
    report.main(run, describe, __doc__)
