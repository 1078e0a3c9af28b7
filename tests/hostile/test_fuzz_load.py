"""Whatever a page says, the load is a number, the same that Prometheus' own parser finds, or a reason: at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from probes.load import MAX_BYTES, read_series, read_stub_status
from probes.prometheus import Selector, SeriesFault, parse_selector, sum_series

names = st.sampled_from(["x", "xy", "x:y", "x_total", "y"])
values = st.one_of(st.floats(), st.integers(-(10**6), 10**6)).map(str)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
pairs = st.dictionaries(st.sampled_from(["a", "b", "le"]), texts, max_size=3)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def line_of(name: str, labels: dict[str, str], value: str) -> str:
    inside = ",".join(f'{label}="{escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}" if labels else f"{name} {value}"


@settings(max_examples=300)
@given(rows=st.lists(st.tuples(names, pairs, values), max_size=8), wanted=pairs)
def test_the_sum_is_that_of_prometheus_own_parser(
    rows: list[tuple[str, dict[str, str], str]], wanted: dict[str, str]
) -> None:
    """Over everything that is written as it should be."""
    page = "".join(line_of(*row) + "\n" for row in rows)
    selector = Selector(name="x", labels=frozenset(wanted.items()))
    families = text_string_to_metric_families(page)
    samples = [sample for family in families for sample in family.samples if sample.name == "x"]
    matching = [s.value for s in samples if wanted.items() <= s.labels.items()]
    found = sum_series(page, selector, counter=False)
    if not matching:
        assert found is SeriesFault.ABSENT
    elif not math.isfinite(sum(matching)):
        assert found is SeriesFault.NO_NUMBER
    else:
        assert found == pytest.approx(sum(matching))


@settings(max_examples=300)
@given(labels=pairs)
def test_a_selector_is_read_as_it_was_written(labels: dict[str, str]) -> None:
    """Label values may hold anything."""
    text = line_of("x:y", labels, "").strip()
    assert parse_selector(text) == Selector(name="x:y", labels=frozenset(labels.items()))


@settings(max_examples=300)
@given(page=st.one_of(st.text(), st.lists(st.sampled_from(list('x{}=,"\\ab1 .#\n\r\té')), max_size=60).map("".join)))
@example(page="x{")
@example(page='x{a="\\')
@example(page="x 1 # {} 2")
@example(page="x \u0661")
def test_any_text_is_a_number_or_a_reason(page: str) -> None:
    """And never a number below what was read."""
    for selector in (parse_selector("x"), parse_selector('x{a="b"}')):
        reading = read_series(page, selector, rate=True)
        assert (reading.value is None) == reading.failed
        assert reading.value is None or math.isfinite(reading.value)
    stub = read_stub_status(page)
    assert stub.value is None or stub.value >= 0


FULL = MAX_BYTES


@pytest.mark.parametrize(
    "page",
    [
        "x" + " " * FULL,
        " " * FULL,
        "\t\n" * (FULL // 2),
        'x{a="' + "\\" * FULL,
        'x{a="' + '\\"' * (FULL // 2),
        "x{" + 'a="b",' * (FULL // 6),
        "x{" + 'a="b"' * (FULL // 5),
        "x 1" * (FULL // 3),
        "x 1\n" * (FULL // 4),
        'x{a="b"} 1 ' + "1" * FULL + "x",
        "x " + "9" * FULL,
        "# TYPE x" * (FULL // 8),
    ],
    ids=lambda page: repr(page[:8]),
)
def test_a_page_made_to_be_slow_is_read_all_the_same(page: str) -> None:
    """Each would take hours where a pattern tries again from every character."""
    for selector in (parse_selector("x"), parse_selector('x{a="b"}')):
        assert isinstance(sum_series(page, selector, counter=False), (float, SeriesFault))
    assert read_stub_status(page).failed
