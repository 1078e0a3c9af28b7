"""How soon a slower model is told from a busy machine, on latencies of a real server as recorded in data/detection.

Each trace is replayed as `watchdog replay` would, beside the rules of the trade, which see no control. 60 bursts are
the baseline, the change comes 120 to 200 bursts later. An alarm is a WORSE verdict that blames the model or nobody; one
that blames the machine is none. Detectors may be tuned on some of the traces, the goals are about the others.
`regression_recorder` makes the recordings.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from baselines.recording import Request, read_latency_csv
from baselines.replay import baseline_of, replay_latency
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Cause, Status
from benchmarks import report
from benchmarks.detection_rules import RULES
from benchmarks.detection_streams import Array
from benchmarks.regression_recorder import BASELINE, FOLDER, SIZE

OURS = "ours"
BLAMING = (Cause.MODEL, Cause.UNKNOWN)
WITHIN = 60  # bursts in which a step should be found
STEPS = ("+20 %", "+30 %")

Told = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One recording. onset: the first burst after the change, counted from the file's first; None without a change."""

    seed: int
    host: str
    change: str
    tuning: bool
    onset: int | None

    @property
    def name(self) -> str:
        return f"{self.seed:02} {self.host}, {self.change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rule made of one trace.

    false: alarms that began before the change. delay: bursts to the alarm, the first after the change being 1; infinite
    when there was none, None without a change or when an alarm was still on from before.
    """

    false: int
    delay: float | None


def traces(folder: Path = FOLDER) -> list[Trace]:
    """Raises OSError without recordings."""
    names = [field.name for field in fields(Trace)]
    index = json.loads((folder / "index.json").read_text())
    return [Trace(**{name: each[name] for name in names}) for each in index["traces"]]


def read(trace: Trace, folder: Path = FOLDER) -> tuple[Request, ...]:
    """Raises OSError without the recording, ReplayError for a bad one."""
    with gzip.open(folder / f"{trace.seed:02}.csv.gz", "rt") as lines:
        return read_latency_csv(lines).points


def replay(requests: Sequence[Request], policy: RegressionPolicy) -> Told:
    """Whether the shipped detector blames the model, or nobody, after each burst of the file."""
    numbers = [int(request.burst or 0) for request in requests]
    first = numbers.index(BASELINE)
    told = np.zeros(numbers[-1] + 1, dtype=bool)
    baseline = baseline_of(requests, 0, first)
    for line in replay_latency(requests, baseline=baseline, first_row=first, policy=policy):
        if line["type"] == "verdict":
            told[numbers[int(line["row"] or 0)] :] = line["status"] == Status.WORSE and line["cause"] in BLAMING
    return told


def logarithms(requests: Sequence[Request]) -> Array:
    """As the rules of the trade want them, one lane; a burst that lacks requests repeats those that it has."""
    bursts: list[list[float]] = [[] for _ in range(int(requests[-1].burst or 0) + 1)]
    for request in requests:
        if request.sample.latency_s is not None:
            bursts[int(request.burst or 0)].append(request.sample.latency_s)
    return np.log([np.resize(burst, SIZE) for burst in bursts])[:, None, :]


def outcome(told: Told, onset: int | None) -> Outcome:
    before = told[:onset].astype(int)
    false = int((np.diff(before, prepend=0) == 1).sum())
    if onset is None or told[onset - 1]:
        return Outcome(false=false, delay=None)
    at = np.flatnonzero(told[onset:])
    return Outcome(false=false, delay=float(at[0]) + 1 if len(at) else math.inf)


def judge(requests: Sequence[Request], onset: int | None, policy: RegressionPolicy) -> dict[str, Outcome]:
    """Every rule on the same recording."""
    logs = logarithms(requests)
    told = {OURS: replay(requests, policy)}
    told |= {name: rule.score(logs)[:, 0] >= rule.line for name, rule in RULES.items()}
    return {name: outcome(each, onset) for name, each in told.items()}


def numbered(requests: Sequence[Request]) -> list[Request]:
    """With the bursts counted from 0, whatever the file calls them."""
    bursts = groupby(requests, key=lambda request: request.burst)
    return [replace(request, burst=str(number)) for number, (_, each) in enumerate(bursts) for request in each]


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument(
        "--csv",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="judge these instead, as `watchdog canary --record` writes them: 60 bursts of baseline, then the rest",
    )


def run_on(files: Sequence[Path]) -> report.Report:
    """Alarms of every rule in recordings of whom nobody says whether anything changed."""
    rows, header = [], ("recording", "bursts", OURS, *RULES)
    for path in files:
        with path.open() as lines:
            requests = numbered(read_latency_csv(lines).points)
        bursts = int(requests[-1].burst or 0) + 1 if requests else 0
        if bursts <= BASELINE:
            sys.exit(f"{path}: {bursts} bursts; {BASELINE} are the baseline, and more must follow")
        rows.append((path.name, bursts, *(of.false for of in judge(requests, None, RegressionPolicy()).values())))
    print("\nalarms")
    report.show_table(rows, header=header)
    return report.Report(name="detection_recorded", figures={"header": header, "recordings": rows})


def run(options: argparse.Namespace) -> report.Report:
    if options.csv:
        return run_on(options.csv)
    judged = {
        trace: judge(read(trace, options.folder), trace.onset, RegressionPolicy()) for trace in traces(options.folder)
    }
    header = ("trace", "for", *next(iter(judged.values())))
    rows = [
        (trace.name, "tuning" if trace.tuning else "report", *map(_cell, outcomes.values()))
        for trace, outcomes in judged.items()
    ]
    print("\nalarms before the change; bursts to the alarm after it")
    report.show_table(rows, header=header)
    figures: dict[str, object] = {"header": header, "traces": rows}
    for name, of in (("tuning", True), ("report", False)):
        these = {trace: outcomes for trace, outcomes in judged.items() if trace.tuning is of}
        figures[name] = table = list(_summary(these))
        print(f"\ntraces for {name}: with a false alarm; changes found within {WITHIN} bursts")
        report.show_table(table, header=("rule", *_kinds(these)))
    return report.Report(name="detection_recorded", figures=figures, goals=_goals(judged))


def _cell(of: Outcome) -> str:
    if of.delay is None:
        return f"{of.false}"
    return f"{of.false}; {of.delay:.0f}" if math.isfinite(of.delay) else f"{of.false}; -"


def _kinds(judged: Iterable[Trace]) -> list[str]:
    return list(dict.fromkeys(f"{trace.host}, {trace.change}" for trace in judged))


def _summary(judged: Mapping[Trace, Mapping[str, Outcome]]) -> Iterable[tuple[str, ...]]:
    for name in (OURS, *RULES):
        cells = []
        for kind in _kinds(judged):
            these = [
                (trace, outcomes[name]) for trace, outcomes in judged.items() if f"{trace.host}, {trace.change}" == kind
            ]
            count = sum(of.false > 0 if trace.onset is None else _is_found(of) for trace, of in these)
            cells.append(f"{count} of {len(these)}")
        yield name, *cells


def _is_found(of: Outcome) -> bool:
    return of.delay is not None and of.delay <= WITHIN


def _goals(judged: Mapping[Trace, Mapping[str, Outcome]]) -> list[report.Goal]:
    goals = []
    for host in ("contended", "shared"):
        mine = [(t, outcomes[OURS]) for t, outcomes in judged.items() if t.host == host and not t.tuning]
        still = [of for trace, of in mine if trace.onset is None]
        steps = [of for trace, of in mine if trace.change in STEPS]
        alarmed, found = sum(of.false > 0 for of in still), sum(map(_is_found, steps))
        goals += [
            report.at_most(f"{host}, no change: of {len(still)} called slower", alarmed, 0, "", digits=0),
            report.at_least(f"{host}, +20 and +30 %: in {WITHIN} bursts", found, len(steps), "found", digits=0),
        ]
    return goals


if __name__ == "__main__":
    report.main(run, describe, __doc__)
