"""`watchdog canary`: one burst now, as the daemon would send it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from probes.facts import (
    CPU_PRESSURE,
    CPU_STEAL,
    GPU_OTHERS,
    GPU_THROTTLE,
    IO_PRESSURE,
    LOAD,
    MEMORY_PRESSURE,
    OWN_DELAY,
    SERVER_CPU,
    SERVER_WAIT,
    SM_CLOCK_HZ,
)
from probes.messages import Burst, Family
from watchdog.bootstrap import build_targets
from watchdog.cli.session import (
    DEFAULT_CONFIG,
    ConfigPath,
    ExitCode,
    Json,
    Refused,
    TargetName,
    err,
    opened,
    out,
    print_json,
)
from watchdog.web.page import milliseconds

COLUMNS = ("time", "latency_s", "ok", "reason", "burst", "control_s", "load", "worker")


def register(app: typer.Typer) -> None:
    app.command()(canary)


def canary(
    target: TargetName,
    config: ConfigPath = DEFAULT_CONFIG,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the samples as CSV for `watchdog replay`.")
    ] = None,
    bursts: Annotated[int, typer.Option(min=1, help="How many bursts of each canary.")] = 1,
    json: Json = False,
) -> None:
    """Send one burst of each canary of TARGET. Exit codes: 0 good, 2 wrong or failed, 3 busy or tainted."""
    taken: list[Burst] = []
    if record is not None:
        _check_columns(record)
    with opened(config, create=True) as (parsed, database):
        parsed.find(target)
        live = build_targets(parsed, database)[target]
        for name, probe in live.canaries.items():
            live.baseline(name)  # loads the golden output
            taken += [live.probe(name, wait_s=probe.plan.timeout_s * 2) for _ in range(bursts)]
        live.close()
    if record is not None:
        _record(record, taken)
    if json:
        print_json(taken, list[Burst])
    else:
        for burst in taken:
            _print(burst)
    raise typer.Exit(max((_judge(b) for b in taken), key=_WORST_LAST.index))


_WORST_LAST = (ExitCode.FINE, ExitCode.UNDECIDED, ExitCode.WORSE)


def _judge(burst: Burst) -> ExitCode:
    families = {s.outcome.family for s in burst.samples}
    if families - {Family.GOOD, Family.BUSY}:
        return ExitCode.WORSE
    return ExitCode.UNDECIDED if Family.BUSY in families or not burst.judged else ExitCode.FINE


def _print(burst: Burst) -> None:
    out.print(f"{burst.target}/{burst.canary}: {len(burst.samples)} request(s)", markup=False)
    for s in burst.samples:
        extras: list[Any] = [f"first byte {milliseconds(s.first_byte_s)}"] if s.first_byte_s is not None else []
        extras += [f"connect {milliseconds(s.connect_s)}"] if s.connect_s is not None else []
        extras += [f"control {milliseconds(s.control_s)}"] if s.control_s is not None else []
        extras += [f"worker {s.life}"] if s.life else []
        extras += ["tainted by our own delay"] if s.tainted else []
        extras += [s.detail] if s.detail else []
        out.print(f"  {s.outcome:<16} {milliseconds(s.latency_s):>10}  {', '.join(extras)}".rstrip(), markup=False)
    if burst.output is not None:
        o = burst.output
        shape = "no numbers" if o.shape is None else f"shape {list(o.shape)}"
        out.print(f"  answer {o.content_hash}, {shape}", markup=False)
    if around := describe_surroundings(burst.facts):
        out.print(f"  around it: {around}", markup=False)
    for name, value in burst.provenance.items():
        out.print(f"  {name}: {value}", markup=False)


_AROUND: Mapping[str, Callable[[float], str]] = {
    LOAD: lambda load: f"load {load:g}",
    SERVER_CPU: lambda cores: f"server on {cores:.2f} cores",
    SERVER_WAIT: lambda share: f"server waiting for a core {share:.1%}",
    CPU_PRESSURE: lambda share: f"pressure on CPU {share:.1%}",
    MEMORY_PRESSURE: lambda share: f"on memory {share:.1%}",
    IO_PRESSURE: lambda share: f"on disk {share:.1%}",
    CPU_STEAL: lambda share: f"CPU stolen {share:.1%}",
    OWN_DELAY: lambda share: f"own delay {share:.1%}",
    SM_CLOCK_HZ: lambda hz: f"SM clock {hz / 1e6:.0f} MHz",
    GPU_THROTTLE: lambda bits: f"clock event reasons {int(bits):#x}",
    GPU_OTHERS: lambda count: f"{count:.0f} other process(es) on the GPU",
}


def describe_surroundings(facts: Mapping[str, float]) -> str:
    """What went on around a burst, on one line; empty when nothing is known."""
    return ", ".join(say(facts[name]) for name, say in _AROUND.items() if name in facts)


def _check_columns(path: Path) -> None:
    """A recording of other columns is not continued: its rows would be read as something else."""
    try:
        with path.open(newline="") as file:
            found = file.readline(1000).strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--record {path}: {getattr(error, 'strerror', 'it is no recording')}") from error
    if found and found != ",".join(COLUMNS):
        raise Refused(f"--record {path}: its first line is not {','.join(COLUMNS)}; name another file")


def _record(path: Path, bursts: list[Burst]) -> None:
    """Append the samples; the header is written once. What our own delay may have tainted is left out and counted."""
    try:
        new = not path.exists() or path.stat().st_size == 0
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            writer.writerows(
                (
                    f"{s.at:.6f}",
                    "" if s.latency_s is None else f"{s.latency_s:.9f}",
                    int(s.outcome.family is Family.GOOD),
                    s.outcome,
                    f"{b.at:.6f}",
                    "" if s.control_s is None else f"{s.control_s:.9f}",
                    "" if b.load is None else f"{b.load:.9g}",
                    s.life or "",
                )
                for b in bursts
                for s in b.samples
                if not s.tainted
            )
    except OSError as error:
        raise Refused(f"--record {path}: {error.strerror}") from error
    if tainted := sum(s.tainted for b in bursts for s in b.samples):
        err.print(f"watchdog: {tainted} sample(s) tainted by our own delay left out of {path}", markup=False)
