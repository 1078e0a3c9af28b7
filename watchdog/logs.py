"""Logging: structlog, lines for people or JSON for machines, on standard error."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TextIO

import structlog


class Tolerant:
    """Standard error as the log needs it: a line that cannot be written (a full disk, a reader that is gone) is lost.

    It must not end the thread that had something to say, which may be the one that judges.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def set_up_logging(*, format: str, level: str) -> None:  # noqa: A002  (the configuration's own word)
    """Configure the process once. format: "console" or "json"."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default shows local variables, secrets among them
        )
    )
    exceptions: list[structlog.typing.Processor] = [structlog.processors.format_exc_info] if format == "json" else []
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(Tolerant(sys.stderr)),  # type: ignore[arg-type]  # print uses no more
    )
    # libraries: only what is wrong, in the plain format
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s [%(levelname)s] %(name)s: %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
