"""What every command needs: the configuration, the database, exit codes, and a place to print."""

from __future__ import annotations

import os
import sqlite3
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
from sqlalchemy.exc import DatabaseError as SqlError

from baselines.condition import Condition, examine, is_corrupt, last_set_aside, set_aside
from baselines.database import Database, DatabaseError, open_database, path_of
from probes.printable import plain
from watchdog.config import Config, TargetSection, load_config
from watchdog.migrations.migrate import HEAD, bring_up_to_date
from watchdog.spelling import parse_duration
from watchdog.turns import Occupied, daemon_lock, hold


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
    def print(self, *objects: Any, **options: Any) -> None:
        """What others wrote is shown and not obeyed: a code for the terminal could hide what else is said."""
        super().print(*(plain(each) if isinstance(each, str) else each for each in objects), **options)

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
def opened(path: Path, *, create: bool = False, keep_aside: bool = False) -> Iterator[tuple[Config, Database]]:
    """The configuration and its database, brought up to date; closed at the end.

    create: make the database if there is none. A command that only looks must not: the real one is then elsewhere.
    keep_aside: of the daemon alone: set a corrupt file aside and go on with a new one. Any other command refuses it.
    Says on standard error as long as a file that was set aside lies there.
    """
    config = load_config(path)
    where = path_of(config.store.url)
    if keep_aside:
        _keep_aside(where)
    elif where.parent.is_dir():
        _refuse_what_is_lost(where, create=create)
        if (kept := last_set_aside(where)) is not None:
            err.print(f"watchdog: {kept.note}", markup=False)
    database = open_database(config.store.url)
    try:
        bring_up_to_date(database)
        yield config, database
    except SqlError as error:
        if not is_corrupt(error.orig):
            raise
        raise DatabaseError(f"{where.absolute()} is corrupt ({error.orig}); {ONLY_THE_DAEMON}") from error
    finally:
        database.close()


ONLY_THE_DAEMON = (
    "it was left as it is. `watchdog run` keeps such a file aside and begins a new one; or put a backup in its place "
    "while no daemon runs"
)


def _refuse_what_is_lost(where: Path, *, create: bool) -> None:
    """Raises Refused for a database that is not there, or is empty where there was one."""
    size = where.stat().st_size if where.exists() else None
    if size is None and not create:
        raise Refused(
            f"there is no database {where.absolute()}: nothing ran here yet, or store.url is relative to another folder"
        )
    if size == 0 and (not create or _is_lost(where)):
        raise Refused(f"{where.absolute()} is empty; {ONLY_THE_DAEMON}")


def _keep_aside(where: Path) -> None:
    """Set a corrupt database aside, unless a daemon is running on it: that one notices by itself.

    Looked at again under the daemon's lock, for another daemon may just have done it. Raises DatabaseError.
    """
    try:
        if _is_lost(where):
            with hold(daemon_lock(where), wait_s=0.0, monotonic=time.monotonic, sleep=time.sleep):
                if _is_lost(where):
                    set_aside(where, now=time.time())
    except Occupied:
        return
    except (OSError, sqlite3.Error) as error:
        raise DatabaseError(f"{where.absolute()} cannot be examined, or set aside: {error}") from error


def _is_lost(where: Path) -> bool:
    """Whether it is corrupt and ours. What a newer version wrote is not ours to move."""
    found = examine(where, served=daemon_lock(where).exists())
    return found.condition is Condition.CORRUPT and (found.revision or HEAD) <= HEAD


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
