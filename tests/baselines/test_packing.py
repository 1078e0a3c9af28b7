"""Samples packed into one JSON value: what comes out is what went in, and nothing is written that says nothing."""

from __future__ import annotations

import json
import math

import pytest
from builders import NOW
from hypothesis import example, given
from hypothesis import strategies as st

from baselines.packing import pack_samples, unpack_samples
from probes.messages import Outcome, Sample

RESOLUTION_S = 1e-7
moment = st.floats(min_value=0, max_value=4e9)
seconds = st.none() | st.floats(min_value=0, max_value=1e6)
text = st.text(max_size=8)
samples = st.builds(
    Sample,
    at=moment,
    outcome=st.sampled_from(Outcome),
    latency_s=seconds,
    first_byte_s=seconds,
    connect_s=seconds,
    control_s=seconds,
    life=st.none() | text,
    tainted=st.booleans(),
    detail=text,
)


def through_json(burst: list[Sample], at: float) -> tuple[Sample, ...]:
    return unpack_samples(json.loads(json.dumps(pack_samples(burst, at=at), allow_nan=False)), at=at)


@given(burst=st.lists(samples, min_size=1, max_size=6), at=moment)
def test_what_comes_out_is_what_went_in(burst: list[Sample], at: float) -> None:
    """Every field with its type; only times may differ, by the rounding to a tenth of a microsecond."""
    found = through_json(burst, at)
    assert len(found) == len(burst)
    for new, old in zip(found, burst, strict=True):
        assert (new.outcome, new.life, new.detail) == (old.outcome, old.life, old.detail)
        assert new.tainted is old.tainted
        assert type(new.outcome) is Outcome
        # and by that of floats, which subtract and add the burst's own time
        assert new.at == pytest.approx(old.at, abs=RESOLUTION_S + 2 * math.ulp(max(at, old.at)))
        for name in ("latency_s", "first_byte_s", "connect_s", "control_s"):
            was, now = getattr(old, name), getattr(new, name)
            assert now == (None if was is None else pytest.approx(was, abs=RESOLUTION_S, rel=4e-16))


@given(burst=st.lists(samples, min_size=1, max_size=6), at=moment)
def test_packing_again_changes_nothing_more(burst: list[Sample], at: float) -> None:
    """A burst that is read and stored again stays what it is."""
    once = pack_samples(burst, at=at)
    times = [key for key in once if key.endswith("_us") and key != "at_us"]
    twice = pack_samples(unpack_samples(once, at=at), at=at)
    assert {key: twice.get(key) for key in times} == {key: once[key] for key in times}


@given(offsets_us=st.lists(st.integers(0, 10**8), min_size=1, max_size=10))
@example(offsets_us=[0, 51_234, 103_001])
def test_times_of_today_come_back_to_the_last_bit(offsets_us: list[int]) -> None:
    """A float of this century counts in quarters of a microsecond, which a tenth tells apart."""
    times = [NOW + offset / 1e6 for offset in offsets_us]
    found = through_json([Sample(at=at, outcome=Outcome.GOOD) for at in times], NOW)
    assert [s.at for s in found] == times


GOOD = Sample(at=NOW, outcome=Outcome.GOOD)


@pytest.mark.parametrize(
    ("burst", "packed"),
    [
        ([GOOD], {"count": 1}),
        ([GOOD, GOOD], {"count": 2}),
        ([Sample(at=NOW, outcome=Outcome.TIMEOUT, detail="5 s")], {"count": 1, "outcome": "timeout", "detail": "5 s"}),
        (
            [Sample(at=NOW + i, outcome=Outcome.GOOD, latency_s=0.05 + i, life="7@1") for i in range(2)],
            {"count": 2, "at_us": [0.0, 1e6], "latency_us": [50_000.0, 1_050_000.0], "life": "7@1"},
        ),
        (
            [Sample(at=NOW, outcome=Outcome.GOOD, connect_s=0.001, tainted=True), GOOD, GOOD],
            {"count": 3, "connect_us": [1000.0], "tainted": [True]},
        ),
        (
            [GOOD, Sample(at=NOW, outcome=Outcome.REFUSED)],
            {"count": 2, "outcome": ["good", "refused"]},
        ),
    ],
    ids=["one", "alike", "lone failure", "one worker", "defaults at the end", "failure at the end"],
)
def test_nothing_is_written_that_says_nothing(burst: list[Sample], packed: dict[str, object]) -> None:
    """No column of defaults, one cell for a column of equals, no defaults at the end of a column."""
    assert pack_samples(burst, at=NOW) == packed
    assert unpack_samples(packed, at=NOW) == tuple(burst)


def test_a_whole_burst_is_half_a_kilobyte() -> None:
    """Ten answers with first byte and control, as they are stored all day."""
    burst = [
        Sample(at=NOW + i * 0.0523, outcome=Outcome.GOOD, latency_s=0.0501234567, first_byte_s=0.0499, control_s=0.0012)
        for i in range(10)
    ]
    assert len(json.dumps(pack_samples(burst, at=NOW), separators=(",", ":"))) < 500
