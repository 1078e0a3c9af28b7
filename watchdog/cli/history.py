"""`watchdog history`: what was said when, and with --by how many requests, how fast, how much memory, for a year."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from alerts.wording import say_size
from baselines import verdict_store
from baselines.rollup import Span
from baselines.verdict import Verdict
from probes.messages import Outcome
from watchdog.cli.session import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    TargetName,
    clock,
    opened,
    out,
    print_json,
    read_duration,
)
from watchdog.cli.show import STYLES
from watchdog.history import By, CanaryStep, WorkerStep, read_canaries, read_workers
from watchdog.web.page import milliseconds


def register(app: typer.Typer) -> None:
    app.command()(history)


def history(
    target: TargetName,
    config: ConfigPath = DEFAULT_CONFIG,
    since: Annotated[str, typer.Option(help="How far back, for example 30d.")] = "7d",
    by: Annotated[By | None, typer.Option(help="Requests, latencies and memory by the hour or the day.")] = None,
    json: Json = False,
) -> None:
    """Changes of verdict of TARGET, newest first; with --by the long view, oldest first."""
    with opened(config) as (parsed, database), database.read() as connection:
        section = parsed.find(target)
        begin = time.time() - read_duration("--since", since)
        if by is not None:
            names = [c.name for c in section.canary]
            canaries = read_canaries(connection, target, names, by=by, since=begin)
            workers = read_workers(connection, target, by=by, since=begin)
        else:
            found = verdict_store.verdict_history(connection, target, since=begin)
    if by is not None:
        _print_steps(canaries, workers, since=since, json=json)
    else:
        _print_changes(found, since=since, json=json)


def _print_changes(found: list[Verdict], *, since: str, json: bool) -> None:
    if json:
        print_json(found, list[Verdict])
        return
    if not found:
        out.print(f"nothing in the last {since}")
    for v in found:
        out.print(f"{clock(v.at)}  ", end="")
        out.print(f"[{STYLES[v.status]}]{v.status:<8}[/]", end="")
        out.print(f"{v.check:<13}{v.subject:<11} {v.reason}, cause {v.cause}, level {v.level}", markup=False)


def _print_steps(canaries: list[CanaryStep], workers: list[WorkerStep], *, since: str, json: bool) -> None:
    if json:
        print_json({"canaries": canaries, "workers": workers}, dict[str, list[CanaryStep] | list[WorkerStep]])
        return
    if not canaries and not workers:
        out.print(f"nothing in the last {since}")
    if canaries:
        out.print(f"{'from (UTC)':<18}{'canary':<12}{'requests':>9}{'failed':>8}{'p50':>11}{'p95':>11}{'p99':>11}")
    for c in canaries:
        quantiles = "".join(f"{milliseconds(q):>11}" for q in (c.p50_s, c.p95_s, c.p99_s))
        why = ", ".join(f"{outcome} {count}" for outcome, count in c.outcomes.items() if outcome != Outcome.GOOD)
        text = f"{_utc(c.begin):<18}{c.canary:<12}{c.requests:>9}{c.failed:>8}{quantiles}  {why}"
        out.print(text.rstrip(), markup=False)
    if workers:
        out.print(f"{'from (UTC)':<18}{'worker':<8}{'lives':>6}  memory: least, greatest, last")
    for w in workers:
        figures = [("host", w.host_anon_bytes), ("GPU", w.gpu_used_bytes)]
        spans = "; ".join(f"{name} {_span(span)}" for name, span in figures if span is not None)
        out.print(f"{_utc(w.begin):<18}{w.slot:<8}{w.lives:>6}  {spans or '-'}", markup=False)


def _utc(begin: int) -> str:
    return datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%d %H:%M")


def _span(span: Span) -> str:
    return ", ".join(say_size(figure) for figure in (span.low, span.high, span.last))
