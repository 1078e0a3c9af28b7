"""`watchdog replay`: the contract of its lines, its exit codes, and what it refuses."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from builders import make_baseline, make_burst
from cli_stage import Ended, Stage

from baselines import baseline_store, burst_store, memory_store
from probes.messages import MemorySample

VERDICT_KEYS = [
    "type",
    "schema",
    "time",
    "row",
    "check",
    "status",
    "reason",
    "cause",
    "level",
    "since",
    "samples",
    "ratio",
    "ratio_low",
    "ratio_high",
    "channel",
    "slope_bytes_per_hour",
    "slope_low",
    "slope_high",
    "seconds_to_capacity",
]
SUMMARY_KEYS = ["type", "schema", "rows", "worse", "first_worse"]
BASELINE_ROWS, ROWS = 300, 600


def write_latency(path: Path, *, factor: float, rows: int = ROWS, extra: str = "") -> None:
    """Bursts of ten a minute around 50 ms; from BASELINE_ROWS on `factor` times as long."""
    rng = np.random.default_rng(7)
    lines = ["time,latency_s" + (f",{extra}" if extra else "")]
    for row in range(rows):
        at = 1_700_000_000 + 60 * (row // 10) + 0.1 * (row % 10)
        latency_s = 0.05 * np.exp(rng.normal(0, 0.03)) * (factor if row >= BASELINE_ROWS else 1.0)
        lines.append(f"{at:.3f},{latency_s:.6f}" + (",1" if extra else ""))
    path.write_text("\n".join(lines) + "\n")


def write_memory(path: Path, *, bytes_per_hour: float, hours: float) -> None:
    """A sample every 30 s from 2 GB on, of 16 GB."""
    rng = np.random.default_rng(7)
    lines = ["time,used_bytes,capacity_bytes"]
    for i in range(int(hours * 120)):
        used = 2e9 + bytes_per_hour * i / 120 + rng.normal(0, 1e6)
        lines.append(f"{1_700_000_000 + 30 * i},{used:.0f},16000000000")
    path.write_text("\n".join(lines) + "\n")


def lines_of(ended: Ended) -> list[dict[str, object]]:
    return [Ended(0, line, "").json() for line in ended.out.splitlines()]


@pytest.fixture
def latency(stage: Stage) -> Path:
    return stage.folder / "latency.csv"


@pytest.fixture
def memory(stage: Stage) -> Path:
    return stage.folder / "memory.csv"


def test_slowdown_exits_two_and_the_lines_keep_the_contract(stage: Stage, latency: Path) -> None:
    """A line per change, keys in order, null where a key does not apply, then a summary."""
    write_latency(latency, factor=1.4)
    ended = stage.start("replay", str(latency), "--metric", "latency", "--baseline-rows", "0:300", "--json")
    assert ended.code == 2
    *verdicts, summary = lines_of(ended)
    assert all(list(verdict) == VERDICT_KEYS for verdict in verdicts)
    assert list(summary) == SUMMARY_KEYS
    assert (summary["type"], summary["schema"], summary["rows"], summary["worse"]) == ("summary", 1, ROWS, 1)
    (worse,) = [v for v in verdicts if v["status"] == "WORSE"]
    assert (worse["check"], worse["reason"], worse["schema"]) == ("latency", "regressed", 1)
    assert worse["time"] == summary["first_worse"]
    assert isinstance(worse["row"], int)
    assert BASELINE_ROWS <= worse["row"] < ROWS
    assert worse["ratio"] == pytest.approx(1.4, rel=0.1)
    assert worse["slope_bytes_per_hour"] is None


def test_steady_latency_exits_zero(stage: Stage, latency: Path) -> None:
    """Never worse; the text for people says so."""
    write_latency(latency, factor=1.0)
    ended = stage.run("replay", str(latency), "--baseline-rows", "0:300")
    assert ended.code == 0
    last = ended.out.splitlines()[-1]
    assert last.startswith(f"{ROWS} rows: this rule would have alerted not once; worse 0 time(s)")
    assert "latency OK: within baseline, p95 1.0" in ended.out


def test_too_few_rows_exit_three(stage: Stage, latency: Path) -> None:
    """Nothing could be told."""
    write_latency(latency, factor=2.0, rows=BASELINE_ROWS + 10)
    ended = stage.run("replay", str(latency), "--baseline-rows", "0:300", "--json")
    assert ended.code == 3
    assert {line.get("status") for line in lines_of(ended)} == {"UNKNOWN", None}


@pytest.mark.parametrize(
    ("bytes_per_hour", "hours", "code"), [(2e9, 12, 2), (0, 12, 0), (0, 0.2, 3)], ids=["leak", "steady", "young"]
)
def test_memory_exits_as_it_was_judged(
    stage: Stage, memory: Path, bytes_per_hour: float, hours: float, code: int
) -> None:
    """2 for a leak with its slope and the time that is left, 0 for a steady worker, 3 for a young one."""
    write_memory(memory, bytes_per_hour=bytes_per_hour, hours=hours)
    ended = stage.run("replay", str(memory), "--metric", "memory", "--json")
    assert ended.code == code
    *verdicts, summary = lines_of(ended)
    assert all(list(verdict) == VERDICT_KEYS for verdict in verdicts)
    assert summary["rows"] == int(hours * 120)
    if code == 2:
        worse = next(v for v in verdicts if v["status"] == "WORSE")
        assert worse["level"] in ("page", "urgent")
        assert worse["slope_bytes_per_hour"] == pytest.approx(bytes_per_hour, rel=0.2)
        assert isinstance(worse["seconds_to_capacity"], float)
        assert worse["ratio"] is None


def test_a_leak_is_told_with_the_interval_of_its_date(stage: Stage) -> None:
    """And with its kind: "at this rate" is for where nothing is known of the interval."""
    path = stage.folder / "memory.csv"
    write_memory(path, bytes_per_hour=6e7, hours=6)
    worse = next(line for line in stage.run(f"replay {path} --metric memory").out.splitlines() if "WORSE" in line)
    assert re.search(r"host_anon_bytes \+\d+\.\d MB/h, kind host, full in .+ \(.+ or later\)$", worse), worse


def test_rules_can_be_changed_for_a_run_and_taken_from_a_target(stage: Stage, latency: Path) -> None:
    """--what-if, or -c with --target: this target allows three times its baseline."""
    write_latency(latency, factor=1.4)
    replay = ("replay", str(latency), "--baseline-rows", "0:300")
    assert stage.run(*replay, "--what-if", "threshold=0.6").code == 0
    assert stage.run(*replay, "-c", str(stage.config), "--target", "chat").code == 0
    assert stage.run(*replay).code == 2, "the variable WATCHDOG_CONFIG alone changes nothing"


@pytest.mark.parametrize("change", ["colour=1", "threshold", "threshold=much", "evidence=2"])
def test_rule_that_there_is_not_is_refused(stage: Stage, latency: Path, change: str) -> None:
    """Exit code 1 with what may be changed."""
    write_latency(latency, factor=1.0)
    ended = stage.run("replay", str(latency), "--baseline-rows", "0:300", "--what-if", change)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"watchdog: {latency}: what-if {change!r}: ")


def test_unknown_columns_are_noted_and_not_refused(stage: Stage, latency: Path) -> None:
    """On standard error, so that the lines stay what they are."""
    write_latency(latency, factor=1.0, extra="mood")
    ended = stage.run("replay", str(latency), "--baseline-rows", "0:300", "--json")
    assert ended.code == 0
    assert ended.err == "watchdog: column 'mood' is not known and not used\n"


BAD_ROWS = {
    "word": ("1,fast", "line 3: latency_s must be a number above 0 (given: 'fast')"),
    "negative": ("1,-0.1", "line 3: latency_s must be a number above 0 (given: '-0.1')"),
    "nan": ("1,nan", "line 3: latency_s must be a number above 0 (given: 'nan')"),
    "missing": ("1,", "line 3: latency_s is missing (only a failed request, ok = 0, may lack it)"),
    "backwards": ("-1,0.1", "line 3: time must ascend (-1 follows 0)"),
    "too long": ("1,0.1,2", "line 3: 3 fields, the header has 2"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_refused_with_its_line(stage: Stage, latency: Path, name: str) -> None:
    """Nothing is guessed."""
    row, says = BAD_ROWS[name]
    latency.write_text(f"time,latency_s\n0,0.1\n{row}\n")
    ended = stage.run("replay", str(latency), "--baseline-rows", "0:1")
    assert ended == Ended(1, "", f"watchdog: {latency}: {says}\n")


@pytest.mark.parametrize("rows", ["0", "5:5", "9:1", "a:b", ":", "-1:5", "0:600", "0:5"])
def test_rows_that_make_no_baseline_are_refused(stage: Stage, latency: Path, rows: str) -> None:
    """Half-open, ascending, inside the file, enough of them, and something left to judge."""
    write_latency(latency, factor=1.0)
    ended = stage.run("replay", str(latency), f"--baseline-rows={rows}")
    assert (ended.code, ended.out) == (1, "")
    assert rows in ended.err


def test_a_slowdown_of_which_some_bursts_are_not_known_is_one_alert(stage: Stage, latency: Path) -> None:
    """As the daemon would tell it: once, until it is over."""
    write_latency(latency, factor=1.4, extra="ok")
    header, *rows = latency.read_text().splitlines()
    failed = range(BASELINE_ROWS + 100, BASELINE_ROWS + 110)
    broken = [row[:-1] + "0" if number in failed else row for number, row in enumerate(rows)]
    latency.write_text("\n".join([header, *broken]))
    ended = stage.run("replay", str(latency), "--baseline-rows", "0:300")
    assert ended.out.count("latency WORSE") > 1, "not known in between"
    assert "this rule would have alerted once" in ended.out


def test_store_is_judged_without_a_file(stage: Stage) -> None:
    """--target alone: what the daemon stored, against the active baseline."""
    now = time.time()
    database = stage.database()
    with database.write() as connection:
        baseline = baseline_store.save_baseline(connection, make_baseline())
        baseline_store.promote(connection, baseline, at=now, by="ann", why="first")
        for minute in range(20):
            latency_s = 0.05 if minute < 10 else 0.5
            burst_store.add_burst(connection, make_burst(at=now - 60 * (20 - minute), latency_s=latency_s))
    database.close()
    ended = stage.run("replay --target chat --since 1h --json")
    assert ended.code == 2
    *_, worse, summary = lines_of(ended)
    assert (worse["status"], summary["rows"]) == ("WORSE", 20)
    assert stage.run("replay --target chat --since 11m --what-if threshold=20").code != 2


def test_a_life_is_judged_in_its_own_order(stage: Stage) -> None:
    """The clock was set back by six hours before the worker began to leak: no sample is left out for that."""
    stage.write_config(after='[target.process]\nparent_pid = 1\nworkers = "self"')
    began = time.time() - 6 * 3600
    samples = [
        MemorySample(
            target="chat",
            slot=0,
            life="77@5",
            at=began + (i % 720) * 30,
            uptime_s=i * 30.0,
            host_anon_bytes=500_000_000 + max(0, i - 720) * 10_000_000,
            capacity_bytes=64 * 10**9,
        )
        for i in range(1440)
    ]
    database = stage.database()
    with database.write() as connection:
        memory_store.add_memory(connection, samples)
    database.close()
    *verdicts, summary = lines_of(stage.run("replay --target chat --metric memory --since 7h --json"))
    assert summary["rows"] == 1440
    worse = next(verdict for verdict in verdicts if verdict["status"] == "WORSE")
    assert worse["samples"] > 720
