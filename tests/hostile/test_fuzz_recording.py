"""Whatever a recording holds: points, or ReplayError with its line; and what was read can be judged."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from baselines.leak import LeakPolicy
from baselines.recording import ReplayError, read_latency_csv, read_memory_csv
from baselines.replay import baseline_of, parse_rows, replay_latency, replay_memory
from baselines.slowdown import RegressionPolicy

many = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])

ODD_CELLS = [
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "0",
    "1e308",
    "-1e308",
    "5e-324",
    "1_0",
    "0x10",
    "'",
    '"',
    "\x00",
    "\ud800",
    "\N{ARABIC-INDIC DIGIT ONE}",
]
CELLS = st.sampled_from(ODD_CELLS) | st.floats().map(repr) | st.integers().map(str) | st.text(max_size=5)
LATENCY = ["time", "latency_s", "ok", "reason", "burst", "control_s", "load", "worker"]
MEMORY = ["time", "used_bytes", "capacity_bytes", "load", "worker", "allocated_bytes", "host_anon_bytes"]


def tables(columns: list[str]) -> st.SearchStrategy[str]:
    """CSV whose header is mostly right and whose cells are mostly not."""
    header = st.lists(st.sampled_from([*columns, "", "other"]), max_size=9) | st.just(columns[:2])
    return header.flatmap(
        lambda names: st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), max_size=6).map(
            lambda rows: "\n".join(",".join(row) for row in [names, *rows])
        )
    )


def series(*, low: float, high: float) -> st.SearchStrategy[list[tuple[float, float]]]:
    """Rows that can be read: times that ascend, and any value that is allowed."""
    return st.lists(st.tuples(st.floats(-6e10, 2e11), st.floats(low, high)), min_size=1, max_size=60).map(
        lambda rows: list(zip(sorted(t for t, _ in rows), (v for _, v in rows), strict=True))
    )


def check_lines(lines: Any) -> None:
    """What `watchdog replay` prints can be printed: JSON of this world, at a time that the calendar knows."""
    for line in lines:
        json.dumps(line, allow_nan=False)
        if line["type"] == "verdict":
            datetime.fromtimestamp(line["time"], UTC)


def replay_latencies(text: str) -> None:
    points = read_latency_csv(text.splitlines(keepends=True)).points
    first, last = parse_rows(f"0:{max(1, len(points) // 2)}")
    baseline = baseline_of(points, first, last)
    check_lines(replay_latency(points, baseline=baseline, first_row=last, policy=RegressionPolicy()))


def replay_memories(text: str) -> None:
    points = read_memory_csv(text.splitlines(keepends=True)).points
    check_lines(replay_memory(points, policy=LeakPolicy()))


@pytest.mark.parametrize("replay", [replay_latencies, replay_memories])
@many
@given(text=st.text() | tables(LATENCY) | tables(MEMORY))
@example(text="time,latency_s\n1e308,1\n")
@example(text="time,latency_s\n-1e300,1\n1e300,1\n")
@example(text="time,used_bytes\n0," + "9" * 400 + "\n")
@example(text="time,used_bytes\n0,1e300\n1,0\n")
@example(text='time,latency_s\n"' + "x" * 200_000 + '",1\n')
@example(text="time,latency_s\r1,1\r")
@example(text="time,latency_s\n1,1\x00\n")
def test_any_text_is_read_and_judged_or_refused(replay: Any, text: str) -> None:
    """Nothing but ReplayError, whose message is one line that a terminal can show."""
    try:
        replay(text)
    except ReplayError as error:
        said = str(error)
        assert said.isprintable()
        assert len(said) < 400


@many
@given(rows=series(low=1e-9, high=1e9))
@example(rows=[(0.0, 1e-9), (0.1, 1e9)])
def test_any_latencies_can_be_judged(rows: list[tuple[float, float]]) -> None:
    """From a nanosecond to thirty years."""
    with contextlib.suppress(ReplayError):  # too few of them, in too few bursts
        replay_latencies("time,latency_s\n" + "\n".join(f"{t!r},{v!r}" for t, v in rows))


@many
@given(rows=series(low=0, high=2.0**62))
def test_any_memory_can_be_judged(rows: list[tuple[float, float]]) -> None:
    """From nothing to exbibytes, in ages or all at once."""
    replay_memories("time,used_bytes\n" + "\n".join(f"{t!r},{v!r}" for t, v in rows))


@many
@given(st.text(max_size=12) | st.tuples(st.integers(), st.integers()).map(lambda p: f"{p[0]}:{p[1]}"))
def test_any_rows_are_read_or_refused(rows: str) -> None:
    """`--baseline-rows`."""
    try:
        first, last = parse_rows(rows)
    except ReplayError:
        return
    assert 0 <= first < last
    assert math.isfinite(first)
