"""What an answer's headers tell about who gave it. They come from outside: short, printable and few, or left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

WORKER_HEADER = "x-watchdog-worker"
"""`pid@start_ticks;torch=2.13;...`: the life that answered (`messages.Life.key`) and facts about it, from the agent."""

_LIFE = re.compile(r"\d{1,10}@\d{1,20}", re.ASCII)
_FACT = re.compile(r"([a-z][a-z0-9_]{0,31})=([\x21-\x7e][\x20-\x7e]{0,99})")
_MAX_FACTS = 16
MIN_SECRET_CHARS = 12  # shorter than any key that protects something, longer than most words
_MAX_HEADER_CHARS = 4096


def secret_words(texts: Iterable[str]) -> frozenset[str]:
    """The words of our own headers and queries that may be keys: long enough to be one. For `hidden` below."""
    return frozenset(word for text in texts for word in re.split(r"[\s&=;,]+", text) if len(word) >= MIN_SECRET_CHARS)


def read_life(headers: Mapping[str, str]) -> str | None:
    """The life named by the agent's header; None without one. Names of headers are in lower case."""
    first = headers.get(WORKER_HEADER, "")[:_MAX_HEADER_CHARS].partition(";")[0].strip()
    return first if _LIFE.fullmatch(first) else None


def read_provenance(
    headers: Mapping[str, str], *, version_header: str, hidden: frozenset[str] = frozenset()
) -> dict[str, str]:
    """`server`, `model_version` and the facts of the agent's header, which win. What cannot be read is left out.

    hidden: words of our own that a server may hand back; a value that holds one, or is part of one, is left out too.
    """
    found: dict[str, str] = {}
    for name, header in (("server", "server"), ("model_version", version_header)):
        value = headers.get(header, "").strip()[:100]
        if value and value.isprintable():
            found[name] = value
    for part in headers.get(WORKER_HEADER, "")[:_MAX_HEADER_CHARS].split(";")[: _MAX_FACTS + 1]:
        fact = _FACT.fullmatch(part.strip())
        if fact is not None:
            found[fact[1]] = fact[2]
    return {name: value for name, value in found.items() if not _gives_away(value, hidden)}


def _gives_away(value: str, hidden: frozenset[str]) -> bool:
    """A prefix counts as well: values are cut."""
    return any(
        word in value or (len(value) >= MIN_SECRET_CHARS and value in word) or word[:MIN_SECRET_CHARS] in value
        for word in hidden
    )
