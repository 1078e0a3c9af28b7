"""The wall clock against the monotonic one: a step is told once, a drift never."""

from __future__ import annotations

import pytest
from builders import Clock

from watchdog.clock import ClockWatch


@pytest.mark.parametrize(
    ("set_by_s", "told"),
    [(-3600.0, True), (3600.0, True), (-2.5, True), (1.5, False), (-1.5, False), (0.0, False)],
    ids=["an hour back", "an hour forward", "seconds back", "drift", "drift back", "not at all"],
)
def test_step_of_the_clock_is_told_once(set_by_s: float, told: bool) -> None:
    """The next look compares with the clock as it is now."""
    now, monotonic = Clock(), Clock(5.0)
    watch = ClockWatch(now=now, monotonic=monotonic)
    monotonic.at += 1.0
    now.at += 1.0 + set_by_s
    assert watch.jump_s() == (pytest.approx(set_by_s) if told else None)
    assert watch.jump_s() is None


def test_time_that_passes_is_no_step() -> None:
    """However late the next look comes."""
    now, monotonic = Clock(), Clock(5.0)
    watch = ClockWatch(now=now, monotonic=monotonic)
    for clock in (now, monotonic):
        clock.at += 86400.0
    assert watch.jump_s() is None
