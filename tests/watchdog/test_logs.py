"""Logs of a process of its own: lines for people or JSON for machines, and no secret in a traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
import structlog
from watchdog.logs import set_up_logging

set_up_logging(format=sys.argv[1], level=sys.argv[2])
log = structlog.get_logger("judge")
log.debug("looked", target="chat")
log.info("verdict", target="chat", status="OK")
logging.getLogger("httpx").info("a library's small talk")
logging.getLogger("httpx").warning("a library's trouble")
try:
    token = "5ecret-Value"
    raise ValueError("cannot judge")
except ValueError:
    log.exception("a result could not be judged")
"""


def lines(format: str, level: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, format, level], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "", "standard output belongs to answers"
    return done.stderr.splitlines()


def test_json_is_one_object_a_line() -> None:
    """Every line of ours parses, with its level, its time in UTC and its fields; the traceback is a field too."""
    *records, library = sorted(lines("json", "info"), key=lambda line: not line.startswith("{"))
    verdict, failed = map(json.loads, records)
    assert (verdict["event"], verdict["level"], verdict["status"]) == ("verdict", "info", "OK")
    assert verdict["timestamp"].endswith("Z")
    assert "ValueError: cannot judge" in failed["exception"]
    assert "a library's trouble" in library


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_value_of_a_variable_is_in_a_traceback(format: str) -> None:
    """A token that happens to be in a local variable does not end up in a log."""
    text = "\n".join(lines(format, "debug"))
    assert "cannot judge" in text
    assert "5ecret-Value" not in text


@pytest.mark.parametrize(("level", "says"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 1)])
def test_level_is_the_least_that_is_said(level: str, says: int) -> None:
    """Ours by the configured level; libraries only when something is wrong."""
    text = lines("json", level)
    assert sum(line.startswith("{") for line in text) == says
    assert not any("small talk" in line for line in text)
