"""Leaks of a real server, and what only looks like them, as recorded: `leaking_server.py` for an hour, in each variant.

The recordings in data/leaks are judged as by a daemon whose times are all SPEED times shorter, beside the usual rules,
which take the hour for a day in the same way. --record makes the recordings anew: an hour, a tenth of a core.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from baselines.leak import LeakPolicy, LeakWatch
from baselines.quantiles import Floats
from baselines.recording import read_memory_csv
from baselines.verdict import Status, Verdict
from benchmarks import report
from benchmarks.leak_recorder import EVERY_S, record
from benchmarks.leak_rules import RULES
from benchmarks.leak_series import LIMIT_MB, STEP_MIN
from probes.messages import MemorySample

MB = 1e6
RECORDINGS = Path(__file__).with_name("data") / "leaks"
SPEED = STEP_MIN * 60 / EVERY_S  # 24: the rules want a sample every half minute


def accelerated(speed: float) -> LeakPolicy:
    """The default policy with all its times so many times shorter."""
    usual = LeakPolicy()
    return LeakPolicy(
        horizon_s=usual.horizon_s / speed,
        urgent_s=usual.urgent_s / speed,
        warmup_s=usual.warmup_s / speed,
        window_s=usual.window_s / speed,
    )


POLICY = replace(accelerated(SPEED), capacity_bytes=int(LIMIT_MB * MB))

LEAKS: Mapping[str, str] = {
    "references": "leak: outputs kept in a list",
    "graphs": "leak: autograd graphs kept",
    "cache": "leak: a cache without a bound",
}
HARMLESS: Mapping[str, str] = {
    "healthy": "none: a cache that is soon full",
    "resized_cache": "none: the same, enlarged by a third",
    "shapes_limited": "none: any shape, caches limited",
}
BETWEEN: Mapping[str, str] = {
    "slow_cache": "none: a cache that is full in the end",
    "shapes": "nothing kept: any shape",
    "shapes_slowly": "nothing kept: new shapes now and then",
}
"""Growth that a person would want to know of and that is no leak of the model's: said, not counted."""


@dataclass(frozen=True, slots=True)
class Series:
    """One recording. kept: what the server said it held that it should not, bytes at each sample."""

    points: tuple[MemorySample, ...]
    kept: Floats

    def kept_slope(self, begin: float, end: float) -> float:
        """Bytes a second between two times."""
        times = [p.at for p in self.points]
        first, last = np.interp([begin, end], times, self.kept)
        return float(last - first) / (end - begin)


@dataclass(frozen=True, slots=True)
class Judged:
    """told: the first WORSE verdict; over: the first that is not after it, None while it stands; last: the last one."""

    told: Verdict | None
    over: Verdict | None
    last: Verdict


def read(variant: str, folder: Path = RECORDINGS) -> Series:
    """Raises OSError without a recording, ReplayError for a bad one."""
    lines = (folder / f"{variant}.csv").read_text().splitlines(keepends=True)
    kept = [float(row["kept_bytes"]) for row in csv.DictReader(lines)]
    return Series(read_memory_csv(lines).points, np.array(kept))


def judge(points: Sequence[MemorySample], policy: LeakPolicy = POLICY) -> Judged:
    """As a daemon would, sample by sample. There must be one."""
    watch, due = LeakWatch(policy), 0.0
    told = over = None
    for point in points:
        watch.take([point])
        if point.at < due:
            continue
        due = point.at + policy.judge_every_s
        verdict = watch.judge(now=point.at)
        if verdict.status is Status.WORSE:
            told, over = told or verdict, None
        elif told is not None and over is None:
            over = verdict
    return Judged(told, over, watch.judge(now=points[-1].at))


def naive(series: Series) -> dict[str, float | None]:
    """Minute of the recording in which each rule of the trade first alarms; None: never."""
    memory = np.array([point.host_anon_bytes or 0 for point in series.points]) / MB
    alarms = {name: rule(memory) for name, rule in RULES.items()}
    return {name: None if at is None else at / SPEED for name, at in alarms.items()}


def slope_against(series: Series, verdict: Verdict | None) -> tuple[float, float] | None:
    """MB a minute as told, and as the server counted over the same window; None unless it is called a leak.

    The server counts tensors alone: what holds them (list and dictionary entries, nodes of a graph, the allocator's
    rounding) grows too, so the first should be somewhat above the second.
    """
    if verdict is None or verdict.status is not Status.WORSE or verdict.since is None:
        return None
    told = float(verdict.evidence["slope_bytes_per_hour"] or np.nan) / 60
    return told / MB, series.kept_slope(verdict.since, verdict.at) * 60 / MB


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--record", action="store_true", help="make the recordings first")
    parser.add_argument("--seconds", type=float, default=3600.0, help="length of the recordings")
    parser.add_argument("--seed", type=int, default=7, help="of the network and of the clients")
    parser.add_argument("--folder", type=Path, default=RECORDINGS)
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")


def run(options: argparse.Namespace) -> report.Report:
    truths = {**LEAKS, **HARMLESS, **BETWEEN}
    if options.record:
        record(tuple(truths), options.folder, seconds=options.seconds, seed=options.seed)
    recordings = {variant: read(variant, options.folder) for variant in truths}
    verdicts = {variant: judge(series.points) for variant, series in recordings.items()}
    rows = [(v, truth, *_cells(recordings[v], verdicts[v])) for v, truth in truths.items()]
    header = ("variant", "truth", "ours", "over", "MB/min told (counted)", "in the end", *RULES)
    print("\nminute of the first alarm")
    report.show_table(rows, header=header)
    if options.picture:
        _draw(recordings, verdicts, options.picture)
    goals = [
        report.at_least("leaks found", sum(verdicts[v].told is not None for v in LEAKS), len(LEAKS), "", digits=0),
        report.at_most("harmless called leaking", sum(verdicts[v].told is not None for v in HARMLESS), 0, "", digits=0),
    ]
    return report.Report(name="leak_recorded", figures={"header": header, "rows": rows}, goals=goals)


def _cells(series: Series, judged: Judged) -> tuple[str, ...]:
    ours = (_minute(each.at if each else None) for each in (judged.told, judged.over))
    slopes = (_slopes(slope_against(series, each)) for each in (judged.told, judged.last))
    return *ours, *slopes, *(_minute(None if at is None else at * 60) for at in naive(series).values())


def _minute(at_s: float | None) -> str:
    return "-" if at_s is None else f"{at_s / 60:.1f}"


def _slopes(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{found[0]:.1f} ({found[1]:.1f})"


def _draw(recordings: Mapping[str, Series], verdicts: Mapping[str, Judged], path: Path) -> None:
    """Memory over the hour, one panel a variant; red from the alarm on, until it is over."""
    from matplotlib import pyplot  # noqa: PLC0415  # an extra of the benchmarks

    figure, panels = pyplot.subplots(3, 3, figsize=(12, 7), sharex=True)
    for panel, (variant, series) in zip(panels.flat, recordings.items(), strict=True):
        points = series.points[::12]
        panel.plot([p.at / 60 for p in points], [(p.host_anon_bytes or 0) / MB for p in points], linewidth=1)
        judged = verdicts[variant]
        if judged.told is not None:
            end = judged.over.at if judged.over else series.points[-1].at
            panel.axvspan(judged.told.at / 60, end / 60, color="red", alpha=0.12)
        panel.set_title(variant, fontsize=9)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.supxlabel("minutes")
    figure.supylabel("RssAnon, MB")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    report.main(run, describe, __doc__)
