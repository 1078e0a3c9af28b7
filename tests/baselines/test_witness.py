"""What of the surroundings says that the machine is busier than at baseline."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from synthetic import make_baseline, make_burst, steady

from baselines.seen import Seen, median_fact, see
from baselines.verdict import Reason
from baselines.witness import MARGINS, crowding
from probes.facts import CPU_PRESSURE, CPU_STEAL, OWN_DELAY
from probes.messages import Outcome


def seen_with(*facts: Mapping[str, float]) -> list[Seen]:
    return [Seen(at=0.0, life=None, latencies=(0.05,), controls=(), facts=each, load=None) for each in facts]


@pytest.mark.parametrize("name", MARGINS)
def test_each_fact_is_measured_against_its_own_margin(name: str) -> None:
    """Over what it was nine times in ten at baseline; at the line it is not more."""
    usual = [{name: 0.01 * i} for i in range(11)]
    line = 0.09 + MARGINS[name]
    assert crowding(seen_with({name: line - 0.001}), usual) is None
    assert crowding(seen_with({name: line + 0.001}), usual) == f"{name} {line + 0.001:.2f}, at baseline 0.05"


def test_the_most_conspicuous_is_named() -> None:
    """In words for a person, with what it was."""
    usual = [{CPU_STEAL: 0.0, CPU_PRESSURE: 0.2}] * 5
    seen = seen_with({CPU_STEAL: 0.5, CPU_PRESSURE: 0.6})
    assert crowding(seen, usual) == "cpu_steal 0.50, at baseline 0.00"


@pytest.mark.parametrize(
    ("facts", "usual"),
    [
        ([{}], [{CPU_STEAL: 0.0}]),
        ([{CPU_STEAL: 0.9}], [{}]),
        ([{CPU_STEAL: 0.9}], []),
        ([], [{CPU_STEAL: 0.0}]),
        ([{OWN_DELAY: 0.9}], [{OWN_DELAY: 0.0}]),
    ],
    ids=["not known now", "not known at baseline", "no facts of the baseline", "no bursts", "another fact"],
)
def test_what_is_not_known_says_nothing(facts: list[dict[str, float]], usual: list[dict[str, float]]) -> None:
    """None, never 0."""
    assert crowding(seen_with(*facts), usual) is None


def test_one_burst_beside_a_busy_moment_is_no_crowd() -> None:
    """The median of the bursts that know it counts."""
    seen = seen_with({CPU_STEAL: 0.9}, {CPU_STEAL: 0.01}, {}, {CPU_STEAL: 0.02})
    assert median_fact(seen, CPU_STEAL) == 0.02
    assert crowding(seen, [{CPU_STEAL: 0.01}] * 3) is None


def test_what_is_seen_of_a_burst() -> None:
    """The latencies and controls of judged samples, its facts, and its load where it is known."""
    baseline = make_baseline(steady(np.random.default_rng(0), 3))
    outcomes = [Outcome.GOOD, Outcome.TIMEOUT, Outcome.GOOD, Outcome.GOOD]
    burst = make_burst(
        [0.05, 0.06, 0.07, 0.08],
        outcomes=outcomes,
        tainted=[False, False, False, True],
        controls=[0.002, 0.003, 0.004, 0.005],
        facts={"load": 3.0},
    )
    seen = see(burst, baseline)
    assert isinstance(seen, Seen)
    assert (seen.latencies, seen.controls, seen.load) == ((0.05, 0.07), (0.002, 0.004), 3.0)
    assert see(make_burst([0.05], outcomes=[Outcome.TIMEOUT]), baseline) is Reason.NO_DATA
