"""Values that TOML can hold and the watchdog cannot use: said at their place, before anything trips over them."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from watchdog_agent import wire

Place = tuple[str | int, ...]

MAX_DEPTH = 60  # dotted keys nest without end; Python's stack does not
MAX_INT = 2**63 - 1  # TOML 1.0 promises 64 bits, and a database holds no more
PATH_BYTES = 4096  # for the folder that is sent along with a model

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: token


def unusable_values(raw: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """(place, what is allowed) of each. `json` and `input` of a canary are sent on and may hold any JSON number."""
    yield from _unusable(raw, (), sent=False)


def unusable_canary(place: Place, canary: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """The same for what only a canary has: names of headers, and what goes to the isolated worker."""
    yield from unusable_headers(place, canary)
    model, given, weights = canary.get("model"), canary.get("input", {}), canary.get("weights")
    if isinstance(model, str) and isinstance(given, dict) and isinstance(weights, str | None):
        load = wire.Load(model=model, input=given, device="auto", folder="", weights=weights)
        try:
            wire.encode(load, limit=wire.MAX_REQUEST_BYTES - PATH_BYTES)
        except wire.WireError as error:
            yield (*place, "input"), f"must be small and plain ({error}); {{ shape = [1, 16], seed = 0 }} takes little"


def unusable_headers(place: Place, table: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """The same for the names of the headers in this table."""
    headers = table.get("headers")
    for name in headers if isinstance(headers, dict) else ():
        if not _HEADER.fullmatch(name):
            yield (*place, "headers", name), "a header's name is made of letters, digits and -"


def _unusable(value: Any, place: Place, *, sent: bool) -> Iterator[tuple[Place, str]]:
    if len(place) > MAX_DEPTH:
        yield place[:3], "is nested too deeply"
    elif isinstance(value, dict):
        for key, item in value.items():
            is_sent = sent or (key in ("json", "input") and place[-2:-1] == ("canary",))
            yield from _unusable(item, (*place, key), sent=is_sent)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unusable(item, (*place, index), sent=sent)
    elif isinstance(value, str) and "\x00" in value and not sent:
        yield place, "must hold no NUL"
    elif isinstance(value, int) and abs(value) > MAX_INT:
        yield place, "must be a number of at most 64 bits"
    elif isinstance(value, float) and math.isinf(value) and place[-2:-1] == ("expect",):
        yield place, "must be a finite number"
    elif isinstance(value, (datetime.date, datetime.time)) and sent:  # a datetime is a date
        yield place, "must be JSON, which has no dates and times: write it as a string"
