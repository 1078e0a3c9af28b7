"""Kill -9 at random moments, as often as asked: `python -m benchmarks.crash [--runs 200] [--seed 1] [--jobs 2]`.

Each run has a seed of its own, the first one's plus its number; `--seed S --runs 1` repeats one. It starts a real
server, a real receiver and the real daemon, breaks the server, kills the daemon (and the command line) at moments of
the seed's choice, starts it again, and looks from outside at what is left when all is quiet. Exit code 2 when anything
did not hold; the folders of such runs are kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.crash_plan import Phase, draw_plan
from benchmarks.crash_run import Result, carry_out
from benchmarks.report import Goal, Report, at_most, main, show_table


def run_one(seed: int, only: str | None, parent: Path) -> Result:
    """One run in a folder of its own, which stays only where something did not hold."""
    folder = parent / f"run-{seed}"
    folder.mkdir()
    result = carry_out(draw_plan(seed, only=only), folder)
    if not result.problems:
        shutil.rmtree(folder)
    return result


def run_all(seeds: Sequence[int], *, only: str | None, jobs: int, parent: Path) -> list[Result]:
    """All runs, `jobs` at a time in processes of their own; says of each failing one what did not hold."""
    results = []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run_one, seed, only, parent) for seed in seeds]):
            result = future.result()
            results.append(result)
            if result.problems:
                print(f"seed {result.seed}: DID NOT HOLD, see {parent}/run-{result.seed}")
                print(*(f"    {problem}" for problem in result.problems), sep="\n", flush=True)
            elif len(results) % 10 == 0:
                print(f"{len(results)} of {len(seeds)} runs", file=sys.stderr, flush=True)
    return sorted(results, key=lambda result: result.seed)


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """The figures of all runs."""
    kills = [strike for result in results for strike in result.strikes if strike.hit is not None]
    counts = {
        name: sum(getattr(result.findings, name) for result in results)
        for name in (
            "incidents",
            "messages",
            "lost",
            "duplicates",
            "unexplained",
            "episodes",
            "acts",
            "double_acts",
            "corrupt",
        )
    }
    aimed = Counter(strike.phase for result in results for strike in result.strikes)
    return {
        "runs": len(results),
        "first_seed": results[0].seed,
        "failed_seeds": [result.seed for result in results if result.problems],
        "kills": len(kills),
        **counts,
        "most_of_one_message": max(result.findings.most for result in results),
        "median_run_s": round(sorted(result.seconds for result in results)[len(results) // 2], 1),
        "phases": {
            phase: {
                "aimed": aimed[phase],
                "killed": sum(strike.phase is phase for strike in kills),
                "hit": sum(strike.phase is phase and bool(strike.hit) for strike in kills),
            }
            for phase in Phase
        },
    }


def judge(figures: Mapping[str, Any]) -> list[Goal]:
    """What was promised, and whether it held."""
    wanted = {
        "alerts lost": (figures["lost"], 0),
        "duplicates beyond one for a kill during the delivery": (figures["unexplained"], 0),
        "double recycles": (figures["double_acts"], 0),
        "databases damaged": (figures["corrupt"], 0),
        "runs in which anything did not hold": (len(figures["failed_seeds"]), 0),
    }
    return [at_most(name, value, limit, "", digits=0) for name, (value, limit) in wanted.items()]


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next one has the next number")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--only", choices=("recycle", "alert"), help="runs of one kind")


def run(options: argparse.Namespace) -> Report:
    parent = Path(tempfile.mkdtemp(prefix="crash-"))
    seeds = range(options.seed, options.seed + options.runs)
    results = run_all(seeds, only=options.only, jobs=options.jobs, parent=parent)
    figures = summarise(results)
    if not figures["failed_seeds"]:
        parent.rmdir()
    header = ("killed in phase", "aimed", "killed", "hit")
    show_table([(phase, *row.values()) for phase, row in figures["phases"].items()], header=header)
    print()
    show_table(
        [(name.replace("_", " "), value) for name, value in figures.items() if name != "phases"], header=("", "")
    )
    return Report(name="crash", figures=figures, goals=judge(figures))


if __name__ == "__main__":
    main(run, describe, __doc__)
