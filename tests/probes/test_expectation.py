from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from probes.answer import MAX_DIMENSIONS, look_up, parse_path, to_numbers
from probes.expectation import MAX_GOLDEN_VALUES, Expectation, check_body, check_output, summarise
from probes.messages import Outcome, Output


def output(values: Any, *, top_k: int | None = None) -> Output:
    return summarise(np.array(values), content=b"", top_k=top_k)


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)
EXPECTATIONS = st.sampled_from(
    [
        Expectation(),
        Expectation(text="a"),
        Expectation(json_path="a[0].b"),
        Expectation(shape=(2,), finite=False),
        Expectation(rtol=1e-3, atol=1e-6),
        Expectation(cosine=0.99, finite=False),
        Expectation(top_k=3, finite=False, rtol=0.1),
    ]
)
GOLDEN = st.none() | st.lists(st.floats(), max_size=4).map(lambda v: output(np.array(v, dtype=float), top_k=2))


@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()), EXPECTATIONS, GOLDEN)
def test_no_body_makes_a_check_raise(content: bytes, expectation: Expectation, golden: Output | None) -> None:
    """Whatever a server sends, there is an outcome; only a good one comes without a line for a person."""
    outcome, detail, _ = check_body(content, expectation, golden)
    assert (outcome is Outcome.GOOD) == (detail == "")
    assert "\n" not in detail


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b"[" * 40 + b"1" + b"]" * 40,
        b"1" * 100_000,
        b"[1e999, -1e999]",
        b"\xff\xfe\x00",
        b'"\\ud800"',
        b"",
        b"\xef\xbb\xbf[1]",
    ],
    ids=["deep_lists", "deep_objects", "dimensions", "long_number", "overflow", "utf16", "surrogate", "empty", "bom"],
)
@pytest.mark.parametrize("expectation", [Expectation(), Expectation(rtol=0.1), Expectation(json_path="a")], ids=repr)
def test_hostile_bodies_are_answered(content: bytes, expectation: Expectation) -> None:
    """Bounded time and memory, and an outcome."""
    assert isinstance(check_body(content, expectation, None)[0], Outcome)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("data", ("data",)),
        ("data[0].embedding", ("data", "0", "embedding")),
        ("outputs.0.data", ("outputs", "0", "data")),
        ("[1][2]", ("1", "2")),
        ("a b-c.d", ("a b-c", "d")),
        ("grüße", ("grüße",)),
    ],
)
def test_a_path_is_read_in_steps(path: str, steps: tuple[str, ...]) -> None:
    """Both ways to write an index mean the same."""
    assert parse_path(path) == steps


@pytest.mark.parametrize("path", ["", ".", ".a", "a.", "a..b", "a[", "a[x]", "a[-1]", "a]", "[0]a", "a[0"])
def test_a_path_that_is_none_is_a_mistake_of_configuration(path: str) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(ValueError, match="path"):
        Expectation(json_path=path)


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        ({"data": [{"embedding": [1]}]}, "data[0].embedding", [1]),
        ({"0": {"1": 2}}, "[0].1", 2),
        ([[1, 2], [3, 4]], "1.0", 3),
    ],
)
def test_a_value_is_found_by_its_path(document: Any, path: str, value: Any) -> None:
    """A number is an index in a list and a key in an object."""
    assert look_up(document, path) == value


@pytest.mark.parametrize(
    ("content", "expectation", "outcome"),
    [
        (b"<html>", Expectation(), Outcome.GOOD),
        (b"hello world", Expectation(text="world"), Outcome.GOOD),
        (b"hello world", Expectation(text="there"), Outcome.WRONG_TEXT),
        (b"<html>", Expectation(json_path="a"), Outcome.NOT_JSON),
        (b"<html>", Expectation(shape=(1,)), Outcome.NOT_JSON),
        (b"<html>", Expectation(rtol=0.1), Outcome.NOT_JSON),
        (b'{"a": "caf\\u00e9"}', Expectation(json_path="a", text="café"), Outcome.GOOD),
        (b'{"a": [1], "b": "x"}', Expectation(json_path="a", text="x"), Outcome.GOOD),
        (b'{"a": 1}', Expectation(json_path="b"), Outcome.MISSING_FIELD),
        (b'{"a": [1]}', Expectation(json_path="a[1]"), Outcome.MISSING_FIELD),
        (b'{"a": "x"}', Expectation(json_path="a.b"), Outcome.MISSING_FIELD),
        (b'{"a": "x"}', Expectation(), Outcome.GOOD),
        (b'{"a": "x"}', Expectation(shape=(1,)), Outcome.NOT_NUMERIC),
        (b"[[1, 2], [3]]", Expectation(), Outcome.GOOD),
        (b"[[1, 2], [3]]", Expectation(shape=(2, 2)), Outcome.NOT_NUMERIC),
        (b"[[1, 2], 3]", Expectation(top_k=1), Outcome.NOT_NUMERIC),
        (b"[1, true]", Expectation(cosine=0.9), Outcome.NOT_NUMERIC),
        (b'[1, "2"]', Expectation(atol=0.9), Outcome.NOT_NUMERIC),
        (b"[[1, 2], [3, 4], [5, 6]]", Expectation(shape=(3, 2)), Outcome.GOOD),
        (b"[[1, 2], [3, 4], [5, 6]]", Expectation(shape=(2, 3)), Outcome.WRONG_SHAPE),
        (b"[]", Expectation(shape=(0,)), Outcome.GOOD),
        (b"3.5", Expectation(shape=()), Outcome.GOOD),
        (b"[1, NaN]", Expectation(), Outcome.NOT_FINITE),
        (b"[1, null]", Expectation(), Outcome.NOT_FINITE),
        (b"[1, -Infinity]", Expectation(), Outcome.NOT_FINITE),
        (b"[1, 1e999]", Expectation(), Outcome.NOT_FINITE),
        (b"[" + b"1" * 5000 + b"]", Expectation(), Outcome.NOT_FINITE),
        (b"[1, NaN]", Expectation(finite=False), Outcome.GOOD),
        (b'{"scores": {"cat": NaN}}', Expectation(), Outcome.NOT_FINITE),
        (b'{"error": null, "scores": {"cat": 0.5}}', Expectation(), Outcome.GOOD),
        (b"[NaN]", Expectation(shape=(3,)), Outcome.NOT_FINITE),
    ],
)
def test_an_answer_is_judged_on_its_own(content: bytes, expectation: Expectation, outcome: Outcome) -> None:
    """Without a golden output: readable, of the right shape, finite, with the text."""
    assert check_body(content, expectation, None)[0] is outcome


@pytest.mark.parametrize(
    ("expectation", "values", "outcome"),
    [
        (Expectation(), [9.0], Outcome.GOOD),
        (Expectation(rtol=0.01), [1.009, 2.0, -3.0], Outcome.GOOD),
        (Expectation(rtol=0.01), [1.011, 2.0, -3.0], Outcome.DRIFTED),
        (Expectation(atol=0.01), [1.009, 2.009, -3.009], Outcome.GOOD),
        (Expectation(atol=0.01), [1.0, 2.0, -3.011], Outcome.DRIFTED),
        (Expectation(rtol=0.0), [1.0, 2.0, -3.0], Outcome.GOOD),
        (Expectation(rtol=0.1), [1.0, 2.0], Outcome.WRONG_SHAPE),
        (Expectation(cosine=0.999), [[1.0, 2.0, -3.0]], Outcome.WRONG_SHAPE),
        (Expectation(cosine=0.999), [2.0, 4.0, -6.0], Outcome.GOOD),
        (Expectation(cosine=0.999), [1.0, 2.0, -2.0], Outcome.DRIFTED),
        (Expectation(cosine=0.999), [0.0, 0.0, 0.0], Outcome.DRIFTED),
        (Expectation(top_k=2), [1.9, 2.0, -3.0], Outcome.GOOD),
        (Expectation(top_k=2), [2.1, 2.0, -3.0], Outcome.WRONG_TOP_K),
        (Expectation(top_k=9), [1.0, 2.0, -3.0], Outcome.GOOD),
        (Expectation(rtol=0.1, finite=False), [1.0, float("nan"), -3.0], Outcome.DRIFTED),
        (Expectation(cosine=0.1, finite=False), [1.0, float("nan"), -3.0], Outcome.DRIFTED),
    ],
)
def test_an_answer_is_compared_with_the_golden_one(
    expectation: Expectation, values: list[Any], outcome: Outcome
) -> None:
    """Golden is [1, 2, -3]. What is not asked for is not compared."""
    golden = output([1.0, 2.0, -3.0], top_k=2)
    assert check_output(output(values, top_k=expectation.top_k), expectation, golden)[0] is outcome
    assert check_body(body(values), expectation, golden)[0] is outcome


def test_without_a_golden_output_nothing_is_compared() -> None:
    """Before the first baseline the answer can only be judged on its own."""
    assert check_body(b"[1]", Expectation(rtol=0.0, cosine=1.0, top_k=1), None)[0] is Outcome.GOOD


def test_nan_equals_nan_where_nan_is_allowed() -> None:
    """A model that masks with infinity gives the same answer twice."""
    values = [1.0, float("nan"), float("inf")]
    expectation = Expectation(rtol=1e-6, finite=False)
    assert check_output(output(values), expectation, output(values))[0] is Outcome.GOOD


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.floats(0, 1),
    st.floats(0, 10),
    st.floats(-1, 1),
    st.integers(0, 49),
)
def test_tolerance_is_numpys(values: list[float], rtol: float, atol: float, step: float, where: int) -> None:
    """numpy.isclose over all values is the oracle: the summary check adds no verdict of its own."""
    golden = np.array(values)
    moved = golden.copy()
    moved[where % len(values)] += step
    close = bool(np.isclose(moved, golden, rtol=rtol, atol=atol).all())
    outcome, _ = check_output(output(moved), Expectation(rtol=rtol, atol=atol), output(golden))
    assert (outcome is Outcome.GOOD) == close


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_summary_check_never_accuses_close_values(seed: int, rtol: float, atol: float) -> None:
    """5000 values, each moved by as much as is allowed, at random: close by definition."""
    random = np.random.default_rng(seed)
    golden = random.normal(scale=random.uniform(0.01, 100), size=5000) + random.normal()
    moved = golden + random.choice([-1.0, 1.0], size=5000) * (atol + rtol * np.abs(golden)) * (1 - 1e-9)
    assume(np.isclose(moved, golden, rtol=rtol, atol=atol).all())  # tolerances below rounding
    outcome, detail = check_output(output(moved), Expectation(rtol=rtol, atol=atol), output(golden))
    assert outcome is Outcome.GOOD, detail


def test_a_change_among_values_that_are_not_kept_is_seen() -> None:
    """One of 5000 values jumps, between two that are kept: the largest value tells."""
    golden = np.linspace(-1, 1, 5000)
    moved = golden.copy()
    moved[2] = 7.0
    assert 2 not in {i * 5000 // MAX_GOLDEN_VALUES for i in range(MAX_GOLDEN_VALUES)}
    outcome, detail = check_output(output(moved), Expectation(rtol=0.01, atol=0.01), output(golden))
    assert outcome is Outcome.DRIFTED
    assert "all 5000 values" in detail


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(0, 2**32 - 1))
def test_cosine_is_the_textbooks(values: list[float], seed: int) -> None:
    """Against the plain formula, where that does not overflow."""
    left = np.array(values)
    right = left + np.random.default_rng(seed).normal(size=left.size)
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    if norm < 1e-9:
        return
    cosine = float(left @ right) / norm
    for least, outcome in ((cosine - 1e-6, Outcome.GOOD), (cosine + 1e-6, Outcome.DRIFTED)):
        assert check_output(output(right), Expectation(cosine=least), output(left))[0] is outcome


def test_cosine_of_huge_values_does_not_overflow() -> None:
    """1e300 squared is infinite."""
    values = [1e300, -1e300]
    assert check_output(output(values), Expectation(cosine=0.999), output(values))[0] is Outcome.GOOD


@given(st.lists(st.floats(), max_size=40), st.integers(1, 10))
def test_top_k_is_a_stable_sort(values: list[float], k: int) -> None:
    """Largest first, of equals the lower index first, NaN last: sorted() is the oracle."""
    order = sorted(
        range(len(values)), key=lambda i: (math.isnan(values[i]), -values[i] if values[i] == values[i] else 0)
    )
    assert output(np.array(values, dtype=float), top_k=k).top_k == tuple(order[:k])


@pytest.mark.parametrize(
    ("count", "k", "outcome"), [(10, 5, Outcome.WRONG_TOP_K), (5000, 5, Outcome.GOOD)], ids=["recomputed", "unknowable"]
)
def test_a_golden_output_taken_for_a_smaller_k_is_used_where_it_can_be(count: int, k: int, outcome: Outcome) -> None:
    """From its values while all of them are kept; else there is nothing to compare with until the next baseline."""
    golden = output(np.arange(count), top_k=2)
    assert check_output(output(-np.arange(count), top_k=k), Expectation(top_k=k), golden)[0] is outcome


@given(st.integers(0, 5000))
def test_kept_values_are_evenly_spaced(count: int) -> None:
    """flat[i * count // n], at most MAX_GOLDEN_VALUES of them."""
    kept = min(count, MAX_GOLDEN_VALUES)
    assert output(np.arange(count)).values == tuple(float(i * count // kept) for i in range(kept))


def test_a_summary_is_over_the_finite_values() -> None:
    """numpy is the oracle; NaN and infinity only make it not finite."""
    summary = output([[1.0, 4.0], [float("nan"), float("-inf")]])
    assert (summary.shape, summary.count, summary.finite) == ((2, 2), 4, False)
    assert (summary.mean, summary.std, summary.low, summary.high) == (2.5, 1.5, 1.0, 4.0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "bool"])
def test_any_real_dtype_can_be_summarised(dtype: str) -> None:
    """The isolated worker sends what the model gives."""
    summary = output(np.array([[0, 1]], dtype=dtype))
    assert (summary.shape, summary.values, summary.mean) == ((1, 2), (0.0, 1.0), 0.5)


@pytest.mark.parametrize("values", [[], [float("nan")]], ids=["empty", "nan"])
def test_a_summary_of_nothing_has_no_numbers(values: list[float]) -> None:
    """None, never zero."""
    summary = output(np.array(values))
    assert (summary.mean, summary.std, summary.low, summary.high) == (None, None, None, None)
    assert summary.finite is (False if values else None)


def test_a_mean_that_overflows_is_unknown() -> None:
    """Not infinite: the values are finite."""
    summary = output([1.7e308, 1.7e308])
    assert (summary.mean, summary.finite, summary.high) == (None, True, 1.7e308)


def test_the_hash_is_over_the_value_and_not_over_how_it_is_written() -> None:
    """Order of keys and spaces do not matter; what lies beside the path does not either."""
    path = Expectation(json_path="a")
    hashes = {
        check_body(text, path, None)[2].content_hash  # type: ignore[union-attr]
        for text in (b'{"a":{"x":1,"y":2},"id":1}', b'{"id": 2, "a": {"y": 2, "x": 1}}')
    }
    assert len(hashes) == 1
    other = check_body(b'{"a": {"x": 1, "y": 3}}', path, None)[2]
    assert other is not None
    assert other.content_hash not in hashes


def test_text_is_kept_as_a_hash_only() -> None:
    """Of a string answer, and of a body that is no JSON."""
    for content, expectation in ((b'{"a": "secret"}', Expectation(json_path="a")), (b"secret", Expectation())):
        kept = check_body(content, expectation, None)[2]
        assert kept is not None
        assert kept.text_hash is not None
        assert "secret" not in repr(kept)


def test_details_do_not_quote_the_answer() -> None:
    """They travel into messages and logs."""
    for expectation in (Expectation(json_path="b"), Expectation(json_path="secret.x"), Expectation(rtol=0.1)):
        _, detail, _ = check_body(b'{"secret": "hidden words"}', expectation, None)
        assert detail
        assert "hidden" not in detail


@given(st.lists(st.integers(0, 3), max_size=5))
def test_nested_lists_have_numpys_shape(shape: list[int]) -> None:
    """numpy is the oracle, also for dimensions of zero."""
    array = np.zeros(shape)
    numbers = to_numbers(array.tolist())
    assert not isinstance(numbers, str)
    assert numbers.shape == np.array(array.tolist()).shape


def test_more_dimensions_than_numpy_has_are_no_numbers() -> None:
    """Said, not raised."""
    deep: Any = 1.0
    for _ in range(MAX_DIMENSIONS + 1):
        deep = [deep]
    assert "deep" in str(to_numbers(deep))
