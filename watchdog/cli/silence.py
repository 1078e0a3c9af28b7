"""`watchdog silence`: nobody is told about a target for a while, and nothing is recycled."""

from __future__ import annotations

import getpass
import time
from typing import Annotated

import typer

from alerts.store import Silence
from baselines.verdict import Check
from watchdog import oncall
from watchdog.cli.session import (
    DEFAULT_CONFIG,
    ConfigPath,
    Json,
    Refused,
    clock,
    opened,
    out,
    print_json,
    read_duration,
)


def register(app: typer.Typer) -> None:
    app.command()(silence)


def silence(
    target: Annotated[str | None, typer.Argument(help="A target, or '*' for all; lists silences without one.")] = None,
    length: Annotated[str | None, typer.Option("--for", help="How long, for example 2h; 1h without it.")] = None,
    why: Annotated[str, typer.Option(help="Goes on record.")] = "",
    check: Annotated[Check | None, typer.Option(help="Only this check.")] = None,
    end: Annotated[int | None, typer.Option(metavar="ID", help="End a silence now.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Silence a target; list silences; end one."""
    now = time.time()
    if target is None and (length or why or check):
        raise Refused("which target? Name one, or '*' for all")
    until = now + read_duration("--for", length or "1h")
    if until <= now:
        raise Refused(f"--for must be longer than nothing (given: {length!r})")
    with opened(config, create=True) as (parsed, database):
        if end is not None:
            try:
                oncall.end_silence(database, end, now=now)
            except oncall.NotThere as error:
                raise Refused(f"{error}; see: watchdog silence") from error
        if target is not None:
            oncall.add_silence(
                database,
                parsed,
                target=target,
                check=check,
                length_s=until - now,
                why=why,
                by=getpass.getuser(),
                now=now,
            )
        found = oncall.list_silences(database, now=now)
    if json:
        print_json(found, list[Silence])
        return
    if not found:
        out.print("no silences")
    for s in found:
        out.print(f"{s.id}  {s.target} {s.check} until {clock(s.until_at)} by {s.by} {s.why}".rstrip(), markup=False)
