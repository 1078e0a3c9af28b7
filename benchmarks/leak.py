"""How well leaks are told from what only looks like them: three days of one worker, many times, beside the usual rules.

A harmless run with any alarm is a false alarm. In a leaking run the time to detect counts from the onset, and the run
ends when the memory is full. Seeds below 10,000 were used for tuning; give others.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from baselines.leak import LeakPolicy, LeakWatch
from baselines.slopes import SlopeHistory
from baselines.verdict import Level, Status
from benchmarks import report
from benchmarks.leak_rules import RULES
from benchmarks.leak_series import (
    HARMLESS,
    HOURS,
    LEAKS,
    LIMIT_MB,
    LIVES,
    STEP_MIN,
    TIMES,
    UNSEEN,
    Case,
    make,
    make_twice,
)
from probes.messages import MemorySample

MB = 1e6
OURS, PAGE, BLIND = "ours", "ours, page", "ours, load unknown"
HIDDEN = ("1 sawtooth", "1 diurnal", "1 wander", "1 warm-up")
REFERENCE = tuple(name for name in HARMLESS if name not in UNSEEN)


@dataclass(frozen=True, slots=True)
class Told:
    """The first WORSE verdict of a run. at_min: minutes from its start; slope, low, high: MB a minute."""

    at_min: float
    slope: float
    low: float
    high: float
    used_mb: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """alarms: minute of the first alarm by rule, None without one. judging_s: CPU time of ours for a judgement."""

    name: str
    case_onset: float | None
    rate: float
    end_min: float
    alarms: dict[str, float | None]
    told: Told | None
    judging_s: float


def samples(case: Case, *, with_load: bool) -> Iterator[MemorySample]:
    """As a daemon would take them; the process dies when the memory is full."""
    for at_min, used, load in zip(TIMES, case.memory_mb, case.load, strict=True):
        old = case.restart_min is None or at_min < case.restart_min
        born_min = 0.0 if old else case.restart_min or 0.0
        yield MemorySample(
            target="bench",
            slot=0,
            life="old" if old else "new",
            at=at_min * 60,
            host_anon_bytes=int(used * MB),
            capacity_bytes=int(LIMIT_MB * MB),
            uptime_s=(at_min - born_min) * 60,
            load=float(load) if with_load else None,
        )
        if used > LIMIT_MB:
            return


def follow(
    points: Iterable[MemorySample], policy: LeakPolicy, history: SlopeHistory | None = None
) -> tuple[Told | None, float | None, float]:
    """The first WORSE verdict, the minute of the first at page level, and CPU seconds for a judgement.

    history: what the first life takes over.
    """
    watch, life, due_s = LeakWatch(policy), "", 0.0
    told, paged, began, judged = None, None, time.process_time(), 0
    for point in points:
        if point.life != life:
            watch, life, due_s = LeakWatch(policy), point.life, 0.0
            watch.inherit(history or SlopeHistory())
            history = None
        watch.take([point])
        if point.at < due_s:
            continue
        due_s, judged = point.at + policy.judge_every_s, judged + 1
        verdict = watch.judge(now=point.at)
        if verdict.status is not Status.WORSE:
            continue
        if told is None:
            e = verdict.evidence
            slope, low, high = (
                float(e[k] or math.nan) / 60 / MB for k in ("slope_bytes_per_hour", "slope_low", "slope_high")
            )
            told = Told(point.at / 60, slope, low, high, float(e["used_bytes"] or 0) / MB)
        if verdict.level in (Level.PAGE, Level.URGENT):
            paged = point.at / 60
            break
    return told, paged, (time.process_time() - began) / max(1, judged)


def run_one(job: tuple[str, int, float]) -> Outcome:
    name, seed, noise = job
    case = make(name, seed, noise=noise)
    full = np.flatnonzero(case.memory_mb > LIMIT_MB)
    end = int(full[0]) + 1 if len(full) else len(TIMES)
    told, paged, judging_s = follow(samples(case, with_load=True), LeakPolicy())
    alarms: dict[str, float | None] = {OURS: told.at_min if told else None, PAGE: paged}
    if noise == 1.0:
        blind, _, _ = follow(samples(case, with_load=False), LeakPolicy())
        alarms[BLIND] = blind.at_min if blind else None
        alarms |= {rule: judge(case.memory_mb[:end]) for rule, judge in RULES.items()}
    return Outcome(name, case.onset_min, case.rate, end * STEP_MIN, alarms, told, judging_s)


def run_twice(job: tuple[str, str, int]) -> tuple[float | None, float | None]:
    """Minute of the first alarm in the second of two lives: without, and with what the first one showed."""
    first, second = make_twice(*job)
    watch = LeakWatch(LeakPolicy())
    watch.take(samples(first, with_load=True))
    history = SlopeHistory(version="1", own=watch.drain())
    found = (follow(samples(second, with_load=True), LeakPolicy(), known)[0] for known in (None, history))
    alone, informed = (None if told is None else told.at_min for told in found)
    return alone, informed


@dataclass
class Tally:
    """Outcomes by name."""

    outcomes: Sequence[Outcome]
    by_name: dict[str, list[Outcome]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for outcome in self.outcomes:
            self.by_name.setdefault(outcome.name, []).append(outcome)

    def false_alarms(self, names: Iterable[str], rule: str) -> float:
        """Share of runs."""
        return float(np.mean([o.alarms[rule] is not None for name in names for o in self.by_name[name]]))

    def delays_h(self, name: str, rule: str) -> tuple[list[float], int]:
        """Hours from onset to alarm where there was one in time; and how many alarms came before the onset."""
        found, early = [], 0
        for o in self.by_name[name]:
            at, onset = o.alarms[rule], o.case_onset or 0.0
            if at is not None and at < onset:
                early += 1
            elif at is not None:
                found.append((at - onset) / 60)
        return found, early

    def left_h(self, name: str) -> float:
        """The least time between our alarm and the end of memory, hours."""
        return min(
            ((o.end_min - at) / 60 for o in self.by_name[name] if (at := o.alarms[OURS]) is not None), default=0.0
        )

    def slopes(self, name: str) -> tuple[list[float], float]:
        """Told slope over the true one, and how often its interval held the true one, where it had two ends."""
        told = [(o.told, o.rate) for o in self.by_name[name] if o.told is not None]
        held = [t.low <= rate <= t.high for t, rate in told if math.isfinite(t.low) and math.isfinite(t.high)]
        return [t.slope / rate for t, rate in told], float(np.mean(held)) if held else 0.0


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=40, help="runs of each kind")
    parser.add_argument("--first-seed", type=int, default=90_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these kinds alone; no goals then")
    parser.add_argument("--lives", action="store_true", help="only what a life tells the next one; no goals then")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")


def run_lives(options: argparse.Namespace) -> report.Report:
    """What changes when the slopes of the life before are known."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows = []
    with Pool(options.jobs) as pool:
        for first, second in LIVES:
            found = pool.map(run_twice, [(first, second, seed) for seed in seeds], chunksize=1)
            rows.append((f"{first}, then {second}", *(_found(told) for told in zip(*found, strict=True))))
    header = ("two lives of a service", "the first not known", "known")
    print("\nalarms in the second life, % / median h / p90 h")
    report.show_table(rows, header=header)
    return report.Report(name="leak", figures={"seeds": [seeds.start, seeds.stop], "lives": rows})


def _found(told: Sequence[float | None]) -> str:
    hours = [at / 60 for at in told if at is not None]
    if not hours:
        return "0"
    return f"{100 * len(hours) / len(told):.0f} / {np.median(hours):.1f} / {np.quantile(hours, 0.9):.1f}"


def run(options: argparse.Namespace) -> report.Report:
    if options.lives:
        return run_lives(options)
    names = options.only or [*HARMLESS, *LEAKS]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    noisy = [] if options.only else [(name, seed, 3.0) for name in REFERENCE for seed in seeds]
    with Pool(options.jobs) as pool:
        plain = Tally(pool.map(run_one, [(name, seed, 1.0) for name in names for seed in seeds], chunksize=2))
        loud = Tally(pool.map(run_one, noisy, chunksize=2))
    harmless, leaking = [n for n in names if n in HARMLESS], [n for n in names if n not in HARMLESS]
    rules = list(plain.outcomes[0].alarms)
    wrong = [(n, *(f"{100 * plain.false_alarms([n], r):.0f}" for r in rules)) for n in harmless]
    if harmless:
        wrong.append(("all", *(f"{100 * plain.false_alarms(harmless, r):.1f}" for r in rules)))
        print("\nfalse alarms, % of runs")
        report.show_table(wrong, header=("harmless", *rules))
    found = [(n, *(_cell(plain, n, r) for r in rules), *_slope_cells(plain, n)) for n in leaking]
    if leaking:
        print("\nfound, % / median h / p90 h from the onset (alarms before it)")
        report.show_table(found, header=("leak", *rules, "slope told/true, p10 to p90", "interval holds it"))
    cost_ms = 1e3 * float(np.mean([o.judging_s for o in plain.outcomes]))
    print(f"\n{cost_ms:.2f} ms of CPU from one judgement to the next, samples taken in between included")
    goals = [] if options.only else _goals(plain, loud, cost_ms)
    if options.picture and not options.only:
        _draw(plain, rules, options.picture)
    figures = {"seeds": [seeds.start, seeds.stop], "false_alarms": wrong, "found": found, "judging_ms": cost_ms}
    return report.Report(name="leak", figures=figures, goals=goals)


def _cell(tally: Tally, name: str, rule: str) -> str:
    delays, early = tally.delays_h(name, rule)
    before = f" ({early})" if early else ""
    if not delays:
        return f"0{before}"
    share = 100 * len(delays) / len(tally.by_name[name])
    return f"{share:.0f} / {np.median(delays):.1f} / {np.quantile(delays, 0.9):.1f}{before}"


def _slope_cells(tally: Tally, name: str) -> tuple[str, str]:
    ratios, held = tally.slopes(name)
    if not ratios:
        return "", ""
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{100 * held:.0f} %"


def _per_100_days(share: float) -> float:
    """Alarms in 100 days of a worker, from the share of three-day runs with at least one."""
    return abs(math.log(max(1 - share, 1e-3))) / (HOURS / 24) * 100


def _goals(plain: Tally, loud: Tally, cost_ms: float) -> list[report.Goal]:
    at_most, at_least = report.at_most, report.at_least

    def median_h(name: str) -> float:
        return float(np.median(plain.delays_h(name, OURS)[0] or [math.inf]))

    def p90_h(name: str) -> float:
        return float(np.quantile(plain.delays_h(name, OURS)[0] or [math.inf], 0.9))

    def share(name: str, within_h: float = math.inf) -> float:
        delays, _ = plain.delays_h(name, OURS)
        return 100 * sum(d <= within_h for d in delays) / len(plain.by_name[name])

    all_runs = plain.false_alarms(REFERENCE, OURS)
    goals = [
        at_most("false alarms, nine harmless kinds", 100 * all_runs, 2, "% of runs"),
        at_most("the same in 100 days of a worker", _per_100_days(all_runs), 1, ""),
        at_most("of these at page level", _per_100_days(plain.false_alarms(REFERENCE, PAGE)), 0.5, ""),
        at_most(
            "false alarms, two kinds that tuning never saw", 100 * plain.false_alarms(UNSEEN, OURS), 2, "% of runs"
        ),
    ]
    for name, limit in (("warm-up", 1), ("restart", 1), ("shift", 1), ("steps", 1), ("diurnal", 1), ("sawtooth", 10)):
        goals.append(
            at_most(f"false alarms, {name}", 100 * plain.false_alarms([name], OURS), limit, "% of runs", digits=0)
        )
    goals += [
        at_most("false alarms, wander", 100 * plain.false_alarms(["wander"], OURS), 10, "% of runs", digits=0),
        at_most("false alarms at three times the noise", 100 * loud.false_alarms(REFERENCE, OURS), 1, "% of runs"),
        at_least("1 MB/min, quiet: found", share("1 flat"), 100, "%", digits=0),
        at_most("1 MB/min, quiet: median", median_h("1 flat"), 3, "h", digits=1),
        at_most("1 MB/min, quiet: p90", p90_h("1 flat"), 3.5, "h", digits=1),
        at_least("10 MB/min: found", share("10 flat"), 100, "%", digits=0),
        at_most("10 MB/min: p90", p90_h("10 flat"), 2.6, "h", digits=1),
        at_least("50 MB/min: found", share("50 flat"), 100, "%", digits=0),
        at_most("50 MB/min: p90", 60 * p90_h("50 flat"), 40, "min", digits=0),
        at_least("50 MB/min: left until full", 60 * plain.left_h("50 flat"), 60, "min", digits=0),
        at_least("0.1 MB/min, quiet: found in 24 h", share("0.1 flat", 24), 95, "%", digits=0),
    ]
    for name in HIDDEN:
        goals.append(at_least(f"{name.replace(' ', ' MB/min, ')}: found", share(name), 95, "%", digits=0))
        goals.append(at_most(f"{name.replace(' ', ' MB/min, ')}: median", median_h(name), 9, "h", digits=1))
    together = [delay for name in HIDDEN for delay in plain.delays_h(name, OURS)[0]]
    goals.append(at_most("1 MB/min in these four: median", float(np.median(together or [math.inf])), 9, "h", digits=1))
    ratios, held = plain.slopes("1 flat")
    off = max(abs(float(np.quantile(ratios, q)) - 1) for q in (0.1, 0.9)) if ratios else math.inf
    goals += [
        at_most("1 MB/min, quiet: slope off, p10 and p90", 100 * off, 10, "%", digits=1),
        at_least("1 MB/min, quiet: interval holds the truth", 100 * held, 90, "%", digits=0),
        at_most("CPU of a judgement", cost_ms, 5, "ms"),
    ]
    return goals


def _draw(tally: Tally, rules: Sequence[str], path: Path) -> None:
    """False alarms against the time to find 1 MB/min, one point a rule."""
    from matplotlib import pyplot  # noqa: PLC0415  # an extra of the benchmarks

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    kinds = ("1 flat", "1 sawtooth", "1 wander", "1 warm-up", "1 diurnal")
    for rule in rules:
        delays = [d for kind in kinds for d in tally.delays_h(kind, rule)[0]]
        runs = sum(len(tally.by_name[kind]) for kind in kinds)
        label = f"{rule} ({100 * len(delays) / runs:.0f} % found)"
        axes.scatter(100 * tally.false_alarms(HARMLESS, rule), np.median(delays) if delays else HOURS, label=label)
    axes.set(xlabel="false alarms, % of harmless runs of 72 h", ylabel="1 MB/min on five backgrounds: median hours")
    axes.set_xlim(-2, 102)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    report.main(run, describe, __doc__)
