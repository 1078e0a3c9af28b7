"""The benchmark of the deploy gate, in small: it asks the gate itself, and counts what it answers."""

from __future__ import annotations

import pytest

from benchmarks.gate import (
    BUSY,
    FIXED,
    NAIVE,
    NOTHING,
    OURS,
    QUICK,
    WITH,
    WITHOUT,
    Answered,
    cell,
    deploy,
    deploy_busy,
    share,
)
from watchdog.deploy_gate import Result


def test_clear_cases_are_clear_to_every_rule() -> None:
    """A quiet host: nothing is nothing, and +50 % is seen, by the gate after few bursts."""
    same, slower = deploy(("quiet", NOTHING, 1, 2)), deploy(("quiet", "+50 %", 1, 2))
    whole = {rule: Answered(result=Result.PROMOTED, bursts=30) for rule in (OURS, FIXED, NAIVE)}
    assert same == [whole | {QUICK: Answered(result=Result.PROMOTED, bursts=6)}] * 2
    assert all(answer.result is Result.SLOWER for each in slower for answer in each.values())
    assert max(each[OURS].bursts for each in slower) < 30


def test_seeds_decide() -> None:
    """The same again with the same seed."""
    assert deploy(("noisy", "+30 %", 1, 1)) == deploy(("noisy", "+30 %", 1, 1))


@pytest.mark.parametrize(
    ("what", "expected"),
    [("machine +25 %", Result.UNDECIDED), ("model +50 %", Result.SLOWER)],
)
def test_control_tells_the_machine_from_the_model(what: str, expected: Result) -> None:
    """The machine moves both, the model one of them."""
    assert set(BUSY[what]) == {1.0, 1.25 if what.startswith("machine") else 1.5}
    answers = deploy_busy((what, 1, 2))
    assert {each[WITH].result for each in answers} == {expected}
    assert share(answers, WITH, expected) == 100.0
    assert WITHOUT in answers[0]


def test_cell_counts() -> None:
    """Slower, not slower, undecided, and the median number of bursts."""
    results = [Result.SLOWER, Result.PROMOTED, Result.PROMOTED, Result.UNDECIDED]
    answers = [{OURS: Answered(result=result, bursts=6 + i)} for i, result in enumerate(results)]
    assert cell(answers, OURS) == "25.0 / 50.0 / 25.0 in 8"
