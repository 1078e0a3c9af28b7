"""`watchdog baseline`: after each deploy, is the new version as fast and as right as the one before?"""

from __future__ import annotations

import getpass
import math
import time
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Connection
from typer.core import TyperGroup

from baselines import store
from baselines.baseline import Baseline, changes, is_noisy, quality
from baselines.comparison import compare
from baselines.database import Database
from probes.messages import Burst
from watchdog import baselining
from watchdog.baselining import Plan, Result, Taken
from watchdog.bootstrap import build_targets
from watchdog.cli.session import (
    DEFAULT_CONFIG,
    ConfigPath,
    ExitCode,
    Json,
    Refused,
    TargetName,
    clock,
    err,
    opened,
    out,
    pick,
    print_json,
    read_duration,
)
from watchdog.config import ConfigError
from watchdog.web.api import BaselineSummary, summarise_baseline
from watchdog.web.page import milliseconds

EXITS = {
    Result.PROMOTED: ExitCode.FINE,
    Result.ACCEPTED: ExitCode.FINE,
    Result.SLOWER: ExitCode.WORSE,
    Result.OUTPUT_DIFFERS: ExitCode.WORSE,
    Result.UNDECIDED: ExitCode.UNDECIDED,
    Result.NOT_READY: ExitCode.UNDECIDED,
}

BaselineId = Annotated[int, typer.Argument(metavar="ID")]


class TakeByDefault(TyperGroup):
    """`watchdog baseline TARGET` takes one; `watchdog baseline list` and its like are commands of their own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["take", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        cls=TakeByDefault,
        help="Take a baseline of TARGETs (all without one), compare it with the active one, promote it or refuse it."
        " Options of taking: watchdog baseline take --help.",
    )
    for command in (take, show_list, show, diff, promote, rollback):
        group.command("list" if command is show_list else None)(command)
    app.add_typer(group, name="baseline")


def take(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[TARGET]...", help="All without one.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    samples: Annotated[int | None, typer.Option(min=20, help="About so many requests instead of 30 bursts.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="6 bursts, 1 s apart; the interval is wide.")] = False,
    label: Annotated[str | None, typer.Option(help="A word for it, for example the release.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Promote although it is slower or differs.")] = False,
    why: Annotated[str | None, typer.Option(help="Why it is accepted; goes on record with who did.")] = None,
    wait: Annotated[str, typer.Option(help="Wait so long for the first good answer, for example 10m.")] = "0s",
    apart: Annotated[str | None, typer.Option(help="Time between bursts; 10s, or 1s with --quick.")] = None,
    json: Json = False,
) -> None:
    """Take a baseline (the default command). Exit codes: 0 promoted, 2 refused, 3 not ready or undecided."""
    plan = _plan(quick=quick, wait=wait, apart=apart)
    taken: list[Taken] = []
    with opened(config) as (parsed, database):
        sections = pick(parsed, targets)
        live = build_targets(parsed, database)
        for section in sections:
            target = live[section.name]
            for canary, probe in target.canaries.items():
                bursts = plan.bursts if samples is None else max(3, math.ceil(samples / probe.plan.size))
                each = Plan(bursts=bursts, apart_s=plan.apart_s, wait_s=plan.wait_s)
                with _progress(f"{section.name}/{canary}", bursts) as advance:
                    taken.append(
                        baselining.run(
                            target,
                            canary,
                            each,
                            label=label,
                            by=getpass.getuser(),
                            accept=accept,
                            why=why,
                            progress=advance,
                        )
                    )
                if not json:
                    _print_taken(taken[-1])
        for target in live.values():
            target.close()
    if json:
        print_json([_as_dict(t) for t in taken])
    codes = {EXITS[t.result] for t in taken}
    raise typer.Exit(next((c for c in (ExitCode.WORSE, ExitCode.UNDECIDED) if c in codes), ExitCode.FINE))


def _plan(*, quick: bool, wait: str, apart: str | None) -> Plan:
    default_s = baselining.QUICK_APART_S if quick else baselining.FULL_APART_S
    return Plan(
        bursts=baselining.QUICK_BURSTS if quick else baselining.FULL_BURSTS,
        apart_s=default_s if apart is None else read_duration("--apart", apart),
        wait_s=read_duration("--wait", wait),
    )


class _progress:  # noqa: N801  (used as a function)
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[last]}"), console=err, disable=not err.is_terminal)
        self._task = self._bar.add_task(f"baseline {what}", total=total, last="")

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, burst: Burst) -> None:
        last = burst.samples[-1]
        self._bar.update(self._task, completed=done, last=f"{last.outcome} {milliseconds(last.latency_s)}")
        if not err.is_terminal and done in (1, self._total // 2, self._total):
            err.print(f"baseline {self._what}: burst {done} of {self._total}, {last.outcome}", markup=False)


def _print_taken(taken: Taken) -> None:
    style = {ExitCode.FINE: "green", ExitCode.WORSE: "red", ExitCode.UNDECIDED: "yellow"}[EXITS[taken.result]]
    out.print(f"[{style}]{taken.result.replace('_', ' ').upper()}[/] {taken.target}/{taken.canary}: ", end="")
    out.print(taken.detail, markup=False)
    if taken.baseline is not None:
        out.print("  " + _describe(taken.baseline), markup=False)


def _describe(baseline: Baseline) -> str:
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


def _as_dict(taken: Taken) -> dict[str, object]:
    figures = quality(taken.baseline) if taken.baseline else None
    p95 = taken.comparison.p95 if taken.comparison else None
    return {
        "target": taken.target,
        "canary": taken.canary,
        "result": taken.result,
        "detail": taken.detail,
        "baseline": taken.baseline.id if taken.baseline else None,
        "compared_with": taken.active.id if taken.active else None,
        "samples": figures.samples if figures else None,
        "p50_s": taken.baseline.p50_s if taken.baseline else None,
        "p95_s": taken.baseline.p95_s if taken.baseline else None,
        "p95_low_s": figures.p95_low_s if figures else None,
        "p95_high_s": figures.p95_high_s if figures else None,
        "between_burst_sd": figures.between_burst_sd if figures else None,
        "noisy": is_noisy(figures) if figures else None,
        "ratio": p95.estimate if p95 else None,
        "ratio_low": p95.low if p95 else None,
        "ratio_high": p95.high if p95 else None,
    }


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
                active = store.active_baseline(connection, section.name, canary.name)
                rows += [
                    summarise_baseline(b, active=active is not None and active.id == b.id)
                    for b in store.list_baselines(connection, section.name, canary.name)
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
        history = store.promotions(connection, baseline.target, baseline.canary)
    if json:
        print_json(
            {"baseline": summarise_baseline(baseline, active=bool(history) and history[0].baseline_id == baseline.id)},
            Any,
        )
        return
    out.print(f"{baseline.target}/{baseline.canary}, taken {clock(baseline.taken_at)}", markup=False)
    out.print("  " + _describe(baseline), markup=False)
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
        out.print("  " + _describe(old) + "\n  " + _describe(new), markup=False)
        p95 = comparison.p95
        if p95 is not None:
            bounds = "" if p95.low is None or p95.high is None else f" (95 % interval {p95.low:.2f} to {p95.high:.2f})"
            out.print(f"  p95 ratio {p95.estimate:.2f}{bounds}: {comparison.answer.replace('_', ' ')}", markup=False)
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
    """Make the baseline that was active before the present one active again."""
    with opened(config) as (parsed, database):
        names = [c.name for c in parsed.find(target).canary]
        if canary is None and len(names) > 1:
            raise Refused(f"{target} has several canaries; say which with --canary: {', '.join(names)}")
        chosen = canary or names[0]
        if chosen not in names:
            raise ConfigError([f"{target} has no canary {chosen!r}; there are: {', '.join(names)}"])
        with database.read() as connection:
            history = store.promotions(connection, target, chosen)
            earlier = next((p for p in history if p.baseline_id != history[0].baseline_id), None)
            baseline = store.get_baseline(connection, earlier.baseline_id) if earlier else None
        if baseline is None:
            raise Refused(f"{target}/{chosen} has no earlier baseline to go back to")
        _activate(database, baseline, f"rollback from {history[0].baseline_id}", json=json)


def _activate(database: Database, baseline: Baseline, why: str, *, json: bool) -> None:
    with database.write(durable=True) as connection:
        store.promote(connection, baseline, at=time.time(), by=getpass.getuser(), why=why)
    if json:
        print_json({"promoted": baseline.id, "why": why})
    else:
        out.print(f"active for {baseline.target}/{baseline.canary}: " + _describe(baseline), markup=False)


def _get(connection: Connection, baseline_id: int) -> Baseline:
    baseline = store.get_baseline(connection, baseline_id)
    if baseline is None:
        raise Refused(f"there is no baseline {baseline_id}; see: watchdog baseline list")
    return baseline
