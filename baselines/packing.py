"""What a burst's row holds as JSON. Its samples are one value: a row a request would be half as much again to keep, and
twice the work to write and to read.

    {"count": 3, "at_us": [0.0, 51234.5, 103001.2], "latency_us": [50012.3, 49876.1], "life": "4711@880231",
     "outcome": ["good", "good", "refused"]}

`count` is how many there are. Every other key is a column: a list with one cell a sample in the order sent, or one cell
that holds for all. Cells missing at the end of a list, and missing columns, are the field's default (an outcome:
good). Times are microseconds in steps of 0.1, `at_us` after the burst's own time: a tenth of a microsecond is less
than a clock can tell, and half as long to write as all of a float's digits. In SQL, for example:
`SELECT json_extract(samples, '$.latency_us[0]') / 1e6 FROM bursts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from probes.messages import Identity, Outcome, Output, Sample

_TIMES = ("latency_s", "first_byte_s", "connect_s", "control_s")
_WORDS = ("life", "tainted", "detail")
_DEFAULTS: Mapping[str, object] = {"life": None, "tainted": False, "detail": ""}
_OUTCOMES: Mapping[str, Outcome] = {
    str(outcome): outcome for outcome in Outcome
}  # four times as quick as Outcome(word)


def pack_samples(samples: Sequence[Sample], *, at: float) -> dict[str, Any]:
    """The samples of a burst that began at `at`, ready for JSON. Times must be finite."""
    columns = {
        "at_us": _column([_us(s.at - at) for s in samples], 0.0),
        "outcome": _column([str(s.outcome) for s in samples], str(Outcome.GOOD)),
    }
    for name in _TIMES:
        seconds = [getattr(s, name) for s in samples]
        columns[f"{name[:-2]}_us"] = _column([None if v is None else _us(v) for v in seconds], None)
    for name in _WORDS:
        columns[name] = _column([getattr(s, name) for s in samples], _DEFAULTS[name])
    return {"count": len(samples)} | {name: column for name, column in columns.items() if column != []}


def unpack_samples(packed: Mapping[str, Any], *, at: float) -> tuple[Sample, ...]:
    """What was packed, times rounded to 0.1 microseconds."""
    count = packed["count"]
    outcomes = [_OUTCOMES[word] for word in _cells(packed, "outcome", count, str(Outcome.GOOD))]
    times = [_seconds(_cells(packed, f"{name[:-2]}_us", count, None)) for name in _TIMES]
    words = [_cells(packed, name, count, _DEFAULTS[name]) for name in _WORDS]
    offsets = _cells(packed, "at_us", count, 0.0)
    return tuple(
        Sample(
            at=at + offset / 1e6,
            outcome=outcome,
            latency_s=latency_s,
            first_byte_s=first_byte_s,
            connect_s=connect_s,
            control_s=control_s,
            life=life,
            tainted=tainted,
            detail=detail,
        )
        for offset, outcome, latency_s, first_byte_s, connect_s, control_s, life, tainted, detail in zip(
            offsets, outcomes, *times, *words, strict=True
        )
    )


def state_fields(value: Output | Identity) -> dict[str, Any]:
    """The fields that say something, ready for JSON: those that differ from their default."""
    return {f.name: said for f in fields(value) if (said := getattr(value, f.name)) != f.default}


def restore_output(stated: Mapping[str, Any] | None) -> Output | None:
    """The output that was stated; None for None."""
    if stated is None:
        return None
    lists = {name: tuple(stated[name]) for name in ("shape", "values", "top_k") if name in stated}
    return Output(**{**stated, **lists})


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 1)


def _seconds(cells: Sequence[Any]) -> list[float | None]:
    return [None if cell is None else cell / 1e6 for cell in cells]


def _column(cells: list[Any], default: object) -> Any:
    """One cell when all are alike, else the list without the defaults at its end; [] when all are the default."""
    if cells.count(cells[0]) == len(cells):
        return [] if cells[0] == default else cells[0]
    end = len(cells)
    while cells[end - 1] == default:
        end -= 1
    return cells[:end]


def _cells(packed: Mapping[str, Any], name: str, count: int, default: Any) -> list[Any]:
    column = packed.get(name, [])
    return column + [default] * (count - len(column)) if isinstance(column, list) else [column] * count
