"""Words of others made plain: they reach terminals, logs, messages and the page. Pure."""

from __future__ import annotations

MAX_CHARS = 500
"""Longer than any line that a person reads; keeps a runaway text out of the database."""


def one_line(text: str, *, limit: int = MAX_CHARS) -> str:
    """The text without anything that could move a cursor, start a line or turn the direction of writing.

    Whatever is not printable (control characters, line ends, lone surrogates, invisible marks) and every run of white
    space becomes one space. Longer than `limit` characters: cut, with an ellipsis as the last one.
    """
    words = "".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def plain(text: str) -> str:
    """The text with its lines, and a mark in place of every other character that is not printable."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
