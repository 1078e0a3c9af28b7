"""Recycle by a command of the user's: `systemctl restart`, `supervisorctl restart`, a script. Never through a shell."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryFile

from alerts.recyclers import Acted
from probes.messages import Life
from probes.printable import one_line

KILL_GRACE_S = 5.0
TAIL_BYTES = 400


class CommandRecycler:
    """Runs argv with a time-out, in a process group of its own, with the target in its environment.

    WATCHDOG_TARGET and WATCHDOG_PIDS (space separated, may be empty) tell the command what it is about. Exit status 0
    means the act is done; anything else, or a time-out, means that it is not known to be.
    """

    one_by_one = False  # what the command restarts is its own choice

    def __init__(
        self, *, target: str, argv: Sequence[str], timeout_s: float, withheld: frozenset[str] = frozenset()
    ) -> None:
        """withheld: variables of our environment that the command does not get: those that hold our secrets."""
        self._target = target
        self._argv = list(argv)
        self._timeout_s = timeout_s
        self._withheld = withheld

    def plan(self, lives: Sequence[Life]) -> list[str]:
        pids = " ".join(str(life.pid) for life in lives)
        return [f"run {self._argv} with WATCHDOG_PIDS={pids!r}, at most {self._timeout_s:g} s"]

    def act(self, lives: Sequence[Life]) -> Acted:
        environment = {name: value for name, value in os.environ.items() if name not in self._withheld} | {
            "WATCHDOG_TARGET": self._target,
            "WATCHDOG_PIDS": " ".join(str(life.pid) for life in lives),
        }
        # A file, not a pipe: a server that the command starts in the background may keep its output open for ever.
        with TemporaryFile() as output:
            try:
                child = subprocess.Popen(
                    self._bounded(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                return Acted(done=False, detail=f"{self._argv[0]} could not be started: {error.strerror}")
            try:
                status = child.wait(self._timeout_s)
            except subprocess.TimeoutExpired:
                self._end(child)
                return Acted(done=False, detail=f"{self._argv[0]} did not end within {self._timeout_s:g} s")
            output.seek(max(0, output.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = output.read().decode(errors="replace").strip()
        if status != 0:
            return Acted(done=False, detail=one_line(f"{self._argv[0]} exited {status}: {tail or 'no output'}"))
        return Acted(done=True, detail=f"{self._argv[0]} exited 0")

    def _bounded(self) -> list[str]:
        """The command under timeout(1), where there is one: should this daemon be killed, nobody else ends a hung one.

        It steps in after our own time-out has been through. What cannot be found is started as it is, to fail in words.
        """
        keeper = shutil.which("timeout")
        if keeper is None or shutil.which(self._argv[0]) is None:
            return self._argv
        limit_s = math.ceil(self._timeout_s + KILL_GRACE_S)
        return [keeper, "-k", f"{KILL_GRACE_S:g}", str(limit_s), *self._argv]

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        """TERM, a grace period, KILL: to the whole group, which is ours because we started it."""
        for number in (signal.SIGTERM, signal.SIGKILL):  # KILL always: what is left of the group may ignore TERM
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(KILL_GRACE_S)
