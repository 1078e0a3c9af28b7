"""What a benchmark has to say: its figures, and each of them against the number it should reach."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One number against what it should reach. met: None when this run could not tell."""

    name: str
    goal: str
    value: str
    met: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of one benchmark. figures: everything measured, by name, with the unit at the end of the name."""

    name: str
    figures: Mapping[str, Any]
    goals: Sequence[Goal] = field(default_factory=tuple)

    @property
    def met(self) -> bool:
        return all(goal.met is not False for goal in self.goals)


def at_most(name: str, value: float, limit: float, unit: str, *, digits: int = 2) -> Goal:
    """A goal that is met up to and with the limit."""
    return Goal(
        name=name,
        goal=f"<= {limit:g} {unit}".strip(),
        value=f"{value:.{digits}f} {unit}".strip(),
        met=bool(value <= limit),
    )


def at_least(name: str, value: float, limit: float, unit: str, *, digits: int = 2) -> Goal:
    """A goal that is met from the limit on."""
    return Goal(
        name=name,
        goal=f">= {limit:g} {unit}".strip(),
        value=f"{value:.{digits}f} {unit}".strip(),
        met=bool(value >= limit),
    )


def show_table(rows: Sequence[Sequence[object]], *, header: Sequence[str]) -> None:
    """Print rows under a header, columns aligned."""
    table = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for number, row in enumerate(table):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def show_goals(goals: Sequence[Goal]) -> None:
    """Print each goal with what came out."""
    words = {True: "met", False: "MISSED", None: "not told"}
    show_table([(g.name, g.goal, g.value, words[g.met]) for g in goals], header=("measured", "goal", "value", ""))


def machine() -> str:
    """What it ran on, in words; names no host."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    model = found[1].strip() if found else platform.machine()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{os.cpu_count()} cores of {model}, {memory_gb:.0f} GB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def command() -> str:
    """How this process was started, as one would type it."""
    module = Path(sys.argv[0]).stem
    here = f"{Path.cwd()}/"  # somebody else's clone lies elsewhere
    return shlex.join(["python", "-m", f"benchmarks.{module}", *(word.removeprefix(here) for word in sys.argv[1:])])


def save(report: Report, path: Path, *, took_s: float) -> None:
    """Write the report as JSON. took_s: how long the run took, in seconds."""
    about = {
        "name": report.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "command": command(),
        "took_s": round(took_s),
    }
    body = about | {"figures": dict(report.figures), "goals": [asdict(goal) for goal in report.goals]}
    path.write_text(json.dumps(body, indent=1) + "\n")


def main(
    run: Callable[[argparse.Namespace], Report], describe: Callable[[argparse.ArgumentParser], None], about: str | None
) -> None:
    """The command line of a benchmark. Exit code 2 when a goal is missed.

    describe: adds the benchmark's own options. --json keeps the report, by default nowhere.
    """
    parser = argparse.ArgumentParser(description=about)
    describe(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")
    options = parser.parse_args()
    began = time.monotonic()
    report = run(options)
    took_s = time.monotonic() - began
    print()
    show_goals(report.goals)
    if options.json:
        save(report, options.json, took_s=took_s)
    sys.exit(0 if report.met else 2)
