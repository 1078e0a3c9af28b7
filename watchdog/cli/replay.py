"""`watchdog replay`: the live detectors on recorded figures, from a file or from the store."""

from __future__ import annotations

import json as jsonlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from alerts.magnitude import say_left
from baselines import baseline_store, burst_store, memory_store
from baselines.leak import LeakPolicy
from baselines.recording import ReplayError, read_latency_csv, read_memory_csv
from baselines.replay import (
    apply_what_if,
    baseline_of,
    parse_rows,
    replay_bursts,
    replay_latency,
    replay_memory,
)
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Level
from probes.messages import MemorySample
from watchdog.cli.session import (
    CONFIG_VARIABLE,
    DEFAULT_CONFIG,
    ExitCode,
    Json,
    Refused,
    err,
    opened,
    out,
    print_line,
    read_duration,
)
from watchdog.config import load_config
from watchdog.policies import policies_of

Line = Mapping[str, Any]
MAX_STORED_BURSTS = 50_000
MAX_NAMED = 10
LOUD = frozenset({Level.WATCH, Level.PAGE, Level.URGENT})  # what is told by default


IN_WORDS = ("kind", "slope_per_hour", "seconds_to_capacity_low", "seconds_to_capacity_high")
"""What a line for a person says beyond the keys of the JSON."""


class Metric(StrEnum):
    LATENCY = "latency"
    MEMORY = "memory"


def register(app: typer.Typer) -> None:
    app.command()(replay)


def replay(
    file: Annotated[Path | None, typer.Argument(help="A CSV file; from the store without one.")] = None,
    metric: Annotated[Metric, typer.Option(help="What the file holds, or what to judge.")] = Metric.LATENCY,
    baseline_rows: Annotated[str | None, typer.Option(metavar="A:B", help="Data rows that are the baseline.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE")] = None,
    target: Annotated[str | None, typer.Option(help="Use this target's rules, or its history.")] = None,
    canary: Annotated[str | None, typer.Option(help="From the store: one canary; the first without it.")] = None,
    since: Annotated[str, typer.Option(help="From the store: how far back.")] = "30d",
    what_if: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Change a rule; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Judge recorded figures with the live detectors. Exit codes: 0 never worse, 2 ever worse, 3 only unknown."""
    if target is None and config is not None:
        raise Refused("-c is for the rules of a target: say which with --target")
    try:
        regression, leak = _policies(config, target, metric, what_if or [])
        if file is not None:
            lines = _from_file(file, metric, baseline_rows, regression, leak, () if json else IN_WORDS)
        elif target is not None:
            more = () if json else IN_WORDS
            lines = _from_store(_config_or_default(config), target, canary, since, metric, regression, leak, more)
        else:
            raise Refused("name a file, or a --target whose history is to be judged")
        statuses = _print(lines, json=json)
    except ReplayError as error:
        raise Refused(f"{file}: {error}" if file else str(error)) from error
    if "WORSE" in statuses:
        raise typer.Exit(ExitCode.WORSE)
    raise typer.Exit(ExitCode.FINE if "OK" in statuses else ExitCode.UNDECIDED)


def _policies(
    config: Path | None, target: str | None, metric: Metric, what_if: list[str]
) -> tuple[RegressionPolicy, LeakPolicy]:
    regression, leak = RegressionPolicy(), LeakPolicy()
    if target is not None:
        policies = policies_of(load_config(_config_or_default(config)).find(target))
        regression, leak = policies.regression, policies.leak
    for change in what_if:
        if metric is Metric.LATENCY:
            regression = apply_what_if(regression, change)
        else:
            leak = apply_what_if(leak, change)
    return regression, leak


def _config_or_default(config: Path | None) -> Path:
    """The variable is looked at only where a configuration is needed: a file is judged alike wherever it is."""
    return config or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))


def _from_file(
    file: Path,
    metric: Metric,
    baseline_rows: str | None,
    regression: RegressionPolicy,
    leak: LeakPolicy,
    more: Sequence[str],
) -> Iterable[Line]:
    try:
        with file.open(newline="") as opened_file:
            text = opened_file.read()
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{file}: not UTF-8 text") from error
    if metric is Metric.MEMORY:
        if baseline_rows is not None:
            raise Refused("--baseline-rows is for --metric latency")
        memory = read_memory_csv(text.splitlines(keepends=True))
        _note(memory.notes)
        return replay_memory(memory.points, policy=leak, more=more)
    if baseline_rows is None:
        raise Refused("--metric latency needs --baseline-rows A:B: which rows are normal?")
    recording = read_latency_csv(text.splitlines(keepends=True))
    _note(recording.notes)
    first, last = parse_rows(baseline_rows)
    baseline = baseline_of(recording.points, first, last)
    return replay_latency(recording.points, baseline=baseline, first_row=last, policy=regression)


def _from_store(
    config: Path,
    target: str,
    canary: str | None,
    since: str,
    metric: Metric,
    regression: RegressionPolicy,
    leak: LeakPolicy,
    more: Sequence[str],
) -> Iterable[Line]:
    begin = time.time() - read_duration("--since", since)
    with opened(config) as (parsed, database), database.read() as connection:
        section = parsed.find(target)
        if metric is Metric.MEMORY:
            lives = [life for life, _, _, last in memory_store.lives_seen(connection, target) if last >= begin]
            points = [memory_store.memory_since(connection, target, life, since=begin) for life in lives]
            return replay_memory(_side_by_side(points), policy=leak, more=more)
        names = [c.name for c in section.canary]
        if canary is not None and canary not in names:
            raise Refused(f"{target} has no canary {canary!r}; there are: {', '.join(names)}")
        name = canary or names[0]
        bursts = burst_store.bursts_since(connection, target, name, since=begin, limit=MAX_STORED_BURSTS)
        if not bursts:
            raise Refused(f"the store holds no burst of {target}/{name} in the last {since}")
        return replay_bursts(bursts, baselines=baseline_store.activated(connection, target, name), policy=regression)


def _note(notes: Iterable[str]) -> None:
    for note in notes:
        err.print(f"watchdog: {note}", markup=False)


def _side_by_side(lives: Sequence[Sequence[MemorySample]]) -> list[MemorySample]:
    """By time, but each life in its own order: what came after the clock was set back is not before it."""
    times = [accumulate((point.at for point in points), max) for points in lives]
    timed = [pair for at, points in zip(times, lives, strict=True) for pair in zip(at, points, strict=True)]
    return [point for _, point in sorted(timed, key=itemgetter(0))]


def _print(lines: Iterable[Line], *, json: bool) -> set[str]:
    """Print as they come; returns the statuses that were ever given."""
    statuses: set[str] = set()
    alerts: list[str] = []
    loud = False
    for line in lines:
        if line["type"] == "verdict":
            statuses.add(str(line["status"]))
            if line["status"] == "WORSE" and line["level"] in LOUD and not loud:
                alerts.append(_clock(line))
                loud = True
            loud = loud and line["status"] != "OK"  # what is not known ends nothing, nor does another cause
        if json:
            print_line(jsonlib.dumps(line))
        else:
            out.print(_sum_up(line, alerts) if line["type"] == "summary" else _say(line), markup=False)
    return statuses


def _sum_up(line: Line, alerts: list[str]) -> str:
    """In how many rows how often somebody would have been told, and when."""
    times = {0: "not once", 1: "once"}.get(len(alerts), f"{len(alerts)} times")
    text = f"{line['rows']} rows: this rule would have alerted {times}"
    if alerts:
        text += f" ({', '.join(alerts[:MAX_NAMED])}{', ...' if len(alerts) > MAX_NAMED else ''})"
    return f"{text}; worse {line['worse']} time(s), those of level info included"


def _clock(line: Line) -> str:
    return datetime.fromtimestamp(line["time"], UTC).strftime("%Y-%m-%d %H:%M:%S")


def _say(line: Line) -> str:
    text = f"{_clock(line)}  row {line['row']}  {line['check']} {line['status']}: {line['reason'].replace('_', ' ')}"
    if line["status"] == "WORSE":
        text += f", cause {line['cause']}, level {line['level']}"
    if line["ratio"] is not None:
        text += f", p95 {line['ratio']:.2f} x baseline"
    if line["slope_bytes_per_hour"] is not None:
        text += f", {line['channel']} {line['slope_bytes_per_hour'] / 1e6:+.1f} MB/h"
    if line.get("slope_per_hour") is not None:
        text += f", {line['channel']} {line['slope_per_hour']:+.3g}/h"
    if line.get("kind") is not None:
        text += f", kind {line['kind']}"
    left = say_left(line)
    return f"{text}, {left}" if left else text
