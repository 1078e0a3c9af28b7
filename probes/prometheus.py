"""One number of a page in Prometheus' text format: the sum of the series that a selector names.

Only the lines of that metric are looked into, so that a page of megabytes costs milliseconds. Format: version 0.0.4,
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

MAX_SERIES = 5000  # of one metric: one a worker or model, and a bound on what a stranger may cost

# No step of these may be taken back (`++`, `*+`): what a stranger sends is read in linear time.
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL = r'[ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\\n]|\\[^\n])*+)"[ \t]*+'
_ONE_LABEL = re.compile(_LABEL)
_LABELS = rf"\{{((?:{_LABEL}(?:,{_LABEL})*+,?+)?+[ \t]*+)\}}"
_SELECTOR = re.compile(rf"({_NAME})(?:{_LABELS})?+")
_SAMPLE = re.compile(rf"[ \t]*+(?:{_LABELS})?+[ \t]*+([^{{ \t\r][^ \t\r]*+)(?:[ \t]++-?[0-9]++)?+[ \t\r]*+")
_NUMBER = re.compile(r"[+-]?+(?:[0-9]++\.?+[0-9]*+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+")
_ESCAPED = re.compile(r'\\([\\"n])')


class SeriesFault(StrEnum):
    """Why there is no number. The value is for a person."""

    ABSENT = "the page has no such series"
    UNREADABLE = "a line of it is not Prometheus' text format"
    NO_NUMBER = "one of its series is not a finite number"
    TOO_MANY = "it has too many series"
    COUNTER = "it is a counter, which only grows: set rate = true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """labels: name and value of those that a series must have; it may have others."""

    name: str
    labels: frozenset[tuple[str, str]] = frozenset()


def parse_selector(text: str) -> Selector:
    """From `name` or `name{label="value",...}`. Raises ValueError for anything else."""
    found = _SELECTOR.fullmatch(text.strip())
    if found is None:
        raise ValueError('must be the name of a metric, or name{label="value"}')
    return Selector(name=found[1], labels=_labels(found[2]))


def sum_series(page: str, selector: Selector, *, counter: bool) -> float | SeriesFault:
    """The sum of all series that match. counter: that is what it is expected to be."""
    name, family = selector.name, re.sub("_(?:bucket|count|sum)$", "", selector.name)
    if not counter and re.search(rf"(?m)^# TYPE (?:{name} counter|{family} (?:histogram|summary))\b", page):
        return SeriesFault.COUNTER
    values: list[str] = []
    lines = 0
    for line in re.finditer(rf"(?m)^[ \t]*+{name}(?![a-zA-Z0-9_:])(.*+)", page):
        sample = _SAMPLE.fullmatch(line[1])
        if sample is None:
            return SeriesFault.UNREADABLE
        if (lines := lines + 1) > MAX_SERIES:
            return SeriesFault.TOO_MANY
        if selector.labels <= _labels(sample[1]):
            values.append(sample[sample.re.groups])
    if not values:
        return SeriesFault.ABSENT
    total = sum(float(value) if _NUMBER.fullmatch(value) else math.nan for value in values)
    return total if math.isfinite(total) else SeriesFault.NO_NUMBER


def _labels(text: str | None) -> frozenset[tuple[str, str]]:
    return frozenset((name, _ESCAPED.sub(_unescape, value)) for name, value in _ONE_LABEL.findall(text or ""))


def _unescape(escaped: re.Match[str]) -> str:
    return "\n" if escaped[1] == "n" else escaped[1]
