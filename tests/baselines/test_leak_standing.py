"""How long something is called a leak: while it goes on, also where a low load hides it, and not much longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from synthetic import START, make_memory

from baselines.leak import LeakPolicy, LeakWatch
from baselines.verdict import Status, Verdict

MB = 1e6
MINUTE, HOUR = 60.0, 3600.0
STEP_S = 30.0


def clock(hours: float) -> np.ndarray:
    return np.arange(0.0, hours * HOUR, STEP_S)


def course(memory: np.ndarray, load: np.ndarray | None, seed: int = 0) -> Iterator[tuple[float, Verdict]]:
    """The hour and the verdict of every five minutes, once it was called a leak. memory: above 3 GB."""
    watch, told = LeakWatch(LeakPolicy()), False
    noise = np.random.default_rng(seed).normal(0, 5 * MB, len(memory))
    for number, point in enumerate(make_memory(3000 * MB + noise + memory, capacity=80_000_000_000)):
        watch.take([point if load is None else replace(point, load=float(load[number]))])
        if number % 10 == 0:
            verdict = watch.judge(now=point.at)
            told = told or verdict.status is Status.WORSE
            if told:
                yield (point.at - START) / HOUR, verdict


def hours_over(memory: np.ndarray, load: np.ndarray | None) -> list[float]:
    """When it was no leak any more, after it had been one."""
    verdicts = list(course(memory, load))
    assert verdicts, "never found"
    return [hour for hour, verdict in verdicts if verdict.status is not Status.WORSE]


def a_day(times: np.ndarray, *, night: float) -> np.ndarray:
    """A load that is 1 at noon, where it begins, and falls to that at midnight."""
    return night + (1 - night) * (0.5 + 0.5 * np.cos(2 * np.pi * times / (24 * HOUR)))


@pytest.mark.parametrize(("rate", "night"), [(3.0, 0.05), (3.0, 0.3), (1.0, 0.0)])
def test_a_leak_per_request_stands_over_the_night(rate: float, night: float) -> None:
    """However slow it is then. It is told as it was by day, with what is in use now."""
    times = clock(60)
    load = a_day(times, night=night)
    memory = rate * MB * np.cumsum(load) * STEP_S / MINUTE
    verdicts = list(course(memory, load))
    assert {verdict.status for _, verdict in verdicts} == {Status.WORSE}
    used = [float(verdict.evidence["used_bytes"] or 0) for _, verdict in verdicts]
    assert used[-1] == pytest.approx(3000 * MB + memory[-1], rel=0.02)
    assert min(float(verdict.evidence["slope_bytes_per_hour"] or 0) for _, verdict in verdicts) > 0
    quiet_h = [float(v.evidence["seconds_quiet"] or 0) / HOUR for _, v in verdicts if "seconds_quiet" in v.evidence]
    assert max(quiet_h, default=0.0) < 20
    assert bool(quiet_h) == (night == 0.0), "it is said where the leak is not seen"


def test_a_leak_that_stopped_at_night_is_over_by_the_next_evening() -> None:
    """The night cannot tell, the day can."""
    times = clock(60)
    load = a_day(times, night=0.05)
    served = np.cumsum(np.where(times < 10 * HOUR, load, 0.0)) * STEP_S / MINUTE
    over = hours_over(3 * MB * served, load)
    assert 10 < over[0] < 44
    assert over[-1] > 59, "and stays over"


def test_under_a_load_that_never_comes_back_a_leak_is_over_after_a_day() -> None:
    """Nothing is asked of it any more, so that nothing can be seen of a leak per request."""
    times = clock(72)
    load = np.where(times < 8 * HOUR, 1.0, 0.0)
    memory = 2 * MB * np.minimum(times, 8 * HOUR) / MINUTE
    over = hours_over(memory, load)
    assert 24 + 8 < over[0] < 24 + 16


def test_what_is_given_back_at_night_is_over_at_night() -> None:
    """As by a trim: nobody waits for the day."""
    times = clock(30)
    load = a_day(times, night=0.05)
    memory = 3 * MB * np.cumsum(load) * STEP_S / MINUTE
    over = hours_over(np.where(times > 10 * HOUR, 0.05 * memory, memory), load)
    assert 10 < over[0] < 14


def test_a_leak_of_an_idle_worker_can_end() -> None:
    """Its load is zero, of which nothing is a share."""
    times = clock(30)
    over = hours_over(MB * np.minimum(times, 8 * HOUR) / MINUTE, np.zeros(len(times)))
    assert 9 < over[0] < 16


@pytest.mark.parametrize("known", [True, False])
def test_a_rise_that_bends_is_not_over_before_it_is_half(known: bool) -> None:
    """Its floors hang together so much that the interval of its slope has no end, and yet it gains 3 GB a day."""
    times = clock(24)
    wavy = 2 * MB * times / MINUTE + 60 * MB * np.sin(2 * np.pi * times / (9 * HOUR))
    assert hours_over(wavy, np.full(len(times), 0.5) if known else None) == []
