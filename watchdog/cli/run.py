"""`watchdog run`: the daemon."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from watchdog.cli.session import DEFAULT_CONFIG, ConfigPath, ExitCode, opened
from watchdog.daemon import Daemon
from watchdog.logs import set_up_logging


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    config: ConfigPath = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="Log JSON lines, whatever the configuration says.")] = False,
) -> None:
    """Watch the targets until SIGTERM."""
    with opened(config, create=True) as (parsed, database):
        set_up_logging(format="json" if json else parsed.log.format, level=parsed.log.level)
        Daemon(parsed, database).run()
    # The interpreter would now wait for probes that hang, which may be for ever (a wedged GPU driver). All that counts
    # is on disk, and whoever sent SIGTERM has a deadline too.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.FINE)
