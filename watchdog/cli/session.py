"""What every command needs: the configuration, the database, exit codes, and a place to print."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter
from rich.console import Console

from baselines.database import Database, open_database
from watchdog.config import Config, TargetSection, load_config
from watchdog.migrations.migrate import bring_up_to_date


class ExitCode(IntEnum):
    """The contract of every command."""

    FINE = 0
    USAGE = 1
    WORSE = 2
    UNDECIDED = 3


class Refused(Exception):  # noqa: N818  (the name says what happened)
    """The command cannot do what it was asked to; the message says why and what is possible. Exit code 1."""


ConfigPath = Annotated[
    Path, typer.Option("-c", "--config", metavar="FILE", envvar="WATCHDOG_CONFIG", help="The configuration file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document.")]
DEFAULT_CONFIG = Path("config.toml")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def opened(path: Path) -> Iterator[tuple[Config, Database]]:
    """The configuration and its database, brought up to date; closed at the end."""
    config = load_config(path)
    database = open_database(config.store.url)
    try:
        bring_up_to_date(database)
        yield config, database
    finally:
        database.close()


def pick(config: Config, names: list[str] | None) -> list[TargetSection]:
    """The named targets, or all. Raises ConfigError for a name that is not there."""
    return [config.find(name) for name in names] if names else list(config.target)


def print_json(value: Any, type_: Any = None) -> None:
    """Print a value as JSON on standard output: dataclasses by their fields, NaN as null."""
    if type_ is None:
        sys.stdout.write(json.dumps(value, default=str) + "\n")
    else:
        sys.stdout.write(TypeAdapter(type_).dump_json(value).decode() + "\n")


def clock(at: float | None) -> str:
    """Local date and time for people; a dash for None."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
