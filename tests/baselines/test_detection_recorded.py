"""Latencies of a real server beside busy neighbours, as they were recorded, and the parts that record them."""

from __future__ import annotations

import gzip
import math
import random
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from baselines.recording import read_latency_csv
from baselines.slowdown import RegressionPolicy
from benchmarks.detection_recorded import Trace, logarithms, outcome, read, replay, run_on, traces
from benchmarks.detection_rules import RULES
from benchmarks.regression_recorder import (
    BASELINE,
    BLOCK,
    BURNERS,
    COLUMNS,
    FOLDER,
    JUDGED,
    ONSET,
    PLANS,
    SIZE,
    contention,
    rows_of,
    write_csv,
)
from probes.messages import Burst, Identity, Outcome, Sample

TRACES = traces()
STILL = [trace for trace in TRACES if trace.change == "none"]


@pytest.mark.parametrize("trace", STILL, ids=lambda trace: trace.name)
def test_a_busy_machine_is_not_taken_for_a_slower_model(trace: Trace) -> None:
    """Nothing changed in these; a test of fifteen bursts against the baseline alarms in each."""
    requests = read(trace)
    assert not replay(requests, RegressionPolicy()).any()
    usual = RULES["Mann-Whitney, 15"]
    assert (usual.score(logarithms(requests)) >= usual.line).any()


@pytest.mark.parametrize("seed", [7, 17, 18, 24, 27, 32])
def test_a_slower_model_is_told_from_a_busy_machine(seed: int) -> None:
    """Of those recorded on a machine left alone, +30 % and one of +20 %: within 25 bursts, and nothing before."""
    (trace,) = (trace for trace in TRACES if trace.seed == seed)
    found = outcome(replay(read(trace), RegressionPolicy()), trace.onset)
    assert found.false == 0
    assert found.delay is not None
    assert found.delay <= 25


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_a_recording_is_what_it_says(trace: Trace) -> None:
    """Every burst is there, hardly a request is missing, a control stands beside each, and the change comes in time."""
    requests = read(trace)
    bursts = [int(request.burst or 0) for request in requests]
    assert sorted(set(bursts)) == list(range(BASELINE + JUDGED))
    assert len(requests) > 0.99 * SIZE * len(set(bursts))
    assert all(r.sample.outcome is Outcome.GOOD for r in requests)
    assert sum(r.sample.control_s is None for r in requests) == 0
    assert (trace.onset is None) == (trace.change == "none")
    assert trace.onset is None or ONSET[0] <= trace.onset - BASELINE <= ONSET[1]
    plan = PLANS[trace.seed]
    assert (plan.host, plan.change, plan.tuning) == (trace.host, trace.change, trace.tuning)


def test_a_recording_of_ones_own_is_judged_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bursts are named by their time there; of a file that is too short it is said how much is missing."""
    lines = gunzip(FOLDER / "09.csv.gz")
    named = [
        lines[0],
        *(",".join([*c[:4], f"17000{c[4]}.25", *c[5:]]) for c in (line.split(",") for line in lines[1:])),
    ]
    whole, short = tmp_path / "whole.csv", tmp_path / "short.csv"
    whole.write_text("\n".join(named))
    short.write_text("\n".join(named[:101]))
    assert run_on([whole]).figures["recordings"][0][:3] == ("whole.csv", BASELINE + JUDGED, 0)
    assert "Mann-Whitney" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="10 bursts; 60 are the baseline"):
        run_on([short])


def test_the_recordings_stay_small() -> None:
    """They travel with every clone."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000


def test_every_change_was_recorded_for_tuning_and_for_reports() -> None:
    """On a contended host."""
    kinds = {(trace.change, trace.tuning) for trace in TRACES if trace.host == "contended"}
    assert kinds == {(change, tuning) for change in ("none", "+20 %", "+30 %", "p95 only") for tuning in (True, False)}


def test_contention_comes_in_blocks_and_from_the_seed() -> None:
    """Quiet first, then busy by turns; the same seed, the same blocks."""
    burners = contention(random.Random(7), 20_000)
    assert burners == contention(random.Random(7), 20_000) != contention(random.Random(8), 20_000)
    runs = [(count, len(list(run))) for count, run in groupby(burners)][:-1]
    assert runs[0][0] == 0
    busy = [(count, length) for count, length in runs if count]
    assert {count for count, _ in busy} == set(range(BURNERS[0], BURNERS[1] + 1))
    assert {length for _, length in busy} == set(range(BLOCK[0], BLOCK[1] + 1))
    assert np.mean([length for count, length in runs if not count]) == pytest.approx(40, rel=0.2)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """A minute from burst to burst; what the recorder itself held up is left out; equal rows make equal bytes."""
    samples = (
        Sample(at=1000.0, outcome=Outcome.GOOD, latency_s=0.004, control_s=0.001, life="7@9"),
        Sample(at=1000.1, outcome=Outcome.GOOD, latency_s=0.009, control_s=0.001, tainted=True),
        Sample(at=1000.2, outcome=Outcome.TIMEOUT),
    )
    burst = Burst(target="t", canary="c", at=1000.0, samples=samples, identity=Identity(input_hash="x"), worker_cpu=0.5)
    for name in ("one", "two"):
        write_csv(tmp_path / name, COLUMNS, [row for number in (0, 1) for row in rows_of(number, burst)])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    text = gunzip(tmp_path / "one")
    assert text[1] == "0.000,0.004000,1,good,0,0.001000,0.500,7@9"
    points = read_latency_csv(text).points
    assert [p.sample.at for p in points] == [0.0, 0.2, 60.0, 60.2]
    assert [p.burst for p in points] == ["0", "0", "1", "1"]
    assert [p.sample.outcome for p in points] == [Outcome.GOOD, Outcome.TIMEOUT] * 2


def gunzip(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.mark.parametrize(
    ("told", "onset", "false", "delay"),
    [
        ([0, 1, 1, 0, 1, 0], None, 2, None),
        ([0, 1, 0, 0, 0, 1], 3, 1, 3.0),
        ([0, 0, 0, 1, 1, 1], 3, 0, 1.0),
        ([0, 0, 1, 1, 1, 1], 3, 1, None),
        ([0, 0, 0, 0, 0, 0], 3, 0, math.inf),
    ],
    ids=["no change", "false before", "at once", "still on from before", "never"],
)
def test_alarms_before_the_change_are_false(
    told: list[int], onset: int | None, false: int, delay: float | None
) -> None:
    """And the delay counts from the change, the first burst after it being 1."""
    found = outcome(np.array(told, dtype=bool), onset)
    assert (found.false, found.delay) == (false, delay)
