"""Real servers that leak, and some that do not, as they were recorded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from baselines.verdict import Status
from benchmarks.leak_recorded import BETWEEN, HARMLESS, LEAKS, RECORDINGS, judge, naive, read, slope_against


@pytest.mark.parametrize("variant", LEAKS)
def test_a_real_leak_is_found_and_stays_found(variant: str) -> None:
    """While a third of the recording was seen, with about the slope that the server itself counted."""
    series = read(variant)
    judged = judge(series.points)
    assert judged.told is not None
    assert judged.told.at < series.points[-1].at / 3
    assert judged.last.status is Status.WORSE
    slopes = slope_against(series, judged.told)
    assert slopes is not None
    assert slopes[0] == pytest.approx(slopes[1], rel=0.3)


@pytest.mark.parametrize("variant", HARMLESS)
def test_a_healthy_server_is_never_called_leaking(variant: str) -> None:
    """It warms up, fills its cache, and meets new shapes all the while."""
    assert judge(read(variant).points).told is None


def test_a_cache_that_fills_for_long_is_no_leak_in_the_end() -> None:
    """While it fills, nothing tells it from a leak; once it is full, what was said of it is over."""
    assert judge(read("slow_cache").points).last.status is Status.OK


def test_the_rule_of_thumb_alarms_on_the_healthy_server() -> None:
    """Else these recordings would be too easy."""
    assert naive(read("healthy"))["> 10 MB/h"] is not None


@pytest.mark.parametrize("variant", [*LEAKS, *HARMLESS, *BETWEEN])
def test_a_recording_is_what_it_says(variant: str) -> None:
    """Small, without gaps, with load; only what leaks has kept anything, and that is most of its growth."""
    path = RECORDINGS / f"{variant}.csv"
    series = read(variant)
    assert path.stat().st_size < 300_000
    assert json.loads((RECORDINGS / "about.json").read_text())["variants"][variant]["requests"] > 1000
    times = [point.at for point in series.points]
    assert times[-1] >= 3600
    assert max(np.diff(times)) < 30
    assert sum(point.load is None for point in series.points) <= 1
    grown = (series.points[-1].host_anon_bytes or 0) - (series.points[0].host_anon_bytes or 0)
    assert series.kept[-1] == 0 if variant not in LEAKS else 0.6 * grown < series.kept[-1] < 1.1 * grown
