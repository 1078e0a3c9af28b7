"""Logging: structlog, lines for people or JSON for machines, on standard error."""

from __future__ import annotations

import logging
import sys

import structlog


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # libraries: only what is wrong, in the plain format
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s [%(levelname)s] %(name)s: %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
