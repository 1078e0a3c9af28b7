"""From the bytes of an answer to a value, and from a value to numbers. Pure, and bounded on hostile input.

Numbers are nested lists of JSON numbers of one shape (a bare number has shape ()). NaN, Infinity and, where a number
should be, null are read as not finite. True and false are no numbers.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_DIMENSIONS = 32  # numpy 1.x takes no more, and no tensor has as many

_STEP = re.compile(r"(?:^|(?<=.)\.)([^.\[\]]+)|\[([0-9]{1,9})\]")


def parse_path(path: str) -> tuple[str, ...]:
    """Steps of a path like `data[0].embedding` or `outputs.0.data`. Raises ValueError when it is none.

    A number is an index in a list and a key in an object, however it is written. A key with a dot or a bracket in it
    cannot be named.
    """
    steps: list[str] = []
    end = 0
    while end < len(path):
        match = _STEP.match(path, end)
        if match is None:
            break
        steps.append(match[1] or match[2])
        end = match.end()
    if not path or end < len(path):
        raise ValueError(f"{path!r} is no path; write it like data[0].embedding or outputs.0.data")
    return tuple(steps)


def parse_json(body: bytes) -> object:
    """JSON, NaN and Infinity allowed. Raises ValueError, also for text nested too deeply to be an answer."""
    try:
        return json.loads(body, parse_int=_parse_int)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def look_up(document: object, path: str) -> object:
    """The value at `path`. Raises LookupError with one line that says where the path ended."""
    here = document
    for step in parse_path(path):
        if isinstance(here, dict) and step in here:
            here = here[step]
        elif isinstance(here, list) and re.fullmatch(r"[0-9]{1,9}", step) and int(step) < len(here):
            here = here[int(step)]
        else:
            raise LookupError(f"the answer has no {path} (looked for {step!r} in {_kind(here)})")
    return here


def canonical_json(value: object) -> tuple[bytes, bool]:
    """JSON that is equal for equal values whatever the order of keys, and whether all its numbers are finite.

    The value is one that `parse_json` gave. Raises ValueError when it is nested too deeply: writing takes a little more
    of Python's stack than reading.
    """
    try:
        try:
            return _write(value, allow_nan=False), True
        except ValueError:
            return _write(value, allow_nan=True), False
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def to_numbers(value: object) -> Floats | str:
    """The nested lists as an array, or one line that says why they are none."""
    shape: list[int] = []
    level: list[Any] = [value]
    while level and isinstance(level[0], list):
        lengths = {len(row) if isinstance(row, list) else None for row in level}
        if len(lengths) > 1:
            return f"the lists at depth {len(shape)} differ in length"
        if len(shape) == MAX_DIMENSIONS:
            return f"lists are nested more than {MAX_DIMENSIONS} deep"
        shape.append(len(level[0]))
        level = [item for row in level for item in row]
    try:
        return np.array([_to_float(item) for item in level], dtype=np.float64).reshape(shape)
    except TypeError as error:
        return str(error)


def _parse_int(digits: str) -> int | float:
    """Python refuses int() of thousands of digits, and beyond 1e308 a number is infinite to any model."""
    return int(digits) if len(digits) < 300 else float(digits)


def _to_float(item: object) -> float:
    if item is None:
        return float("nan")  # how strict JSON writers send NaN
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise TypeError(f"found {_kind(item)} where a number was expected")
    return float(item)


def _write(value: object, *, allow_nan: bool) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan).encode()


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
