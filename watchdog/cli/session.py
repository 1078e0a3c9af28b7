"""What every command needs: the configuration, the database, exit codes, and a place to print."""

from __future__ import annotations

import os
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

from baselines.database import Database, open_database, path_of
from watchdog.config import Config, TargetSection, load_config
from watchdog.migrations.migrate import bring_up_to_date
from watchdog.spelling import parse_duration


class ExitCode(IntEnum):
    """The contract of every command."""

    FINE = 0
    USAGE = 1
    WORSE = 2
    UNDECIDED = 3


class Refused(Exception):  # noqa: N818  (the name says what happened)
    """The command cannot do what it was asked to; the message says why and what is possible. Exit code 1."""


CONFIG_VARIABLE = "WATCHDOG_CONFIG"
ConfigPath = Annotated[
    Path, typer.Option("-c", "--config", metavar="FILE", envvar=CONFIG_VARIABLE, help="The configuration file.")
]
TargetName = Annotated[str, typer.Argument(metavar="TARGET")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document.")]
DEFAULT_CONFIG = Path("config.toml")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader (head, less) has seen enough: go on in silence, for the exit code still counts."""
        self.quiet = True
        _forget_stdout()


def _forget_stdout() -> None:
    """Let what is still to be written vanish; a closed pipe would make the interpreter complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# emoji: else "A:B:" would be printed as "A" and a picture
out = _Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def read_duration(option: str, text: str) -> float:
    """Seconds. Raises Refused that names the option."""
    try:
        return parse_duration(text)
    except ValueError as error:
        allowed = str(error).replace(", or a number of seconds", "")  # a bare number says no unit
        raise Refused(f"{option} {allowed} (given: {text!r})") from error


@contextmanager
def opened(path: Path, *, create: bool = False) -> Iterator[tuple[Config, Database]]:
    """The configuration and its database, brought up to date; closed at the end.

    create: make the database if there is none. A command that only looks must not: the real one is then elsewhere.
    """
    config = load_config(path)
    where = path_of(config.store.url)
    if not create and where.parent.is_dir() and not where.exists():
        raise Refused(
            f"there is no database {where.absolute()}: nothing ran here yet, or store.url is relative to another folder"
        )
    database = open_database(config.store.url)
    try:
        bring_up_to_date(database)
        yield config, database
    finally:
        database.close()


def pick(config: Config, names: list[str] | None) -> list[TargetSection]:
    """The named targets, or all. Raises ConfigError for a name that is not there."""
    return [config.find(name) for name in names] if names else list(config.target)


def print_json(value: Any, type_: Any = Any) -> None:
    """Print a value as JSON on standard output: dataclasses by their fields, NaN as null."""
    print_line(TypeAdapter(type_).dump_json(value).decode())


def print_line(text: str) -> None:
    """Print a line for a program on standard output, whether it still reads or not."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()


def clock(at: float | None) -> str:
    """Local date and time for people; a dash for None."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
