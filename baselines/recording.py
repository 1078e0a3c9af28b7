"""Recorded latencies and memory from CSV, as the same values that a live target gives.

    latency: time,latency_s[,ok,reason,burst,control_s,load,worker]                               one row a request
    memory:  time,used_bytes[,capacity_bytes,load,worker,allocated_bytes,reserved_bytes,host_anon_bytes]

Times are seconds, ascending. Cells of optional columns may be empty. Nothing is guessed: a bad row is refused with its
line in the file. The index of a point is its data row, counted from 0; empty lines do not count.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from probes.messages import MemorySample, Outcome, Sample

NAME = "replay"  # target, canary and worker of a recording that names none

_LATENCY_OPTIONAL = ("ok", "reason", "burst", "control_s", "load", "worker")
_MEMORY_OPTIONAL = ("capacity_bytes", "load", "worker", "allocated_bytes", "reserved_bytes", "host_anon_bytes")
_YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

EARLIEST, LATEST = -62135596800.0, 253402300799.0  # years 1 to 9999: what a calendar can show
MAX_LATENCY_S = 1e9
MIN_LATENCY_S = 1e-9  # a nanosecond and thirty years: beyond, ratios leave the range of numbers
MAX_BYTES = 2**63 - 1
MAX_LOAD = 1e9
MAX_SHOWN = 40  # characters of a cell in a message

Point = TypeVar("Point")


class ReplayError(Exception):
    """The recording or the request cannot be used; the message names the line or the argument and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One row of a latency recording. burst: its name in the file, None without one; load: of the target, likewise."""

    sample: Sample
    burst: str | None = None
    load: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording(Generic[Point]):
    """points: one per data row. notes: what was not used, one line each, for stderr."""

    points: tuple[Point, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str | None:
        return self.cells.get(column, "").strip() or None

    def number(
        self, column: str, *, positive: bool = False, low: float = -math.inf, high: float = math.inf
    ) -> float | None:
        """The cell as a finite number from low to high, None when empty. Raises ReplayError."""
        text = self.text(column)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        allowed = None
        if not math.isfinite(value) or (positive and value <= 0):
            allowed = "a number above 0" if positive else "a finite number"
        elif not low <= value <= high:
            allowed = f"from {low:g} to {high:g}"
        if allowed is not None:
            raise ReplayError(f"line {self.line}: {column} must be {allowed} (given: {_shown(text)})")
        return value

    def latency_s(self, column: str) -> float | None:
        """The cell as a latency, None when empty. Raises ReplayError."""
        return self.number(column, positive=True, low=MIN_LATENCY_S, high=MAX_LATENCY_S)

    def load(self, column: str) -> float | None:
        """The cell as a load in any unit, None when empty. Raises ReplayError."""
        return self.number(column, low=0.0, high=MAX_LOAD)

    def size(self, column: str) -> int | None:
        """The cell as bytes, None when empty. Raises ReplayError when it is no number, below 0 or beyond 64 bits."""
        value = self.number(column, high=MAX_BYTES)
        if value is not None and value < 0:
            raise ReplayError(f"line {self.line}: {column} must be 0 or more (given: {value:g})")
        return None if value is None else int(value)


def read_latency_csv(lines: Iterable[str]) -> Recording[Request]:
    """Read one request a row. Raises ReplayError.

    ok = 0 is a failed request, which needs no latency; without `ok`, a reason other than "good" says the same.
    reason: one of the outcomes; any other word is kept as the detail of an unexpected answer.
    """
    rows, notes = _read(lines, required=("time", "latency_s"), optional=_LATENCY_OPTIONAL)
    points = []
    for row, at in _ascending(rows):
        outcome, detail = _outcome(row)
        latency_s = row.latency_s("latency_s")
        if latency_s is None and outcome is Outcome.GOOD:
            raise ReplayError(f"line {row.line}: latency_s is missing (only a failed request, ok = 0, may lack it)")
        sample = Sample(
            at=at,
            outcome=outcome,
            latency_s=latency_s,
            control_s=row.latency_s("control_s"),
            life=row.text("worker"),
            detail=detail,
        )
        points.append(Request(sample=sample, burst=row.text("burst"), load=row.load("load")))
    return Recording(points=_some(points), notes=notes)


def read_memory_csv(lines: Iterable[str]) -> Recording[MemorySample]:
    """Read one memory sample a row; a new worker is a new life. Raises ReplayError.

    used_bytes is the worker's host memory, or, where host_anon_bytes tells that apart, its device memory;
    capacity_bytes is what used_bytes can grow to; load is anything that grows with the number of requests in flight.
    """
    rows, notes = _read(lines, required=("time", "used_bytes"), optional=_MEMORY_OPTIONAL)
    points = []
    for row, at in _ascending(rows):
        used, capacity = row.size("used_bytes"), row.size("capacity_bytes")
        if used is None:
            raise ReplayError(f"line {row.line}: used_bytes is missing")
        on_device = "host_anon_bytes" in row.cells
        points.append(
            MemorySample(
                target=NAME,
                slot=0,
                life=row.text("worker") or NAME,
                at=at,
                host_anon_bytes=row.size("host_anon_bytes") if on_device else used,
                capacity_bytes=None if on_device else capacity,
                gpu_used_bytes=used if on_device else None,
                gpu_capacity_bytes=capacity if on_device else None,
                allocated_bytes=row.size("allocated_bytes"),
                reserved_bytes=row.size("reserved_bytes"),
                load=row.load("load"),
            )
        )
    return Recording(points=_some(points), notes=notes)


def _read(
    lines: Iterable[str], *, required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[Iterator[_Row], tuple[str, ...]]:
    numbered = _numbered(lines)
    _, header = next(numbered, (1, []))
    columns = [name.removeprefix("\ufeff").strip() for name in header]
    missing = [name for name in required if name not in columns]
    if missing or len(set(columns)) < len(columns):
        problem = f"column {missing[0]} is missing" if missing else "a column is named twice"
        allowed = f"{','.join(required)}[,{','.join(optional)}]"
        raise ReplayError(f"line 1: {problem}; allowed: {allowed}")
    notes = [
        f"column {_shown(name)} is not known and not used" for name in columns if name not in (*required, *optional)
    ]
    return _rows(numbered, columns), tuple(notes)


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Cells of each row with its line in the file, counted from 1."""
    reader = csv.reader(lines)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise ReplayError(f"line {reader.line_num}: not CSV: {error}") from error


def _rows(numbered: Iterator[tuple[int, list[str]]], columns: list[str]) -> Iterator[_Row]:
    for line, cells in numbered:
        if not cells:
            continue
        if len(cells) != len(columns):
            raise ReplayError(f"line {line}: {len(cells)} fields, the header has {len(columns)}")
        yield _Row(line, dict(zip(columns, cells, strict=True)))


def _ascending(rows: Iterator[_Row]) -> Iterator[tuple[_Row, float]]:
    """Rows with their time, seconds. Equal times are allowed: clocks are coarse."""
    last = -math.inf
    for row in rows:
        at = row.number("time", low=EARLIEST, high=LATEST)
        if at is None:
            raise ReplayError(f"line {row.line}: time is missing")
        if at < last:
            raise ReplayError(f"line {row.line}: time must ascend ({at:g} follows {last:g})")
        last = at
        yield row, at


def _outcome(row: _Row) -> tuple[Outcome, str]:
    said, reason = row.text("ok"), row.text("reason")
    if said is not None and said.lower() not in _YES_NO:
        raise ReplayError(f"line {row.line}: ok must be 1 or 0 (given: {_shown(said)})")
    good = _YES_NO[said.lower()] if said is not None else reason in (None, Outcome.GOOD)
    if good:
        return Outcome.GOOD, ""
    if reason is None or reason == Outcome.GOOD:
        return Outcome.STATUS_OTHER, ""
    return (Outcome(reason), "") if reason in set(Outcome) else (Outcome.STATUS_OTHER, reason)


def _shown(text: str) -> str:
    """Quoted, printable and short, whatever the file holds."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def _some(points: list[Point]) -> tuple[Point, ...]:
    if not points:
        raise ReplayError("the file holds no data rows")
    return tuple(points)
