"""Replay speaks the contract: keys, lines on change only, summary; and judges as the live detectors do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from synthetic import START, make_baseline, make_bursts, make_memory, steady

from baselines.leak import LeakPolicy, judge_memory
from baselines.recording import ReplayError, Request, read_latency_csv, read_memory_csv
from baselines.regression import judge_latency
from baselines.replay import (
    Line,
    _group,
    apply_what_if,
    baseline_of,
    parse_rows,
    replay_bursts,
    replay_latency,
    replay_memory,
)
from baselines.slowdown import RegressionPolicy

VERDICT_KEYS = [
    *("type", "schema", "time", "row", "check", "status", "reason", "cause", "level", "since", "samples"),
    *("ratio", "ratio_low", "ratio_high", "channel"),
    *("slope_bytes_per_hour", "slope_low", "slope_high", "seconds_to_capacity"),
]
SUMMARY_KEYS = ["type", "schema", "rows", "worse", "first_worse"]
MB = 1e6


def latency_lines(bursts: int = 90, *, slow_from: int = 60, slow: float = 1.3, slow_until: int = 10**6) -> list[str]:
    """Ten requests a minute, 0.1 s apart; 30 bursts for the baseline, slower from `slow_from` on."""
    rows = steady(np.random.default_rng(0), bursts)
    rows[slow_from:slow_until] *= slow
    lines = ["time,latency_s"]
    for minute, row in enumerate(rows):
        lines += [f"{60 * minute + 0.1 * i:.1f},{value:.6f}" for i, value in enumerate(row)]
    return lines


def read(lines: list[str]) -> Sequence[Request]:
    return read_latency_csv(line + "\n" for line in lines).points


def replay(lines: list[str], rows: str = "0:300", policy: RegressionPolicy | None = None) -> list[Line]:
    requests = read(lines)
    first, last = parse_rows(rows)
    baseline = baseline_of(requests, first, last)
    policy = policy or RegressionPolicy()
    return list(replay_latency(requests, baseline=baseline, first_row=last, policy=policy))


def test_a_slowdown_is_one_line_and_one_summary() -> None:
    """UNKNOWN until three bursts are there, OK, WORSE three bursts into the slowdown, then the summary."""
    *verdicts, summary = replay(latency_lines())
    assert [v["status"] for v in verdicts] == ["UNKNOWN", "OK", "WORSE"]
    assert [v["row"] for v in verdicts] == [309, 329, 629]
    worse = verdicts[-1]
    assert (worse["time"], worse["since"]) == (60 * 62 + 0.9, 60 * 60)
    assert (worse["check"], worse["reason"], worse["cause"], worse["level"]) == (
        "latency",
        "regressed",
        "unknown",
        "page",
    )
    assert worse["ratio_low"] <= 1.3 <= worse["ratio_high"]  # type: ignore[operator]
    assert (worse["samples"], worse["channel"]) == (30, "whole")
    assert summary == {"type": "summary", "schema": 1, "rows": 900, "worse": 1, "first_worse": 60 * 62 + 0.9}


def test_lines_have_exactly_the_keys_of_the_contract() -> None:
    """Every key is there, in order, null where it does not apply; each line is JSON without NaN."""
    *verdicts, summary = [*replay(latency_lines()), *replay_memory(make_memory(leak(6)), policy=LeakPolicy())]
    for line in verdicts:
        assert list(line) == (VERDICT_KEYS if line["type"] == "verdict" else SUMMARY_KEYS)
        json.dumps(line, allow_nan=False)
    assert list(summary) == SUMMARY_KEYS
    assert verdicts[0]["slope_low"] is None


def test_a_steady_recording_is_never_worse() -> None:
    """A summary with zero and null."""
    *verdicts, summary = replay(latency_lines(slow=1.0))
    assert [v["status"] for v in verdicts] == ["UNKNOWN", "OK"]
    assert (summary["worse"], summary["first_worse"]) == (0, None)


def test_two_episodes_are_counted_as_two() -> None:
    """Recovered and slow again: WORSE twice, first_worse is the first."""
    lines = latency_lines(120, slow_from=60, slow_until=70)
    again = latency_lines(120, slow_from=90, slow_until=100)
    *verdicts, summary = replay(lines[:851] + again[851:])
    assert [v["status"] for v in verdicts] == ["UNKNOWN", "OK", "WORSE", "OK", "WORSE", "OK"]
    assert summary["worse"] == 2
    assert summary["first_worse"] == verdicts[2]["time"]


def test_replay_says_what_the_live_judge_says() -> None:
    """Burst by burst, the last line so far is the live verdict."""
    ratios = np.where(np.arange(40) < 20, 1.0, 1.4)
    bursts = make_bursts(steady(np.random.default_rng(1), 40) * ratios[:, None])
    baseline, policy = make_baseline(steady(np.random.default_rng(2), 30)), RegressionPolicy()
    *lines, _ = replay_bursts(bursts, baselines=[baseline], policy=policy)
    for i, burst in enumerate(bursts):
        live = judge_latency(bursts[: i + 1], baseline, policy, now=burst.samples[-1].at)
        said = [line for line in lines if line["row"] <= i][-1]  # type: ignore[operator]
        assert (said["status"], said["level"]) == (live.status, live.level)


def test_each_burst_is_judged_by_the_baseline_that_was_active() -> None:
    """A version that was well in its time is not judged by the faster one after it; nor the other way round."""
    rng = np.random.default_rng(3)
    rows = steady(rng, 200)
    rows[:100] *= 1.4
    bursts = make_bursts(rows)
    old, new = (replace(make_baseline(rows[n : n + 60]), since=bursts[n].at) for n in (0, 100))
    *lines, _ = replay_bursts(bursts, baselines=[old, new], policy=RegressionPolicy())
    assert [line["status"] for line in lines] == ["UNKNOWN", "OK", "UNKNOWN", "OK"]
    *lines, _ = replay_bursts(bursts, baselines=[new], policy=RegressionPolicy())
    assert [line["status"] for line in lines] == ["UNKNOWN", "WORSE", "OK"]
    *lines, _ = replay_bursts(bursts[:2], baselines=[], policy=RegressionPolicy())
    assert [line["reason"] for line in lines] == ["no_baseline"]


def test_without_a_baseline_nothing_is_decided() -> None:
    """One UNKNOWN line: there is nothing to compare with."""
    *verdicts, summary = replay_latency(read(latency_lines()), baseline=None, policy=RegressionPolicy())
    assert [(v["status"], v["reason"]) for v in verdicts] == [("UNKNOWN", "no_baseline")]
    assert summary["worse"] == 0


def test_a_gap_of_more_than_five_seconds_starts_a_burst() -> None:
    """5.0 s is the same burst, 5.1 s another; a named burst goes by its name alone."""
    times = [0.0, 5.0, 10.1, 10.2]
    gaps = read(["time,latency_s", *[f"{t},0.05" for t in times]])
    named = read(["time,latency_s,burst", *[f"{t},0.05,{b}" for t, b in zip(times, "aabb", strict=True)]])
    one = read(["time,latency_s,burst", *[f"{t},0.05,a" for t in times]])
    assert [sizes(requests) for requests in (gaps, named, one)] == [[2, 2], [2, 2], [4]]


def sizes(requests: Sequence[Request]) -> list[int]:
    return [len(burst.samples) for _, burst in _group(requests, like=None)]


def test_failed_rows_are_left_out_of_the_baseline_and_of_the_judgement() -> None:
    """A time-out in the baseline spoils nothing; a burst of failures is UNKNOWN and ends no slowdown."""
    lines = [line + "," for line in latency_lines()]
    lines[0] = "time,latency_s,ok"
    lines[5] = lines[5].split(",")[0] + ",,0"
    for i in range(1 + 700, 1 + 710):
        lines[i] = lines[i].split(",")[0] + ",,0"
    *verdicts, summary = replay(lines)
    assert [v["status"] for v in verdicts] == ["UNKNOWN", "OK", "WORSE", "UNKNOWN", "WORSE"]
    assert verdicts[3]["reason"] == "no_data"
    assert summary["rows"] == 900


@pytest.mark.parametrize("text", ["", "10", "10:", ":10", "10:5", "5:5", "a:b", "-1:5", "1:2:3"])
def test_rows_that_make_no_range_are_refused(text: str) -> None:
    """A:B with A below B, nothing else."""
    with pytest.raises(ReplayError, match="A:B"):
        parse_rows(text)


@pytest.mark.parametrize(
    ("rows", "message"),
    [("0:900", "rows 0 to 899"), ("0:5000", "rows 0 to 899"), ("0:10", "10 good samples")],
    ids=["nothing left to judge", "beyond the end", "too few samples"],
)
def test_a_baseline_that_cannot_be_taken_is_refused(rows: str, message: str) -> None:
    """The message says what the file holds or what is missing."""
    with pytest.raises(ReplayError, match=message):
        replay(latency_lines(), rows)


def test_the_verdict_flips_with_one_recorded_number() -> None:
    """The third slow burst decides: with one of its latencies as ever it does not agree."""
    lines = ["time,latency_s"]
    for minute in range(40):
        value = 0.065 if minute >= 37 else 0.05
        lines += [f"{60 * minute + i},{value}" for i in range(3)]
    assert replay(lines, "0:90")[-1]["worse"] == 1
    lines[-1] = "2342,0.05"
    assert replay(lines, "0:90")[-1]["worse"] == 0


def leak(hours: float, rate_mb_per_minute: float = 2.0) -> np.ndarray:
    times = np.arange(0.0, hours * 3600, 30.0)
    rng = np.random.default_rng(3)
    return 3000 * MB + rng.normal(0, 2 * MB, len(times)) + rate_mb_per_minute * MB * times / 60


def memory_csv(used: np.ndarray, *, workers: Sequence[str] | None = None) -> list[str]:
    workers = workers or ["a"] * len(used)
    rows = [f"{30 * i},{value:.0f},8e9,{w}\n" for i, (value, w) in enumerate(zip(used, workers, strict=True))]
    return ["time,used_bytes,capacity_bytes,worker\n", *rows]


def replay_memory_csv(lines: list[str], policy: LeakPolicy | None = None) -> list[Line]:
    return list(replay_memory(read_memory_csv(lines).points, policy=policy or LeakPolicy()))


def test_a_leak_is_dated() -> None:
    """UNKNOWN while too young, then WORSE with slope, interval and time to capacity."""
    *verdicts, summary = replay_memory_csv(memory_csv(leak(6)))
    assert [v["status"] for v in verdicts] == ["UNKNOWN", "OK", "WORSE"]
    worse = verdicts[-1]
    assert (worse["check"], worse["reason"], worse["cause"], worse["level"]) == ("memory", "leaking", "model", "page")
    assert worse["slope_bytes_per_hour"] == pytest.approx(120 * MB, rel=0.1)
    assert worse["slope_low"] <= 120 * MB <= worse["slope_high"]  # type: ignore[operator]
    left = (8e9 - 3e9 - 2 * MB * worse["time"] / 60) / (2 * MB / 60)  # type: ignore[operator]
    assert worse["seconds_to_capacity"] == pytest.approx(left, rel=0.1)
    assert summary["rows"] == 720


def test_a_rise_of_level_is_a_line() -> None:
    """Page becomes urgent as the end comes near: one more line, still one episode."""
    *verdicts, summary = replay_memory_csv(memory_csv(leak(40)))
    assert [(v["status"], v["level"]) for v in verdicts if v["status"] == "WORSE"] == [
        ("WORSE", "page"),
        ("WORSE", "urgent"),
    ]
    assert summary["worse"] == 1


def test_a_new_worker_is_a_new_life() -> None:
    """A restart every two hours hides each leak from a window that never spans two lives."""
    used = np.concatenate([leak(2)] * 3)
    workers = [w for w in "abc" for _ in range(240)]
    assert replay_memory_csv(memory_csv(used, workers=workers))[-1]["worse"] == 0
    assert replay_memory_csv(memory_csv(leak(6)))[-1]["worse"] == 1


def test_workers_side_by_side_are_judged_apart() -> None:
    """Rows of two workers take turns; only the one that leaks is WORSE, and neither's line repeats."""
    steady_rows, leaking_rows = leak(6, 0.0), leak(6)
    used = np.stack([steady_rows, leaking_rows], axis=1).reshape(-1)
    lines = memory_csv(used, workers=["a", "b"] * len(leaking_rows))
    *verdicts, summary = replay_memory_csv(lines)
    assert sorted(v["status"] for v in verdicts) == ["OK", "OK", "UNKNOWN", "UNKNOWN", "WORSE"]
    assert summary["worse"] == 1


def test_a_long_life_keeps_its_age() -> None:
    """The start of a life leaves the window and is not forgotten: warm-up does not begin anew."""
    policy = LeakPolicy(window_s=600.0, warmup_s=300.0)
    points = make_memory(leak(4, 0.0))
    *verdicts, _ = replay_memory(points, policy=policy)
    assert [v["status"] for v in verdicts] == ["UNKNOWN", "OK"]
    tail = [p for p in points if p.at >= points[-1].at - policy.lookback_s]
    assert judge_memory(tail, policy, now=points[-1].at).status == verdicts[-1]["status"]


def test_the_life_after_a_leak_says_that_it_is_gone() -> None:
    """As live: until then it is not known. A life beside one that leaks has no leak before it."""
    leaking = make_memory(leak(6))
    lasted = leaking[-1].at - leaking[0].at
    fixed = [replace(p, life="b", at=p.at + lasted + 30) for p in make_memory(leak(6, 0.0))]
    points = [replace(p, load=0.5) for p in [*leaking, *fixed]]
    *verdicts, summary = replay_memory(points, policy=LeakPolicy())
    said = [(v["status"], v["reason"]) for v in verdicts[3:]]
    assert said[0] == ("UNKNOWN", "warming_up")
    assert said[-1] == ("OK", "leak_gone")
    assert ("OK", "steady") not in said
    assert summary["worse"] == 1
    beside = sorted([*leaking, *(replace(p, at=p.at - lasted / 2) for p in fixed)], key=lambda p: p.at)
    *verdicts, _ = replay_memory([replace(p, load=0.5) for p in beside], policy=LeakPolicy())
    assert "leak_gone" not in {v["reason"] for v in verdicts}


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("threshold=0.5", "threshold", 0.5),
        (" evidence = 10 ", "evidence", 10.0),
        ("evidence=1e1", "evidence", 10.0),
    ],
)
def test_what_if_changes_one_number(change: str, field: str, value: float) -> None:
    """The rest of the policy stays as it is."""
    changed = apply_what_if(RegressionPolicy(), change)
    assert getattr(changed, field) == value
    assert isinstance(getattr(changed, field), type(value))


def test_what_if_flips_a_verdict() -> None:
    """+30 % would not have been reported at a threshold of 50 %."""
    policy = apply_what_if(RegressionPolicy(), "threshold=0.5")
    assert replay(latency_lines(), policy=policy)[-1]["worse"] == 0


def test_what_if_may_set_and_unset_a_capacity() -> None:
    """none unsets what may be unset; half a byte is no capacity."""
    policy = apply_what_if(LeakPolicy(), "capacity_bytes=4e9")
    assert policy.capacity_bytes == 4_000_000_000
    assert apply_what_if(policy, "capacity_bytes=none").capacity_bytes is None
    with pytest.raises(ReplayError, match="must be a whole number"):
        apply_what_if(policy, "capacity_bytes=2.5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("threshold", "allowed are threshold=, evidence="),
        ("treshold=0.5", "allowed are threshold=, evidence="),
        ("threshold=lots", "must be a number"),
        ("threshold=nan", "must be a number"),
        ("threshold=none", "must be a number"),
        ("evidence=2", "evidence must be from 3 to 20 deviations"),
        ("threshold=-1", "threshold must be above 0"),
    ],
)
def test_what_if_errors_name_what_is_allowed(change: str, message: str) -> None:
    """A typing error is answered with the keys there are."""
    with pytest.raises(ReplayError, match=message):
        apply_what_if(RegressionPolicy(), change)


def test_stored_bursts_keep_their_own_identity_and_times() -> None:
    """Replay from the store numbers bursts and ends each verdict at its last sample."""
    bursts = make_bursts(steady(np.random.default_rng(4), 6))
    *lines, summary = replay_bursts(
        bursts, baselines=[make_baseline(steady(np.random.default_rng(5), 30))], policy=RegressionPolicy()
    )
    assert [(v["row"], v["status"]) for v in lines] == [(0, "UNKNOWN"), (2, "OK")]
    assert lines[0]["time"] == pytest.approx(START + 0.9)
    assert summary["rows"] == 6
