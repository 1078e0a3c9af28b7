"""The functions that `python -m benchmarks.fuzz` runs for minutes, here for seconds, on inputs made by hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import PARTS, SEEDS


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_break_no_part(part: str, data: st.DataObject) -> None:
    """Bytes alone, and what is nearly right with some bytes changed."""
    seed = data.draw(st.sampled_from(SEEDS[part]))
    at, length = data.draw(st.integers(0, len(seed))), data.draw(st.integers(0, 20))
    piece = data.draw(st.binary(max_size=30))
    PARTS[part](data.draw(st.sampled_from([piece, seed[:at] + piece + seed[at + length :]])))
