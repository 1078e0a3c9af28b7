"""All benchmarks, one after the other, and one table: `python -m benchmarks.bench [NAME...]`.

Each writes its report to results/NAME.json. The table holds the last report of every benchmark and goes to
results/README.md too. Leave the machine alone meanwhile: most figures compare things within one run, not all can.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from benchmarks.report import RESULTS, Goal, show_goals

ABOUT = {
    "footprint": "what the daemon itself needs",
    "fidelity": "what it records against what a client sees",
    "scale": "how many targets one core can watch",
    "effect": "what canaries cost the server",
    "agent": "what the agent costs the process it is in",
    "detection": "slower canaries, and what is only noise",
    "detection_recorded": "a slower model on a busy machine, as recorded",
    "gate": "a slower version, told at the deploy",
    "leak": "leaks, and what only looks like them",
    "leak_standing": "how long a leak is called one",
    "leak_recorded": "the same of a real server, as recorded",
    "fleet": "a replica slower than its peers",
    "gpu": "what only a GPU can show",
    "store": "a year of history",
    "crash": "kill -9 at random moments",
    "fuzz": "hostile bytes for whatever reads them",
}
"""In the order in which they run: those that measure the daemon's own time come first."""

MORE = {
    "store": ["--thin"],
    "scale": ["--picture", str(RESULTS / "scale.svg")],
    "detection": ["--picture", str(RESULTS / "detection.svg")],
    "leak": ["--picture", str(RESULTS / "leak.svg")],
    "leak_recorded": ["--picture", str(RESULTS / "leak_recorded.svg")],
    "fuzz": ["--seconds", "30"],
}


NOTHING = 3  # the exit code of one that had nothing to measure: no GPU


def measure(name: str) -> int:
    """Run one; returns its exit code."""
    print(f"\n=== {name}: {ABOUT[name]}", flush=True)
    began = time.monotonic()
    argv = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(RESULTS / f"{name}.json"), *MORE.get(name, [])]
    code = subprocess.run(argv, check=False).returncode
    print(f"({time.monotonic() - began:.0f} s)", flush=True)
    return code


def collect() -> list[Goal]:
    """The goals of every report there is; also written down for people."""
    goals: list[Goal] = []
    lines = ["# What was measured last", "", "Written by `make bench`. Everything measured is in the JSON files."]
    for name, about in ABOUT.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        report = json.loads(path.read_text())
        mine = [Goal(**goal) for goal in report["goals"]]
        goals += mine
        lines += [
            "",
            f"## {name}: {about}",
            "",
            f"{report['date']}, {report['machine']}",
            "",
            f"    {report['command']}",
        ]
        lines += ["", "| measured | goal | value | |", "|---|---|---|---|"]
        lines += [f"| {g.name} | {g.goal} | {g.value} | {_word(g)} |" for g in mine]
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n")
    return goals


def _word(goal: Goal) -> str:
    return {True: "met", False: "**missed**", None: "not told"}[goal.met]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ABOUT)}; all without any")
    names = parser.parse_args().names or list(ABOUT)
    if unknown := [name for name in names if name not in ABOUT]:
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(ABOUT)}")
    RESULTS.mkdir(exist_ok=True)
    codes = {name: measure(name) for name in names}
    failed = [name for name, code in codes.items() if code not in (0, 2, NOTHING)]
    goals = collect()
    print()
    show_goals(goals)
    if failed:
        print(f"\nbroke off: {', '.join(failed)}")
    if NOTHING in codes.values() and len(codes) == 1:
        sys.exit(NOTHING)
    sys.exit(1 if failed else 2 if any(goal.met is False for goal in goals) else 0)


if __name__ == "__main__":
    main()
