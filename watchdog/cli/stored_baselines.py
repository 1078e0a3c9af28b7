"""`watchdog baseline list`, `show`, `diff`, `promote`, `rollback`: the baselines that are stored."""

from __future__ import annotations

import getpass
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from baselines import baseline_store
from baselines.baseline import Baseline, changes, is_noisy, quality
from baselines.comparison import Answer, compare
from baselines.database import Database
from watchdog.cli.session import (
    DEFAULT_CONFIG,
    ConfigPath,
    ExitCode,
    Json,
    Refused,
    TargetName,
    clock,
    opened,
    out,
    pick,
    print_json,
)
from watchdog.config import ConfigError
from watchdog.web.api import BaselineSummary, summarise_baseline
from watchdog.web.page import milliseconds

BaselineId = Annotated[int, typer.Argument(metavar="ID")]


def register(group: typer.Typer) -> None:
    """Add the commands to `watchdog baseline`."""
    for command in (show_list, show, diff, promote, rollback):
        group.command("list" if command is show_list else None)(command)


def show_list(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[TARGET]...")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """List stored baselines; the active one is marked."""
    rows = []
    with opened(config) as (parsed, database), database.read() as connection:
        for section in pick(parsed, targets):
            for canary in section.canary:
                active = baseline_store.active_baseline(connection, section.name, canary.name)
                rows += [
                    summarise_baseline(b, active=active is not None and active.id == b.id)
                    for b in baseline_store.list_baselines(connection, section.name, canary.name)
                ]
    if json:
        print_json(rows, list[BaselineSummary])
        return
    if not rows:
        out.print("no baseline yet; take one with: watchdog baseline")
    for row in rows:
        mark = "*" if row.active else " "
        kind = "provisional" if row.provisional else row.label or ""
        version = row.provenance.get("model_version", "")
        out.print(
            f"{mark} {row.id:>4}  {row.target}/{row.canary}  {clock(row.taken_at)}  p50 {milliseconds(row.p50_s)}"
            f"  p95 {milliseconds(row.p95_s)}  n={row.samples}  {version} {kind}".rstrip(),
            markup=False,
        )


def show(baseline_id: BaselineId, config: ConfigPath = DEFAULT_CONFIG, json: Json = False) -> None:
    """Show one baseline: its figures, identity and provenance."""
    with opened(config) as (_, database), database.read() as connection:
        baseline = _get(connection, baseline_id)
        history = baseline_store.promotions(connection, baseline.target, baseline.canary)
    if json:
        print_json(
            {"baseline": summarise_baseline(baseline, active=bool(history) and history[0].baseline_id == baseline.id)},
            Any,
        )
        return
    out.print(f"{baseline.target}/{baseline.canary}, taken {clock(baseline.taken_at)}", markup=False)
    out.print("  " + describe(baseline), markup=False)
    for name, value in {"label": baseline.label, "input": baseline.identity.input_hash, **baseline.provenance}.items():
        if value is not None:
            out.print(f"  {name}: {value}", markup=False)
    for p in history:
        if p.baseline_id == baseline.id:
            out.print(f"  promoted {clock(p.at)} by {p.by}: {p.why}", markup=False)


def diff(
    a: Annotated[int, typer.Argument(metavar="A")],
    b: Annotated[int, typer.Argument(metavar="B")],
    config: ConfigPath = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Compare two stored baselines: B against A. Exit codes: 0 not slower, 2 slower, 3 undecided."""
    with opened(config) as (parsed, database), database.read() as connection:
        old, new = _get(connection, a), _get(connection, b)
        threshold = parsed.find(new.target).regression.threshold
    comparison = compare(new, old, threshold=threshold)
    changed = changes(old.provenance, new.provenance)
    if json:
        print_json({"comparison": comparison, "changed": changed}, Any)
    else:
        out.print("  " + describe(old) + "\n  " + describe(new), markup=False)
        p95 = comparison.p95
        if p95 is not None:
            bounds = "" if p95.low is None or p95.high is None else f" (95 % interval {p95.low:.2f} to {p95.high:.2f})"
            why = f" ({comparison.reason.replace('_', ' ')})" if comparison.answer is Answer.UNDECIDED else ""
            answer = comparison.answer.replace("_", " ")
            out.print(f"  p95 ratio {p95.estimate:.2f}{bounds}: {answer}{why}", markup=False)
        else:
            out.print(f"  {comparison.reason.replace('_', ' ')}: not comparable", markup=False)
        for name, (before, after) in changed.items():
            out.print(f"  {name}: {before or 'unknown'} -> {after or 'unknown'}", markup=False)
    code = {"not_slower": ExitCode.FINE, "slower": ExitCode.WORSE, "undecided": ExitCode.UNDECIDED}
    raise typer.Exit(code[comparison.answer])


def promote(
    baseline_id: BaselineId,
    why: Annotated[str, typer.Option(help="Goes on record.")] = "promoted by hand",
    config: ConfigPath = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Make a stored baseline the active one."""
    with opened(config) as (parsed, database):
        with database.read() as connection:
            baseline = _get(connection, baseline_id)
        parsed.find(baseline.target)
        _activate(database, baseline, why, json=json)


def rollback(
    target: TargetName,
    canary: Annotated[str | None, typer.Option(help="Needed when the target has several.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Make the baseline that was active before the present one active again; once more goes further back."""
    with opened(config) as (parsed, database):
        names = [c.name for c in parsed.find(target).canary]
        if canary is None and len(names) > 1:
            raise Refused(f"{target} has several canaries; say which with --canary: {', '.join(names)}")
        chosen = canary or names[0]
        if chosen not in names:
            raise ConfigError([f"{target} has no canary {chosen!r}; there are: {', '.join(names)}"])
        with database.read() as connection:
            history = baseline_store.promotions(connection, target, chosen)
            earlier = earlier_baseline(history)
            baseline = baseline_store.get_baseline(connection, earlier) if earlier is not None else None
        if baseline is None:
            raise Refused(f"{target}/{chosen} has no earlier baseline to go back to")
        _activate(database, baseline, f"rollback from {history[0].baseline_id}", json=json)


def earlier_baseline(history: Sequence[baseline_store.Promotion]) -> int | None:
    """The baseline that was active before the present one was first promoted. history: newest first."""
    ids = [p.baseline_id for p in reversed(history)]
    first = ids.index(ids[-1]) if ids else 0
    return ids[first - 1] if first > 0 else None


def _activate(database: Database, baseline: Baseline, why: str, *, json: bool) -> None:
    with database.write(durable=True) as connection:
        baseline_store.promote(connection, baseline, at=time.time(), by=getpass.getuser(), why=why)
    if json:
        print_json({"promoted": baseline.id, "why": why})
    else:
        out.print(f"active for {baseline.target}/{baseline.canary}: " + describe(baseline), markup=False)


def _get(connection: Connection, baseline_id: int) -> Baseline:
    baseline = baseline_store.get_baseline(connection, baseline_id)
    if baseline is None:
        raise Refused(f"there is no baseline {baseline_id}; see: watchdog baseline list")
    return baseline


def describe(baseline: Baseline) -> str:
    """p50, p95 with the width of its interval, and the advice that follows from it."""
    figures = quality(baseline)
    text = f"baseline {baseline.id}: p50 {milliseconds(baseline.p50_s)}, p95 {milliseconds(baseline.p95_s)}"
    if figures.p95_low_s is not None and figures.p95_high_s is not None and figures.width is not None:
        text += f" (95 % interval {milliseconds(figures.p95_low_s)} to {milliseconds(figures.p95_high_s)},"
        text += f" {figures.width:.0%} wide)"
    else:
        text += " (too few samples for an interval of p95: 59 are needed)"
    text += f" from {figures.samples} samples in {figures.bursts} bursts"
    if is_noisy(figures) and figures.between_burst_sd is not None:
        text += f"\n  NOISY: burst medians differ by {figures.between_burst_sd:.0%} (one standard deviation), so that a"
        text += " slowdown of 20 % can hide among them; take it while the machine does nothing else"
    return text
