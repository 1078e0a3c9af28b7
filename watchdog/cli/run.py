"""`watchdog run`: the daemon."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import partial
from typing import Annotated, NoReturn

import typer

from baselines.database import DatabaseError
from watchdog.cli.session import DEFAULT_CONFIG, ConfigPath, ExitCode, err, opened
from watchdog.config import LogSection, load_config
from watchdog.daemon import Daemon
from watchdog.logs import set_up_logging

M_ARENA_MAX = -8  # malloc.h


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    config: ConfigPath = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="Log JSON lines, whatever the configuration says.")] = False,
) -> None:
    """Watch the targets until SIGTERM. SIGHUP reads the configuration again."""

    def use_log(section: LogSection) -> None:
        set_up_logging(format="json" if json else section.format, level=section.level)

    _share_one_heap()
    with opened(config, create=True, keep_aside=True) as (parsed, database):
        use_log(parsed.log)
        daemon = Daemon(parsed, database, load=partial(load_config, config), use_log=use_log)
        try:
            daemon.run()
        except DatabaseError as error:
            err.print(f"watchdog: {error}", markup=False)
            _end(ExitCode.USAGE)
    _end(ExitCode.FINE)


def _share_one_heap() -> None:
    """glibc gives each thread a heap of its own, 0.6 MiB in all; Python's threads hardly ever allocate at once."""
    with suppress(OSError, AttributeError):  # another C library, which has one
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def _end(code: ExitCode) -> NoReturn:
    """At once. The interpreter would now wait for probes that hang, which may be for long.

    All that counts is on disk, and whoever sent SIGTERM has a deadline too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
