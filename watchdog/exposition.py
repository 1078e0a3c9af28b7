"""The metrics as Prometheus's text format, several times faster than the library's own writer.

A thousand targets have 100 000 lines. The library builds a dictionary for each and sorts it; while it does, probes wait
for the interpreter. Here the labels of a series are written once for all its lines. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.utils import floatToGoString

CREATED = "_created"


def render(registry: CollectorRegistry) -> bytes:
    """Every sample of the registry's metrics, in the order of their registration; without the library's `_created`."""
    lines: list[str] = []
    for metric in list(registry._collector_to_names):  # noqa: SLF001  (the library has no other way to its metrics)
        assert isinstance(metric, MetricWrapperBase)  # we register no collectors of our own
        for family in metric.describe():
            name = family.name + ("_total" if family.type == "counter" else "")
            lines += f"# HELP {name} {_escape_help(family.documentation)}\n# TYPE {name} {family.type}\n"
        lines += _samples(metric)
    return "".join(lines).encode()


def _samples(metric: MetricWrapperBase) -> Iterator[str]:
    name, names = metric._name, metric._labelnames  # noqa: SLF001  (as above)
    if not names:
        for sample in (s for family in metric.collect() for s in family.samples if not s.name.endswith(CREATED)):
            labels = ",".join([_label(*label) for label in sample.labels.items()])
            yield _line(sample.name, labels, sample.value)
        return
    with metric._lock:  # noqa: SLF001  (as the library does)
        children = list(metric._metrics.items())  # noqa: SLF001  (as above)
    written: dict[tuple[str, str], str] = {}  # most labels come again and again

    def write(label: tuple[str, str]) -> str:
        return written.get(label) or written.setdefault(label, _label(*label))

    for values, child in children:
        labels = ",".join([write(label) for label in zip(names, values, strict=True)])
        for suffix, more, value, *_ in child._child_samples():  # noqa: SLF001  (as above)
            if suffix != CREATED:
                bound = "".join([f",{write(label)}" for label in more.items()])
                yield _line(name + suffix, labels + bound, value)


def _label(name: str, value: str) -> str:
    value = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{value}"'


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _line(name: str, labels: str, value: float) -> str:
    shown = floatToGoString(value) if value else "0.0"  # type: ignore[no-untyped-call]  # most are zero, by far
    return f"{name}{{{labels}}} {shown}\n" if labels else f"{name} {shown}\n"
