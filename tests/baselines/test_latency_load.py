"""What was normal at which load."""

from __future__ import annotations

import pytest

from baselines.load import ENOUGH, REMEMBERED, LoadHistory, Paced, is_more_work


def history(*loads: float, start: int = 0) -> LoadHistory:
    """A burst a second; off is a tenth of the load, slow a hundredth."""
    found = LoadHistory()
    for at, load in enumerate(loads, start=start):
        found.add(Paced(at=float(at), load=load, off=load / 10, slow=load / 100))
    return found


def test_it_is_asked_at_like_load() -> None:
    """What was at other loads says nothing of this one."""
    found = history(*[2.0] * 20, *[10.0] * 20).at_like(10.0, until=100.0)
    assert found is not None
    assert (found.load, found.off, found.slow) == (10.0, pytest.approx(1.0), pytest.approx(0.1))
    assert history(*[2.0] * 20).at_like(10.0, until=100.0) is None


@pytest.mark.parametrize(
    ("load", "known", "alike"),
    [(10.0, 12.0, True), (10.0, 12.1, False), (10.0, 8.0, True), (0.0, 1.0, True), (0.0, 1.1, False)],
)
def test_alike_is_within_a_fifth_or_one_request(load: float, known: float, *, alike: bool) -> None:
    """On either side; an idle target and one with a single request are alike."""
    assert (history(*[known] * ENOUGH).at_like(load, until=100.0) is not None) is alike


def test_too_few_bursts_tell_nothing() -> None:
    """Ten are enough, and only those before the moment asked about count."""
    assert history(*[5.0] * (ENOUGH - 1)).at_like(5.0, until=100.0) is None
    assert history(*[5.0] * ENOUGH).at_like(5.0, until=100.0) is not None
    assert history(*[5.0] * ENOUGH).at_like(5.0, until=ENOUGH - 1.0) is None


def test_one_bad_burst_does_not_set_what_is_usual() -> None:
    """off is a median."""
    found = history(*[5.0] * 20)
    found.add(Paced(at=20.0, load=5.0, off=9.0, slow=1.0))
    usual = found.at_like(5.0, until=100.0)
    assert usual is not None
    assert usual.off == 0.5


def test_it_holds_a_day() -> None:
    """What is older is forgotten."""
    old, new = [5.0] * ENOUGH, [50.0] * REMEMBERED
    assert history(*old, *new).at_like(5.0, until=1e9) is None
    assert history(*old, *new[ENOUGH:]).at_like(5.0, until=1e9) is not None


@pytest.mark.parametrize(
    ("load", "usual", "ratio", "more"),
    [
        (9.0, 1.0, 1.3, True),
        (1.0, 1.0, 1.3, False),
        (2.0, 1.0, 1.0, True),
        (1.9, 1.0, 1.0, False),
        (5.0, 1.0, 3.0, False),
        (0.0, 0.0, 1.3, False),
        (2.0, 1.0, 0.5, True),
    ],
    ids=[
        "much more",
        "as much",
        "half as much again",
        "not quite",
        "as slowness explains",
        "idle",
        "faster counts as 1",
    ],
)
def test_more_work_is_more_than_slowness_explains(load: float, usual: float, ratio: float, *, more: bool) -> None:
    """By Little's law a target that is thrice as slow holds thrice as many requests of the same demand."""
    assert is_more_work(load, usual, ratio) is more
