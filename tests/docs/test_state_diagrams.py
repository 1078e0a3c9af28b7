"""The state machines drawn in docs/states.md are those of the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import pytest

from alerts import episode, incident_state
from alerts.episode import RecyclePolicy
from alerts.incident import POLICIES
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Check

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "states.md").read_text()
DIAGRAMS = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
Table = Mapping[StrEnum, Mapping[StrEnum, StrEnum]]


def _edges(table: Table) -> set[tuple[str, str, str]]:
    return {(str(a), str(signal), str(b)) for a, row in table.items() for signal, b in row.items()}


@pytest.mark.parametrize(
    ("drawn", "table", "first", "last"),
    [
        pytest.param(
            DIAGRAMS[0], incident_state.TRANSITIONS, incident_state.State.INACTIVE, frozenset(), id="incident"
        ),
        pytest.param(DIAGRAMS[1], episode.TRANSITIONS, episode.State.SUSPECT, episode.ENDED, id="episode"),
    ],
)
def test_a_diagram_shows_the_table(drawn: str, table: Table, first: StrEnum, last: frozenset[StrEnum]) -> None:
    """Every transition is drawn, and nothing else."""
    edges = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", drawn, re.MULTILINE)
    assert len(edges) == len(set(edges))
    assert {(a, signal, b) for a, b, signal in edges} == _edges(table)
    assert re.findall(r"\[\*\] --> (\w+)", drawn) == [first]
    assert set(re.findall(r"(\w+) --> \[\*\]", drawn)) == last


def test_the_numbers_in_the_prose_are_the_policies() -> None:
    """What the page says of strikes, resolving, flapping, reminders and the breaker."""
    availability, output = POLICIES[Check.AVAILABILITY], POLICIES[Check.OUTPUT]
    assert (availability.fire_strikes, availability.fire_window) == (3, 5)
    assert (output.fire_strikes, output.fire_window) == (2, 2)
    for policy in POLICIES.values():
        assert (policy.resolve_after, policy.flap_limit, policy.resolve_after * policy.flap_resolve_factor) == (
            3,
            3,
            12,
        )
        assert (policy.flap_window_s, policy.repeat_s) == (15 * 60.0, 4 * 3600.0)
    assert f"{RegressionPolicy().line:.2f}" == "1.14"
    assert RecyclePolicy().breaker_limit == 2
