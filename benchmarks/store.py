"""A year of history of ten targets: how big it gets, and whether what is asked of it stays quick.

    python -m benchmarks.store [--days 365] [--targets 10] [--thin] [--json FILE]

The year goes through the store's own functions and the daemon's own housekeeping, in simulated time (see `store_year`).
A copy of the file is kept after the first month; at the end both are asked the same questions, turn by turn. Times are
CPU time: the files lie in the machine's page cache, and whatever else it does does not count.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select

from alerts.notifiers.transport import SharedTransport
from baselines.database import Database, open_database
from baselines.schema import metadata
from benchmarks.report import Goal, Report, at_most, main, show_table
from benchmarks.store_layouts import compare as compare_layouts
from benchmarks.store_plant import DAY_S
from benchmarks.store_queries import Timing, queries
from benchmarks.store_queries import compare as compare_queries
from benchmarks.store_year import Year
from watchdog.bootstrap import build_routes
from watchdog.config import Config, parse_config
from watchdog.migrations.migrate import bring_up_to_date

BEGIN = 1_800_000_000.0 // DAY_S * DAY_S
MONTH_D = 30
KEPT_D = 8  # a day more than good bursts and memory live
SAMPLE_BURSTS = 600
FLAT = 1.25
LIMIT_MB = 300.0


def make_config(count: int) -> Config:
    canary = {"url": "http://127.0.0.1:1/"}
    targets = [{"name": f"encoder-{i}", "canary": [canary], "process": {"port": 1}} for i in range(count)]
    url = "http://127.0.0.1:1/key"
    notifiers = [{"name": kind, "kind": "webhook", "url": url} for kind in ("events", "archive")]
    return parse_config({"target": targets, "notifier": notifiers})


def file_mb(path: Path) -> dict[str, float]:
    """The file and its log, in millions of bytes."""
    sizes = {suffix or "db": path.with_name(path.name + suffix) for suffix in ("", "-wal")}
    return {name: file.stat().st_size / 1e6 if file.exists() else 0.0 for name, file in sizes.items()}


def rows_by_table(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in sorted(metadata.tables.items())
        }


def mb_by_table(database: Database) -> dict[str, float]:
    """Of each table with its indices, whole pages; empty where SQLite was built without dbstat."""
    asked = (
        "SELECT m.tbl_name, sum(d.pgsize) / 1e6 FROM dbstat AS d JOIN sqlite_master AS m ON m.name = d.name"
        " WHERE d.aggregate = TRUE GROUP BY m.tbl_name ORDER BY 2 DESC"
    )
    with closing(sqlite3.connect(database.path)) as connection:
        try:
            return dict(connection.execute(asked).fetchall())
        except sqlite3.OperationalError:
            return {}


def copy_to(database: Database, path: Path) -> Database:
    """The database as it is now, in another file."""
    with closing(sqlite3.connect(database.path)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return open_database(f"sqlite:///{path}")


def is_far(hour: int, days: int) -> bool:
    """Whether this hour comes after the copy was made and before all that is not yet too old at the end."""
    return MONTH_D <= hour / 24 < days - KEPT_D


def live(
    database: Database, config: Config, *, days: int, thin: bool, folder: Path
) -> tuple[list[dict[str, float]], Database]:
    """Pass the year; returns the size of file and log after each month, and the database as it was after the first."""
    transport = SharedTransport()
    names = [t.name for t in config.target]
    year = Year(database, names, build_routes(config, transport), begin=BEGIN, days=days)
    months: list[dict[str, float]] = []
    young: Database | None = None
    longest_log, steps = 0.0, 0
    gc.disable()  # it would look at the hour's thousands of live values again and again
    for hour in range(days * 24):
        steps = max(steps, year.pass_hour(hour, thin=thin and is_far(hour, days)))
        size = file_mb(database.path)
        longest_log = max(longest_log, size["-wal"])
        if (hour + 1) % (MONTH_D * 24) == 0 or hour + 1 == days * 24:
            months.append({"day": (hour + 1) / 24, **size, "longest_log": longest_log, "most_steps_an_hour": steps})
            print(f"day {(hour + 1) // 24}: {size['db']:.0f} MB and a log of {size['-wal']:.0f} MB", file=sys.stderr)
            longest_log, steps = 0.0, 0
            young = young or copy_to(database, folder / "young.db")
            gc.collect()
    gc.enable()
    transport.close()
    assert young is not None
    return months, young


def ask_both(young: Database, old: Database, config: Config, *, days: int) -> list[Timing]:
    ends = [BEGIN + d * DAY_S for d in (min(days, MONTH_D), days)]
    to_young, to_old = (queries(config, now=end) for end in ends)
    return compare_queries(young, old, {name: (to_young[name], to_old[name]) for name in to_young})


def sample_bursts(config: Config, folder: Path) -> Sequence[Any]:
    """Bursts as a year is made of, for comparing layouts."""
    database = open_database(f"sqlite:///{folder}/sample.db")
    bring_up_to_date(database)
    year = Year(database, [config.target[0].name], [], begin=BEGIN, days=1)
    bursts = [burst for hour in range(SAMPLE_BURSTS // 60) for burst in year.bursts(hour)]
    database.close()
    return bursts


def judge(figures: Mapping[str, Any]) -> list[Goal]:
    """The issue's numbers for a year of ten targets; for another run they are what it makes of them."""
    months, timings = figures["months"], figures["queries"]
    largest = max(month["db"] + month["longest_log"] for month in months)
    worst = max(timings, key=lambda t: t["ratio"])
    return [
        at_most(
            f"{figures['days']} days of {figures['targets']} targets, file and log", largest, LIMIT_MB, "MB", digits=0
        ),
        at_most(f"slowest-growing query, last day against day {MONTH_D}: {worst['name']}", worst["ratio"], FLAT, "x"),
        at_most("longest write-ahead log", max(month["longest_log"] for month in months), 32.0, "MB", digits=1),
    ]


def show(figures: Mapping[str, Any]) -> None:
    """The tables for people."""
    header = ("day", "file MB", "log MB", "longest log MB", "housekeeping steps an hour")
    show_table(
        [(f"{m['day']:.0f}", *(f"{v:.1f}" for v in list(m.values())[1:])) for m in figures["months"]], header=header
    )
    print()
    sizes = figures["mb_by_table"]
    show_table(
        [(name, count, f"{sizes.get(name, float('nan')):.2f}") for name, count in figures["rows_by_table"].items()],
        header=("table", "rows", "MB with indices"),
    )
    print()
    show_table(
        [
            (
                q["name"],
                f"{q['first_ms']:.2f}",
                f"{q['last_ms']:.2f}",
                q["first_items"],
                q["last_items"],
                f"{q['ratio']:.2f}",
            )
            for q in figures["queries"]
        ],
        header=("query", f"day {MONTH_D}, CPU ms", "last day, CPU ms", "items", "items", "ratio an item"),
    )
    print()
    show_table(
        [(name, *(f"{value:.0f}" for value in row.values())) for name, row in figures["layouts"].items()],
        header=("layout", "bytes a burst", "to write, CPU us", "to read a window, CPU us"),
    )


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument(
        "--thin", action="store_true", help="a quarter of the time: skip details that are deleted before the end anyway"
    )


def run(options: argparse.Namespace) -> Report:
    began = time.monotonic()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    config = make_config(options.targets)
    with tempfile.TemporaryDirectory(prefix="store-") as name:
        folder = Path(name)
        database = open_database(f"sqlite:///{folder}/year.db")
        bring_up_to_date(database)
        months, young = live(database, config, days=options.days, thin=options.thin, folder=folder)
        timings = ask_both(young, database, config, days=options.days)
        figures = {
            "days": options.days,
            "targets": options.targets,
            "thin": options.thin,
            "months": months,
            "rows_by_table": rows_by_table(database),
            "mb_by_table": mb_by_table(database),
            "queries": [asdict(timing) | {"ratio": timing.ratio} for timing in timings],
            "layouts": compare_layouts(folder, sample_bursts(config, folder)),
            "simulated_in_s": round(time.monotonic() - began),
        }
        for each in (young, database):
            each.close()
    show(figures)
    return Report(name="store", figures=figures, goals=judge(figures))


if __name__ == "__main__":
    main(run, describe, __doc__)
