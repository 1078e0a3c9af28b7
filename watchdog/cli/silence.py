"""`watchdog silence`: nobody is told about a target for a while, and nothing is recycled."""

from __future__ import annotations

import getpass
import time
from typing import Annotated

import typer

from alerts import store as alert_store
from alerts.store import EVERYTHING, Silence
from baselines.verdict import Check
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
        with database.write(durable=True) as connection:
            if end is not None and not alert_store.end_silence(connection, end, now=now):
                raise Refused(f"no silence {end} holds now; see: watchdog silence")
            if target is not None:
                if target != EVERYTHING:
                    parsed.find(target)
                alert_store.add_silence(
                    connection,
                    Silence(
                        target=target,
                        check=check or EVERYTHING,
                        from_at=now,
                        until_at=until,
                        by=getpass.getuser(),
                        why=why,
                    ),
                )
        with database.read() as connection:
            found = alert_store.list_silences(connection, now=now)
    if json:
        print_json(found, list[Silence])
        return
    if not found:
        out.print("no silences")
    for s in found:
        out.print(f"{s.id}  {s.target} {s.check} until {clock(s.until_at)} by {s.by} {s.why}".rstrip(), markup=False)
