"""Early looks: when, how sure, and that stopping at them costs next to nothing in wrong answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from synthetic import make_baseline, steady

from baselines.comparison import Answer, compare
from baselines.looks import early_stretch, is_look


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        pytest.param(3, [], id="too few for any"),
        pytest.param(6, [], id="the first would be the last"),
        pytest.param(30, [6, 9, 14, 21], id="the usual plan"),
        pytest.param(100, [6, 9, 14, 21, 32, 48, 72], id="a long one"),
    ],
)
def test_looks_are_few_and_spread(last: int, expected: list[int]) -> None:
    """Each after half as many bursts again; the last is not an early one."""
    assert [bursts for bursts in range(1, 2 * last) if is_look(bursts, last)] == expected


@pytest.mark.parametrize("bursts", [6, 9, 14, 30, 200])
def test_stretch_is_students(bursts: int) -> None:
    """From 1.96 standard errors to the 99.95 % quantile of Student's distribution, within 3 %."""
    assert early_stretch(bursts) * 1.959964 == pytest.approx(stats.t(bursts - 1).ppf(0.9995), rel=0.03)


def test_early_looks_are_hardly_ever_wrong() -> None:
    """At exactly the threshold all early looks together answer once in a hundred runs; at 95 % each, far more often."""
    runs, looks = 100, [bursts for bursts in range(1, 30) if is_look(bursts, 30)]
    active = make_baseline(steady(np.random.default_rng(1), 200, sd=0.12))
    answered = {True: 0, False: 0}
    for rng in np.random.default_rng(2).spawn(runs):
        new = 1.2 * steady(rng, looks[-1], sd=0.12)
        for sure in answered:
            answers = (
                compare(
                    make_baseline(new[:bursts]),
                    active,
                    threshold=0.2,
                    stretch=early_stretch(bursts) if sure else 1.0,
                ).answer
                for bursts in looks
            )
            answered[sure] += any(answer is not Answer.UNDECIDED for answer in answers)
    assert answered[True] <= 0.01 * runs
    assert answered[False] >= 0.05 * runs
