"""How long a leak is called one: how often its alarm pauses while it goes on, and when it is over once it has stopped.

The series are those of `leak`, three days of one worker; here some stop leaking after some hours. Seeds below 10,000
were used for tuning, and those from 150,000 to 150,011 for the rule that ends an alarm; give others.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import Pool

import numpy as np

from baselines.leak import LeakPolicy, LeakWatch
from baselines.verdict import Status
from benchmarks import report
from benchmarks.leak import samples
from benchmarks.leak_series import TIMES, Case, make

GOING_ON = (
    "1 flat",
    "0.1 flat",
    "1 warm-up",
    "1 wander",
    "1 sawtooth",
    "1 diurnal",
    "10 diurnal",
    "1 diurnal per-request",
)
STOPPED = (("10 flat", 2.0), ("1 flat", 6.0), ("1 flat", 24.0), ("1 wander", 12.0), ("1 diurnal", 12.0))
"""Kinds, and after how many hours they leak no more."""


@dataclass(frozen=True, slots=True)
class Stood:
    """One run that was called a leak. pauses: how often it was not afterwards; paused: its share of the time since.

    over_h: hours from the end of the leak until it was called one for the last time; None where it still is.
    """

    pauses: int
    paused: float
    over_h: float | None


def run_one(job: tuple[str, float | None, int]) -> Stood | None:
    """None where it was never called a leak."""
    name, stops_h, seed = job
    case = make(name, seed)
    if stops_h is not None:
        case = stopped(case, stops_h)
    watch, due_s, last_h = LeakWatch(LeakPolicy()), 0.0, math.nan
    since: list[bool] = []  # whether it was called a leak, from the first time on
    for point in samples(case, with_load=True):
        watch.take([point])
        if point.at < due_s:
            continue
        due_s = point.at + watch.policy.judge_every_s
        worse = watch.judge(now=point.at).status is Status.WORSE
        if worse or since:
            since.append(worse)
        if worse:
            last_h = point.at / 3600
    if not since:
        return None
    pauses = sum(before and not after for before, after in pairwise(since))
    over_h = None if since[-1] or stops_h is None else last_h - stops_h
    return Stood(pauses=pauses, paused=since.count(False) / len(since), over_h=over_h)


def stopped(case: Case, after_h: float) -> Case:
    """The same without what leaked after so many hours; of a leak that began with the life."""
    too_much = case.rate * np.maximum(TIMES - after_h * 60, 0.0)
    return replace(case, memory_mb=case.memory_mb - too_much)


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=40, help="runs of each kind")
    parser.add_argument("--first-seed", type=int, default=160_000)
    parser.add_argument("--jobs", type=int, default=2)


def run(options: argparse.Namespace) -> report.Report:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    with Pool(options.jobs) as pool:

        def stand(name: str, stops_h: float | None) -> list[Stood]:
            return [stood for stood in pool.map(run_one, [(name, stops_h, seed) for seed in seeds], 2) if stood]

        going_on = {name: stand(name, None) for name in GOING_ON}
        ended = {(name, stops_h): stand(name, stops_h) for name, stops_h in STOPPED}
    pauses = [(name, *_pauses(found)) for name, found in going_on.items()]
    ends = [(f"{name}, {stops_h:g} h long", *_ends(found)) for (name, stops_h), found in ended.items()]
    print("\nleaks that go on")
    report.show_table(pauses, header=("leak", "found", "pauses a run", "of the time, %"))
    print("\nleaks that stop")
    report.show_table(ends, header=("leak", "found", "over", "median h after", "p90 h"))
    figures = {"seeds": [seeds.start, seeds.stop], "going_on": pauses, "stopped": ends}
    return report.Report(name="leak_standing", figures=figures, goals=_goals(going_on, ended))


def _goals(
    going_on: Mapping[str, Sequence[Stood]], ended: Mapping[tuple[str, float], Sequence[Stood]]
) -> list[report.Goal]:
    """A steady leak is said all the time, one that follows the day nearly so; what ended is over in the next shift."""
    often = float(np.mean([stood.pauses for stood in going_on["1 flat"]]))
    share = 100 * float(np.mean([stood.paused for stood in going_on["1 diurnal per-request"]]))
    over = [math.inf if stood.over_h is None else stood.over_h for stood in ended["1 flat", 6.0]]
    return [
        report.at_most("1 MB/min, quiet: pauses", often, 0, "a run"),
        report.at_most("1 MB/min, per request, load by the day: paused", share, 5, "% of the time", digits=1),
        report.at_most("1 MB/min for 6 h: over, p90", float(np.quantile(over, 0.9)), 8, "h", digits=1),
    ]


def _pauses(found: Sequence[Stood]) -> tuple[str, ...]:
    if not found:
        return ("0", "", "")
    often, share = np.mean([stood.pauses for stood in found]), np.mean([stood.paused for stood in found])
    return str(len(found)), f"{often:.2f}", f"{100 * share:.1f}"


def _ends(found: Sequence[Stood]) -> tuple[str, ...]:
    hours = [stood.over_h for stood in found if stood.over_h is not None]
    if not hours:
        return str(len(found)), "0", "", ""
    return str(len(found)), str(len(hours)), f"{np.median(hours):.1f}", f"{np.quantile(hours, 0.9):.1f}"


if __name__ == "__main__":
    report.main(run, describe, __doc__)
