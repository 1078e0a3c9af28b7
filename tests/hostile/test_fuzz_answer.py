"""Whatever a server answers and whatever is expected of it: an outcome, within bounds, and nothing raised."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from probes.answer import parse_path
from probes.expectation import Expectation, check_body, check_output, summarise
from probes.messages import Outcome, Output

many = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])

ODD_NUMBERS = [
    "NaN",
    "-Infinity",
    "Infinity",
    "1e999",
    "-1e999",
    "1e-999",
    "9" * 400,
    "-" + "9" * 5000,
    "1.7e308",
    "-0",
]
ODD_TEXTS = ['"\\ud800"', '"\\u0000"', '"\\n"', '"' + "x" * 200 + '"', '"1"', "true", "null"]
LEAVES = st.sampled_from(ODD_NUMBERS + ODD_TEXTS) | st.floats().map(json.dumps) | st.integers().map(str)


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs) + "}"


KEYS = st.sampled_from(["a", "b", "outputs", "0", ""]) | st.text(max_size=3)  # few, so that some are there twice
JSON_TEXT = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: "[" + ",".join(items) + "]")
        | st.lists(st.tuples(KEYS, inner), max_size=4).map(_object)
    ),
    max_leaves=15,
)
ENCODED = st.tuples(JSON_TEXT, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "latin-1"]))
BODIES = (
    st.binary(max_size=100)
    | ENCODED.map(lambda pair: pair[0].encode(pair[1], "replace"))
    | st.tuples(JSON_TEXT, st.integers(0, 60)).map(lambda pair: pair[0].encode()[: pair[1]])
)
FLOATS = st.floats(min_value=0, allow_nan=False)
PATHS = st.sampled_from(["a", "outputs", "a[0]", "0.b", "[1]", "a.0.a"])
EXPECTATIONS = st.builds(
    Expectation,
    json_path=st.none() | PATHS,
    shape=st.none() | st.lists(st.integers(-1, 4), max_size=4).map(tuple),
    finite=st.booleans(),
    rtol=st.none() | FLOATS,
    atol=st.none() | FLOATS,
    cosine=st.none() | st.floats(0, 1),
    top_k=st.none() | st.integers(1, 100),
    text=st.none() | st.text(max_size=3),
)
VALUES = st.lists(st.floats() | st.sampled_from([1.7e308, -1.7e308, 5e-324, 0.0]), max_size=6)


def summary(values: list[float]) -> Output:
    return summarise(np.array(values, dtype=float), content=b"", top_k=3)


def check(content: bytes, expectation: Expectation, golden: Output | None) -> None:
    """What must hold of every answer."""
    outcome, detail, output = check_body(content, expectation, golden)
    assert isinstance(outcome, Outcome)
    assert (outcome is Outcome.GOOD) == (detail == "")
    assert detail.isprintable() or detail == ""
    assert len(detail) < 300
    if output is not None:
        assert len(output.content_hash) == 16
        for number in (output.mean, output.std, output.low, output.high):
            assert number is None or math.isfinite(number)


@many
@given(content=BODIES, expectation=EXPECTATIONS, golden=st.none() | VALUES.map(summary))
@example(content=b"[1e308,1e308]", expectation=Expectation(rtol=1e308), golden=summary([1e308, -1e308]))
@example(content=b"[1.7e308]", expectation=Expectation(atol=1.7e308), golden=summary([-1.7e308]))
def test_any_answer_gets_an_outcome(content: bytes, expectation: Expectation, golden: Output | None) -> None:
    """Bytes, cut and oddly encoded JSON, against any expectation and any golden output."""
    check(content, expectation, golden)


@many
@given(st.data(), VALUES, EXPECTATIONS)
@example(None, [1.7e308, -1.7e308], Expectation(rtol=0.0))
def test_any_two_outputs_can_be_compared(data: Any, values: list[float], expectation: Expectation) -> None:
    """Of the same shape, however large, small or undefined their values: an outcome and no warning."""
    shape = {"min_size": len(values), "max_size": len(values)}
    others = [-v for v in values] if data is None else data.draw(st.lists(st.floats(), **shape))
    outcome, detail = check_output(summary(values), expectation, summary(others))
    assert (outcome is Outcome.GOOD) == (detail == "")
    if all(map(math.isfinite, values)):
        assert check_output(summary(values), Expectation(rtol=0.0), summary(values))[0] is Outcome.GOOD


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'], ids=["lists", "objects", "both"])
def test_every_depth_of_nesting_is_answered(opening: str) -> None:
    """Reading and writing JSON give up at different depths of Python's stack: none of them is a gap."""
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(opening) if c in "[{")
    limit = sys.getrecursionlimit() // len(closing)
    for depth in [*range(1, 40), *range(limit - 150, limit + 30)]:
        content = (opening * depth + "NaN" + closing * depth).encode()
        for expectation in (Expectation(), Expectation(shape=(1,)), Expectation(json_path="a", text="x")):
            check(content, expectation, None)


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"0," * 100_000 + b"0]",
        b"[" + b"[]," * 80_000 + b"[]]",
        b"[" + b"{}," * 80_000 + b"{}]",
        b'{"a":' * 200_000,
        b"9" * 1_000_000,
        b"0." + b"9" * 1_000_000,
        b"1e" + b"9" * 1_000_000,
        b'"' + b"\\u0000" * 40_000 + b'"',
        b"[" + b"NaN," * 60_000 + b"NaN]",
        b"[" + b"1e9," * 60_000 + b"1]",
        b"\xef\xbb\xbf" * 80_000,
    ],
    ids=lambda content: content[:8].decode("latin-1"),
)
@pytest.mark.parametrize(
    "expectation", [Expectation(), Expectation(rtol=0.1, top_k=5), Expectation(text="x")], ids=repr
)
def test_memory_for_an_answer_is_bounded_by_its_size(content: bytes, expectation: Expectation) -> None:
    """At most 64 bytes for each byte of it, whatever it is made of, and little is kept."""
    tracemalloc.start()
    try:
        outcome, _, output = check_body(content, Expectation(top_k=5, text="x"), None)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Outcome)
    assert peak < 64 * len(content) + 1_000_000
    assert kept < 200_000
    assert output is None or len(output.values) <= 1024


@many
@given(st.text(max_size=30) | st.lists(st.sampled_from([".", "[", "]", "0", "a", "[0]"]), max_size=8).map("".join))
def test_any_path_is_read_or_refused(path: str) -> None:
    """As steps that are not empty, or as ValueError."""
    try:
        steps = parse_path(path)
    except ValueError as error:
        assert "is no path" in str(error)  # noqa: PT017  (either end is fine)
    else:
        assert steps
        assert all(steps)
