"""Series that come and go with what they are about: an absent line is better than a wrong or a stale one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prometheus_client import Gauge, Metric
from prometheus_client.metrics import MetricWrapperBase

Series = tuple[MetricWrapperBase, tuple[str, ...]]
"""A metric and the values of its labels."""


class TargetGauges:
    """Gauges whose first label is a target: which of them have a value, so that each call costs what it is about.

    targets: those that are watched; what is observed of any other makes no line.
    """

    def __init__(self) -> None:
        self.targets: Collection[str] = ()
        self._lines: dict[str, set[tuple[Gauge, tuple[str, ...]]]] = {}

    def set(self, gauge: Gauge, labels: tuple[str, ...], value: object) -> None:
        """Set a line, or remove it while the value is not known (no number)."""
        lines = self._lines.setdefault(labels[0], set())
        if isinstance(value, (int, float)) and labels[0] in self.targets:
            lines.add((gauge, labels))
            gauge.labels(*labels).set(value)
        elif (gauge, labels) in lines:
            lines.discard((gauge, labels))
            gauge.remove(*labels)

    def lines_of(self, target: str) -> list[tuple[Gauge, tuple[str, ...]]]:
        """The gauges of a target that have a value, with their labels."""
        return list(self._lines.get(target, ()))

    def clear(self, target: str) -> None:
        """Nothing is known of it any more."""
        for gauge, labels in self.lines_of(target):
            self.set(gauge, labels, None)
        if target not in self.targets:
            self._lines.pop(target, None)


class AbsentGauge(Gauge):
    """A gauge without labels that has no line while its value is not known."""

    _known = False

    def set_or_remove(self, value: float | None) -> None:
        """Set it, or remove its line for None."""
        if value is not None:
            self.set(value)
        self._known = value is not None

    def collect(self) -> Iterable[Metric]:
        return super().collect() if self._known else ()


def begin(series: Iterable[Series]) -> None:
    """Have them at zero, where they are not there yet."""
    for metric, labels in series:
        metric.labels(*labels)


def end(series: Iterable[Series]) -> None:
    """Have them no more."""
    for metric, labels in series:
        metric.remove(*labels)
