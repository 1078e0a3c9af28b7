"""When memory is full: by its own growth, by that of others, and as certain as it can be said."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from baselines.figures import Room
from baselines.forecast import Forecast, growth_of_others
from baselines.leak import LeakPolicy, LeakWatch
from baselines.verdict import Level, Verdict
from probes.messages import MemorySample

GB, MB, HOUR = 10**9, 10**6, 3600.0


def workers(count: int, *, others_leak: bool, hours: float = 8.0) -> Verdict:
    """Of one of so many in a cgroup of 32 GB, which leaks 1 MB a minute."""
    watch = LeakWatch(LeakPolicy())
    at = 0.0
    for at in np.arange(0.0, hours * HOUR, 30.0):
        leaked = int(at / 60 * MB)
        sample = MemorySample(
            target="chat",
            slot=0,
            life="7@1",
            at=at,
            uptime_s=at,
            host_anon_bytes=2 * GB + leaked,
            cgroup_bytes=count * 2 * GB + leaked * (count if others_leak else 1),
            capacity_bytes=32 * GB,
            available_bytes=400 * GB,
            load=0.5,
        )
        watch.take([sample])
    return watch.judge(now=at)


def test_workers_that_leak_side_by_side_fill_their_cgroup_together() -> None:
    """Eight of them in a day, and not in eight: which is for somebody to get up for. How long others go on is open."""
    verdict = workers(8, others_leak=True)
    evidence = verdict.evidence
    assert evidence["seconds_to_capacity"] == pytest.approx((16 * GB - 8 * 480 * MB) / (8 * MB) * 60, rel=0.02)
    assert evidence["others_slope_bytes_per_hour"] == pytest.approx(7 * 60 * MB, rel=0.02)
    assert evidence["seconds_to_capacity_high"] is None
    assert verdict.level is Level.PAGE


def test_others_that_are_steady_only_take_their_part() -> None:
    verdict = workers(8, others_leak=False)
    evidence = verdict.evidence
    assert evidence["seconds_to_capacity"] == pytest.approx((16 * GB - 480 * MB) / MB * 60, rel=0.02)
    assert "others_slope_bytes_per_hour" not in evidence
    assert evidence["seconds_to_capacity_high"] is not None
    assert verdict.level is Level.WATCH


@pytest.mark.parametrize(
    ("held", "grows"),
    [
        ([0.0] * 24, False),
        (list(np.arange(24) * 1e6), True),
        (list(np.arange(24) * 1e5), False),
        (list(np.arange(24)[::-1] * 1e6), False),
        ([1e9 * (i % 2) for i in range(24)], False),
    ],
    ids=["nothing", "a line", "less than counts", "a fall", "up and down"],
)
def test_others_grow_only_for_certain(held: list[float], grows: bool) -> None:
    slope = growth_of_others(np.arange(24.0) * 600, np.array(held), min_gain=16e6)
    assert slope == (pytest.approx(1e6 / 600) if grows else 0.0)


def test_nothing_fills_what_has_no_end_or_does_not_grow() -> None:
    full = Forecast(used=9.0, room=Room(capacity=10.0, others=2.0))
    assert full.seconds_left(1.0) == 0.0
    assert full.seconds_left(0.0) is None
    assert replace(full, room=None).seconds_left(1.0) is None
    room = Room(capacity=8e9)  # and an interval without an end is no growth without an end
    told = [Forecast(used=1e9, room=room).seconds_left(slope) for slope in (math.inf, -math.inf, -1.0, 7e9)]
    assert told == [None, None, None, 1.0]
    assert Forecast(used=4.0, room=Room(capacity=10.0, others=2.0), others_slope=1.0).seconds_left(1.0) == 2.0
