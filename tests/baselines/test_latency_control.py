"""What a control says of a slowdown: how much of it the machine shared, and whether its floor rose."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synthetic import steady

from baselines.control import MIN_SHIFT, Control

RNG = np.random.default_rng(0)
BURSTS, CONTROLS = steady(RNG, 60), steady(RNG, 60, typical=0.002)
LATER, LATER_CONTROLS = steady(RNG, 20), steady(RNG, 20, typical=0.002)


def control() -> Control:
    return Control(tuple(map(tuple, BURSTS.tolist())), tuple(map(tuple, CONTROLS.tolist())))


@pytest.mark.parametrize(
    ("canary", "beside", "share"),
    [(1.3, 1.3, 1.0), (1.3, 1.0, 0.0), (1.69, 1.3, 0.5), (1.3, 1.69, 2.0), (1.0, 1.0, 0.0), (0.7, 1.3, 0.0)],
    ids=["both", "the canary alone", "half", "the control more", "neither", "the canary got faster"],
)
def test_share_is_of_the_logarithms(canary: float, beside: float, share: float) -> None:
    """1 when both became so many times as slow; 0 when either did not."""
    found = control().share((LATER * canary).tolist(), (LATER_CONTROLS * beside).tolist())
    assert found == pytest.approx(share, abs=0.1)


def test_a_control_that_hardly_moved_did_not_move() -> None:
    """Below 3 % it is noise, were it all of a canary's shift."""
    just = math.exp(MIN_SHIFT)
    rows, beside = np.full((30, 10), 0.05), np.full((30, 10), 0.002)
    flat = Control(tuple(map(tuple, rows.tolist())), tuple(map(tuple, beside.tolist())))
    assert flat.share((rows * 1.02).tolist(), (beside * (just - 0.001)).tolist()) == 0
    assert flat.share((rows * 1.02).tolist(), (beside * (just + 0.001)).tolist()) > 1


def test_a_busy_machine_shows_in_the_controls_slowest() -> None:
    """A short request is seldom hit: its location stays, its slowest tell."""
    hit = LATER_CONTROLS.copy()
    hit[:, 8:] *= 1.6
    assert control().share((LATER * 1.4).tolist(), hit.tolist()) > 1 / 3


def test_share_does_not_depend_on_the_unit() -> None:
    """Of either."""
    scaled = Control(tuple(map(tuple, (BURSTS * 1e3).tolist())), tuple(map(tuple, (CONTROLS * 1e3).tolist())))
    rows, beside = LATER * 1.3, LATER_CONTROLS * 1.15
    expected = control().share(rows.tolist(), beside.tolist())
    assert scaled.share((rows * 1e3).tolist(), (beside * 1e3).tolist()) == pytest.approx(expected)


def test_a_busy_baseline_still_knows_a_quiet_machine() -> None:
    """Half of its bursts were taken while the machine was busy: as slow as those is still slow."""
    rows, beside = BURSTS.copy(), CONTROLS.copy()
    rows[::2] *= 1.5
    beside[::2] *= 1.5
    half = Control(tuple(map(tuple, rows.tolist())), tuple(map(tuple, beside.tolist())))
    assert half.share((LATER * 1.5).tolist(), (LATER_CONTROLS * 1.5).tolist()) == pytest.approx(1.0, abs=0.1)


def test_without_controls_nothing_was_shared() -> None:
    """Missing evidence is none: 0, and no floor."""
    assert control().share((LATER * 1.3).tolist(), [()] * 20) == 0
    assert control().share([], []) == 0
    assert control().low(()) is None


def test_the_floor_is_of_bursts_with_enough_controls() -> None:
    """Bursts without any, or with too few of them, have none."""
    rows = (LATER_CONTROLS * 1.2).tolist()
    lows = [control().low(row) for row in rows]
    assert control().low(rows[0][:3]) is None
    assert control().floor.lift([low for low in lows if low is not None]).ratio == pytest.approx(1.2, abs=0.02)
