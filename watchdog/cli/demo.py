"""`watchdog demo`: see it work, in under two minutes, without a GPU."""

from __future__ import annotations

from typing import Annotated

import typer

from watchdog.cli.session import ExitCode, Refused


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave server and watchdog running until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Break a real PyTorch server in four ways and watch each being caught, told, and cured."""
    from importlib.util import find_spec  # noqa: PLC0415

    from watchdog.demo.story import tell  # noqa: PLC0415  (only here)

    if find_spec("torch") is None:
        raise Refused("the demo's server needs torch: pip install -c constraints.txt 'inference-watchdog[demo]'")
    raise typer.Exit(ExitCode.FINE if tell(keep=keep, json=json) else ExitCode.WORSE)
