"""The metrics as text say what the library's own writer says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from watchdog.exposition import render

Families = dict[str, tuple[str, str, list[tuple[str, frozenset[tuple[str, str]], float]]]]


def parse(text: bytes) -> Families:
    return {
        family.name: (
            family.type,
            family.documentation,
            [(s.name, frozenset(s.labels.items()), s.value) for s in family.samples],
        )
        for family in text_string_to_metric_families(text.decode())
        if not family.name.endswith("_created")  # what ours leaves out
    }


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), st.floats(allow_nan=False)), max_size=8),
    st.text(max_size=20),
)
def test_it_says_what_the_library_says(series: list[tuple[str, str, float]], words: str) -> None:
    """Whatever stands in labels and help, and for every kind of metric that we have."""
    registry = CollectorRegistry()
    counter = Counter("c", words, ("a", "b"), registry=registry)
    gauge = Gauge("g", words, ("a", "b"), registry=registry)
    histogram = Histogram("h", words, ("a",), buckets=(0.001, 0.5, 30), registry=registry)
    alone = [Counter("c1", "x", registry=registry), Histogram("h1", "x", registry=registry)]
    Gauge("g1", "x", registry=registry).set_function(lambda: 7)
    for a, b, value in series:
        counter.labels(a, b).inc(abs(value))
        gauge.labels(a, b).set(value)
        histogram.labels(a).observe(value)
    alone[0].inc()  # type: ignore[attr-defined]
    alone[1].observe(0.3)  # type: ignore[attr-defined]
    assert parse(render(registry)) == parse(generate_latest(registry))
