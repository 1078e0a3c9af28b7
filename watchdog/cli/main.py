"""The command line: one file per group of commands. Exit codes: 0 fine, 1 usage or set-up, 2 worse, 3 undecided."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer
from sqlalchemy.exc import DatabaseError as SqlError

from baselines.database import DatabaseError
from watchdog.cli.session import ExitCode, Refused, err, out
from watchdog.config import ConfigError
from watchdog.metrics import package_version
from watchdog.turns import Occupied

COMMANDS = (
    *("demo", "run", "setup", "baseline", "canary", "show", "history", "incidents", "silence", "replay", "recycle"),
    "notify",
)
"""Modules of this package, in the order of the help."""

app = typer.Typer(
    name="watchdog",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Watches a PyTorch model in production: right answer, same speed, no leak.",
    epilog="Exit codes: 0 fine, 1 usage or set-up, 2 worse, 3 could not decide.",
)


def _print_version(value: bool) -> None:
    if value:
        out.print(f"inference-watchdog {package_version()}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


# The daemon lives for months and needs none of the others: a megabyte.
for name in ("run",) if sys.argv[1:2] == ["run"] else COMMANDS:
    import_module(f"{__package__}.{name}").register(app)


def main() -> None:
    """Entry point of `watchdog`: turns errors that people cause into a message and exit code 1."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:  # the parser's own errors, whose exit code would be 2
        for said in ("Value error, ", "Input should be "):
            error.message = error.message.replace(said, "must be " if said.startswith("Input") else "")
        if problem := error.format_message():  # without any arguments it has printed the help and says nothing
            err.print(f"watchdog: {problem}", markup=False)
            err.print("watchdog: `watchdog --help` and `watchdog COMMAND --help` say what is possible", markup=False)
        code = ExitCode.USAGE
    except (ConfigError, DatabaseError, Refused) as error:
        for line in str(error).splitlines():
            err.print(f"watchdog: {line}", markup=False)
        code = ExitCode.USAGE
    except SqlError as error:
        err.print(f"watchdog: the database cannot be used: {error.orig}", markup=False)
        code = ExitCode.USAGE
    except Occupied as error:
        err.print(f"watchdog: another watchdog holds {error} and did not let go in time; try again", markup=False)
        code = ExitCode.UNDECIDED
    except (KeyboardInterrupt, typer.Abort):
        err.print("watchdog: interrupted")
        code = ExitCode.USAGE
    sys.exit(int(code or 0))


if __name__ == "__main__":
    main()
