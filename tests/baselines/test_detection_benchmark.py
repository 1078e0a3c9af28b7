"""The benchmark of detection, in small: `--quick` within its wide bounds, and what its tallies count."""

from __future__ import annotations

import argparse
import math

import numpy as np
import pytest

from benchmarks import detection
from benchmarks.detection_follow import follow
from benchmarks.detection_rules import RULES
from benchmarks.detection_streams import BASELINE, CHANGES, NOISE, change, make


@pytest.mark.slow
def test_quick_run_stays_within_wide_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds that no tuning saw; a detector that is broken misses one of these by far."""
    parser = argparse.ArgumentParser()
    detection.describe(parser)
    report = detection.run(parser.parse_args(["--quick", "--seed", "52000", "--jobs", "1"]))
    assert [goal.name for goal in report.goals if not goal.met] == []
    assert {row[0] for row in report.figures["rules"]} == {"ours", "genie", *RULES}
    assert "false alarms in 30 days" in capsys.readouterr().out


@pytest.mark.parametrize("kind", NOISE)
def test_streams_are_made_from_their_seed(kind: str) -> None:
    """The same again with the same seed, another with another; its p95 is where its baseline's is."""
    logs = [make(kind, BASELINE + 200, 4, 10, np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    assert np.array_equal(logs[0], logs[1])
    assert not np.array_equal(logs[0], logs[2])
    rise = np.quantile(logs[0][BASELINE:], 0.95) - np.quantile(logs[0][:BASELINE], 0.95)
    assert abs(rise) < math.log(1.15)


@pytest.mark.parametrize("what", CHANGES)
def test_changes_are_of_the_size_they_say(what: str) -> None:
    """On many samples of plain noise: the p95 after the onset over that before, and before it nothing."""
    rng = np.random.default_rng(3)
    quiet, _ = make("typical", BASELINE + 1200, 20, 10, rng)
    onset = np.full(20, BASELINE + 200)
    slower = change(quiet, what, onset, rng)
    assert np.array_equal(slower[: onset[0]], quiet[: onset[0]])
    rise = np.quantile(slower[onset[0] + 400 :], 0.95) - np.quantile(quiet[:BASELINE], 0.95)
    said = 1.3 if what.startswith("ramp") else 1 + float(what.split("+")[1].removesuffix(" %")) / 100
    assert math.exp(rise) == pytest.approx(said, abs=0.03)


def test_alarms_and_delays_are_counted_in_bursts() -> None:
    """An alarm after an hour of quiet is another one, and each hour that it lasts; the first burst of a change is 1."""
    told = np.zeros((500, 2), dtype=bool)
    told[[10, 40, 200], 0] = True
    told[100:221, 1] = True
    assert detection.count_alarms(told[:, :1]) == 2
    assert detection.count_alarms(told[:, 1:]) == 3
    told[:, 1] = False
    assert detection.delays(told, np.array([195, 100])) == [6.0, math.inf]


def test_a_closer_look_asks_more_and_finds_a_tail_sooner() -> None:
    """On the same streams with and without the requests that it asks for."""
    rng = np.random.default_rng(4)
    logs, _ = make("typical", BASELINE + 200, 6, 30, rng)
    onset = np.full(6, BASELINE + 40)
    logs = change(logs, "p95 only +20 %", onset, rng)
    lanes = range(logs.shape[1])
    closer = [follow(logs[:, i], size=10, stop_after=int(onset[i])) for i in lanes]
    plain = [follow(logs[:, i, :10], size=10, stop_after=int(onset[i])) for i in lanes]
    found = [[int(np.flatnonzero(each.told)[0]) for each in runs] for runs in (closer, plain)]
    assert np.median(found[0]) < np.median(found[1])
    assert all(10 * (at - BASELINE + 1) < each.requests for at, each in zip(found[0], closer, strict=True))
