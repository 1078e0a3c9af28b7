"""`watchdog baseline`: after each deploy, is the new version as fast and as right as the one before?"""

from __future__ import annotations

import getpass
import math
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from baselines.baseline import is_noisy, quality
from baselines.slowdown import RegressionPolicy
from probes.messages import Burst
from watchdog import baselining
from watchdog.baselining import Plan, Taken
from watchdog.bootstrap import build_targets
from watchdog.cli import stored_baselines
from watchdog.cli.outlook import advise, say_outlook
from watchdog.cli.session import (
    DEFAULT_CONFIG,
    ConfigPath,
    ExitCode,
    Json,
    err,
    opened,
    out,
    pick,
    print_json,
    read_duration,
)
from watchdog.cli.stored_baselines import describe
from watchdog.deploy_gate import Decision, Result
from watchdog.web.page import milliseconds

EXITS = {
    Result.PROMOTED: ExitCode.FINE,
    Result.ACCEPTED: ExitCode.FINE,
    Result.SLOWER: ExitCode.WORSE,
    Result.OUTPUT_DIFFERS: ExitCode.WORSE,
    Result.UNDECIDED: ExitCode.UNDECIDED,
    Result.NOT_READY: ExitCode.UNDECIDED,
}


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
    group.command()(take)
    stored_baselines.register(group)
    app.add_typer(group, name="baseline")


def take(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[TARGET]...", help="All without one.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    samples: Annotated[int | None, typer.Option(min=20, help="About so many requests instead of 30 bursts.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="6 bursts, 1 s apart, up to 30 while it is open.")] = False,
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
    with opened(config, create=True) as (parsed, database):
        sections = pick(parsed, targets)
        live = build_targets(parsed, database)
        for section in sections:
            target = live[section.name]
            for canary, probe in target.canaries.items():
                each = plan
                if samples is not None:
                    each = replace(plan, bursts=max(3, math.ceil(samples / probe.plan.size)), most=None)
                with _progress(f"{section.name}/{canary}", each) as advance:
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
                    _print_outlook(taken[-1], target.policies.regression, probe.plan.interval_s)
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
        most=baselining.QUICK_MOST if quick else None,
        apart_s=default_s if apart is None else read_duration("--apart", apart),
        wait_s=read_duration("--wait", wait),
    )


class _progress:  # noqa: N801  (used as a function)
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, plan: Plan) -> None:
        self._what, self._plan = what, plan
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[last]}"), console=err, disable=not err.is_terminal)
        self._task = self._bar.add_task(f"baseline {what}", total=plan.bursts, last="")
        self._so_far = ""

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, burst: Burst, seen: Decision | None) -> None:
        last, planned = burst.samples[-1], self._plan.bursts
        news = seen is not None and seen.result is Result.PROMOTED and not self._so_far
        if seen is not None:
            self._so_far = "; not slower so far" if seen.result is Result.PROMOTED else ""
        self._bar.update(
            self._task,
            completed=done,
            total=max(done, planned),
            last=f"{last.outcome} {milliseconds(last.latency_s)}{self._so_far}",
        )
        if not err.is_terminal and (news or done in (1, planned // 2) or done >= planned):
            more = " (more, since it is open or bursts were small or tainted)" if done > planned else ""
            err.print(
                f"baseline {self._what}: burst {done} of {planned}{more}, {last.outcome}{self._so_far}", markup=False
            )


def _print_taken(taken: Taken) -> None:
    style = {ExitCode.FINE: "green", ExitCode.WORSE: "red", ExitCode.UNDECIDED: "yellow"}[EXITS[taken.result]]
    out.print(f"[{style}]{taken.result.replace('_', ' ').upper()}[/] {taken.target}/{taken.canary}: ", end="")
    out.print(taken.detail, markup=False)
    if taken.baseline is not None:
        out.print("  " + describe(taken.baseline), markup=False)


def _print_outlook(taken: Taken, policy: RegressionPolicy, interval_s: float) -> None:
    if taken.baseline is None or taken.rehearsal is None:
        return
    out.print("  " + say_outlook(taken.rehearsal, policy, interval_s=interval_s), markup=False)
    for advice in advise(taken.baseline, taken.rehearsal, policy):
        out.print("  advice: " + advice, markup=False)


def _as_dict(taken: Taken) -> dict[str, object]:
    figures = quality(taken.baseline) if taken.baseline else None
    p95 = taken.comparison.p95 if taken.comparison else None
    machine = taken.comparison.machine if taken.comparison else None
    return {
        "target": taken.target,
        "canary": taken.canary,
        "result": taken.result,
        "detail": taken.detail,
        "baseline": taken.baseline.id if taken.baseline else None,
        "compared_with": taken.active.id if taken.active else None,
        "samples": figures.samples if figures else None,
        "bursts": figures.bursts if figures else None,
        "looks": taken.looks,
        "stopped_early": taken.stopped_early,
        "p50_s": taken.baseline.p50_s if taken.baseline else None,
        "p95_s": taken.baseline.p95_s if taken.baseline else None,
        "p95_low_s": figures.p95_low_s if figures else None,
        "p95_high_s": figures.p95_high_s if figures else None,
        "between_burst_sd": figures.between_burst_sd if figures else None,
        "noisy": is_noisy(figures) if figures else None,
        "delay_at_threshold_bursts": taken.rehearsal.delay_at_threshold if taken.rehearsal else None,
        "smallest_rise": taken.rehearsal.smallest if taken.rehearsal else None,
        "false_alarms_per_month": taken.rehearsal.false_alarms if taken.rehearsal else None,
        "ratio": p95.estimate if p95 else None,
        "ratio_low": p95.low if p95 else None,
        "ratio_high": p95.high if p95 else None,
        "reason": taken.comparison.reason if taken.comparison else None,
        "control_ratio": machine.median.estimate if machine else None,
        "control_p95_ratio": machine.p95.estimate if machine else None,
        "own_floor_ratio": machine.own_floor.estimate if machine else None,
    }
