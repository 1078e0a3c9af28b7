"""`watchdog status`, `headroom`, `profile`, `verify`: looking, without changing anything."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from alerts.magnitude import say_channel, say_left
from baselines import burst_store, memory_store, slope_store, snapshot_store
from baselines.leak import judge_memory
from baselines.verdict import Status
from probes.canary.burst import CanaryPlan
from probes.canary.torch import TorchCanary
from probes.expectation import Expectation
from probes.messages import Outcome, Snapshot
from probes.worker import ProbeError
from watchdog.bootstrap import build_targets, lock_path
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
    print_json,
)
from watchdog.config import TargetSection
from watchdog.policies import policies_of
from watchdog.status import SHOWN_BURSTS, TargetStatus, read_targets
from watchdog.turns import is_held
from watchdog.web.page import duration, milliseconds, share

STYLES = {Status.OK: "green", Status.WORSE: "bold red", Status.UNKNOWN: "yellow"}
EXITS = {Status.OK: ExitCode.FINE, Status.WORSE: ExitCode.WORSE, Status.UNKNOWN: ExitCode.UNDECIDED}
SHOWN_OPS = 15


def register(app: typer.Typer) -> None:
    for command in (status, headroom, profile, verify):
        app.command()(command)


def status(
    target: Annotated[str | None, typer.Argument(help="One target; all without it.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """How the targets stand. Exit codes: 0 all OK, 2 something is worse, 3 something is unknown."""
    with opened(config) as (parsed, database), database.read() as connection:
        if target is not None:
            parsed.find(target)
        found = [t for t in read_targets(connection, parsed) if target in (None, t.name)]
        running = is_held(lock_path(database))
    if json:
        print_json(found, list[TargetStatus])
    else:
        for each in found:
            _print_status(each)
    statuses = {t.status for t in found}
    if not running:
        err.print(f"watchdog: no daemon runs on {database.path}: this is how things stood when it ended", markup=False)
        statuses.add(Status.UNKNOWN)
    worst = next((s for s in (Status.WORSE, Status.UNKNOWN) if s in statuses), Status.OK)
    raise typer.Exit(EXITS[worst])


def _print_status(target: TargetStatus) -> None:
    now = time.time()
    out.print(f"[{STYLES[target.status]}]{target.status:<8}[/]", end="")
    out.print(f"{target.name}  mode {target.mode}", markup=False)
    if not target.verdicts:
        out.print("    not watched yet: is `watchdog run` running?", markup=False)
    for v in target.verdicts:
        blame = f", cause {v.cause}, level {v.level}" if v.status is Status.WORSE else ""
        since = duration(now - (v.since or v.at))
        out.print(f"    {v.check:<13}{v.subject:<11} {v.status:<8}{v.reason}{blame}, for {since}", markup=False)
    for c in target.canaries:
        baseline = "no baseline"
        if c.baseline_p95_s is not None:
            kind = "provisional baseline" if c.baseline_provisional else f"baseline {c.baseline_id}"
            baseline = f"{kind} p95 {milliseconds(c.baseline_p95_s)}"
        last = f", last {c.last_outcome} {duration(now - c.last_at)} ago" if c.last_at else ", never asked"
        out.print(f"    canary {c.name}: p95 {milliseconds(c.p95_s)}, {baseline}{last}", markup=False)
    for w in target.workers:
        gpu = f", GPU {share(w.gpu_used_bytes, w.gpu_capacity_bytes)}" if w.gpu_used_bytes is not None else ""
        agent = f", agent {w.agent}" if w.agent is not None else ""
        served = f", serves {w.version}" if w.version is not None else ""
        count = f", {w.requests} requests" if w.requests is not None else ""
        host = share(w.host_anon_bytes, w.capacity_bytes)
        out.print(f"    worker {w.slot}: {host}{gpu}{agent}{served}{count}", markup=False)
    for i in target.incidents:
        out.print(f"    incident {i.id}: {i.level} {i.check} {i.reason}, since {clock(i.since)}", markup=False)
    if target.breaker_open:
        out.print(f"    the recycle breaker is OPEN: watchdog recycle {target.name} --reset", markup=False)


def headroom(target: TargetName, config: ConfigPath = DEFAULT_CONFIG, json: Json = False) -> None:
    """Memory of each worker: how much is left and, if it grows, for how long. Exit codes: 0, 2 growing, 3 unknown."""
    rows: list[dict[str, Any]] = []
    with opened(config) as (parsed, database), database.read() as connection:
        section = parsed.find(target)
        policy, version = policies_of(section).leak, _answered_version(connection, section)
        for newest in memory_store.latest_memory(connection, target):
            since = newest.at - policy.lookback_s
            points = memory_store.memory_since(connection, target, newest.life, since=since)
            history = slope_store.slope_history(
                connection, target, newest.version or version, subject=f"slot {newest.slot}", life=newest.life
            )
            verdict = judge_memory(points, policy, now=newest.at, history=history)
            capacity = policy.capacity_bytes or newest.capacity_bytes
            rows.append(
                {
                    **verdict.evidence,  # its capacity is that of what it is about
                    "slot": newest.slot,
                    "life": newest.life,
                    "at": newest.at,
                    "host_anon_bytes": newest.host_anon_bytes,
                    "capacity_bytes": capacity,
                    "gpu_used_bytes": newest.gpu_used_bytes,
                    "gpu_capacity_bytes": newest.gpu_capacity_bytes,
                    "status": verdict.status,
                    "reason": verdict.reason,
                }
            )
    if json:
        print_json(rows)
    elif not rows:
        out.print(
            f"no memory of {target} was ever sampled: it needs [target.process] and a running daemon", markup=False
        )
    for row in rows if not json else ():
        text = f"worker {row['slot']}: host {share(row['host_anon_bytes'], row['capacity_bytes'])}"
        if row["gpu_used_bytes"] is not None:
            text += f", GPU {share(row['gpu_used_bytes'], row['gpu_capacity_bytes'])}"
        grows = [say_left(row), *say_channel(row)] if row["status"] is Status.WORSE else []
        out.print(f"{text}: {', '.join(filter(None, (row['reason'].replace('_', ' '), *grows)))}", markup=False)
    statuses = {row["status"] for row in rows}
    worst = next((s for s in (Status.WORSE, Status.UNKNOWN) if s in statuses), Status.OK if rows else Status.UNKNOWN)
    raise typer.Exit(EXITS[worst])


def _answered_version(connection: Connection, target: TargetSection) -> str | None:
    """What the newest answer that named one was from, as the daemon has it; None without one."""
    stored = [
        burst
        for canary in target.canary
        for burst in burst_store.bursts_since(connection, target.name, canary.name, limit=SHOWN_BURSTS)
    ]
    named = [burst for burst in stored if "model_version" in burst.provenance]
    return max(named, key=lambda burst: burst.at).provenance["model_version"] if named else None


def profile(
    target: TargetName,
    config: ConfigPath = DEFAULT_CONFIG,
    canary: Annotated[str | None, typer.Option(help="Needed when the target has several torch canaries.")] = None,
    take: Annotated[bool, typer.Option("--take", help="Take a new snapshot first.")] = False,
    json: Json = False,
) -> None:
    """The per-operator table of TARGET's torch canary: the stored snapshot, or a new one."""
    with opened(config, create=True) as (parsed, database):
        section = parsed.find(target)
        names = [c.name for c in section.canary if c.kind == "torch"]
        if not names:
            raise Refused(f'{target} has no canary of kind = "torch"; only those can be profiled so far')
        if canary is not None and canary not in names:
            raise Refused(f"{target} has no torch canary {canary!r}; there are: {', '.join(names)}")
        name = canary or names[0]
        with database.read() as connection:
            snapshot = snapshot_store.latest_snapshot(connection, target, name)
        if take or snapshot is None:
            live = build_targets(parsed, database)[target]
            probe = live.canaries[name]
            assert isinstance(probe, TorchCanary)
            try:
                snapshot = probe.profile()
            except ProbeError as error:
                raise Refused(f"{target}/{name} could not be profiled: {error.outcome}: {error}") from error
            finally:
                live.close()
            with database.write() as connection:
                snapshot_store.save_snapshot(connection, snapshot)
    _print_snapshot(snapshot, json=json)


def _print_snapshot(snapshot: Snapshot, *, json: bool) -> None:
    if json:
        print_json(snapshot, Snapshot)
        return
    out.print(
        f"{snapshot.target}/{snapshot.canary}, {clock(snapshot.at)}: {snapshot.steps} steps of"
        f" {milliseconds(snapshot.step_s)} under the profiler",
        markup=False,
    )
    for name, value in snapshot.environment.items():
        out.print(f"  {name}: {value}", markup=False)
    out.print(f"  {'operator':<42}{'self':>11}{'share':>8}{'calls':>8}", markup=False)
    for op in snapshot.ops[:SHOWN_OPS]:
        part = op.self_s / snapshot.step_s if snapshot.step_s else 0.0
        out.print(f"  {op.name[:40]:<42}{op.self_s * 1000:>8.3f} ms{part:>8.1%}{op.calls_per_step:>8.1f}", markup=False)


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2 or .pt file, or module:factory.")],
    shape: Annotated[str, typer.Option(help="Shape of the input, for example 1,16.")] = "1",
    dtype: Annotated[str, typer.Option(help="dtype of the input.")] = "float32",
    weights: Annotated[Path | None, typer.Option(help="Weights for module:factory (weights_only).")] = None,
    python: Annotated[str, typer.Option(help="The interpreter that has torch.")] = sys.executable,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    samples: Annotated[int, typer.Option(min=2, help="Inferences to run.")] = 20,
    json: Json = False,
) -> None:
    """Load MODEL in an isolated worker and run it: does it repeat itself, is it finite, how fast is it?"""
    try:
        dimensions = [int(part) for part in shape.split(",")]
    except ValueError:
        raise Refused(f"--shape must be whole numbers with commas, for example 1,16 (given: {shape!r})") from None
    plan = CanaryPlan(interval_s=60.0, timeout_s=60.0, size=samples, warmup=3, max_busy=1.0)
    probe = TorchCanary(
        target="verify",
        name="verify",
        plan=plan,
        expectation=Expectation(),
        model=model,
        input_spec={"shape": dimensions, "dtype": dtype, "seed": 0},
        python=python,
        weights=weights,
        device=device,
        control=False,
    )
    bursts = [probe.burst(size=samples), probe.burst(size=samples)]
    probe.close()
    failed = next((s for b in bursts for s in b.samples if s.outcome is not Outcome.GOOD), None)
    hashes = {b.output.content_hash for b in bursts if b.output}
    latencies = sorted(s.latency_s for b in bursts for s in b.samples if s.latency_s is not None)
    p50_s = latencies[len(latencies) // 2] if latencies else None
    result = {
        "model": model,
        "good": failed is None,
        "outcome": failed.outcome if failed else Outcome.GOOD,
        "detail": failed.detail if failed else "",
        "repeats_itself": len(hashes) == 1,
        "p50_s": p50_s,
        "facts": dict(bursts[0].facts),
        "provenance": dict(bursts[0].provenance),
    }
    if json:
        print_json(result)
    elif failed is not None:
        out.print(f"FAIL {model}: {failed.outcome}: {failed.detail}", markup=False)
    else:
        load = bursts[0].facts.get("model_load_s")
        loaded = f", loads in {load:.2f} s" if load is not None else ""
        same = (
            "gives the same answer each time (seeded)"
            if len(hashes) == 1
            else "gives DIFFERENT answers to the same input"
        )
        out.print(f"ok   {model}: {same}, p50 {milliseconds(p50_s)}{loaded}", markup=False)
    raise typer.Exit(ExitCode.WORSE if failed or len(hashes) != 1 else ExitCode.FINE)
