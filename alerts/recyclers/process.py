"""Recycle by signal: TERM the worker, wait for it to go, KILL only where that is allowed. Its supervisor starts it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from alerts.recyclers import Acted
from probes.messages import Life

POLL_S = 0.05
KILL_WAIT_S = 10.0  # a process in an uninterruptible driver call does not even take KILL


class ProcessRecycler:
    """Ends workers one after another, so that the others go on serving.

    alive tells whether a life still runs (pid *and* start time); it is asked again right before every signal.
    wait sleeps that many seconds. grace_s is the time a worker has to finish its requests after TERM.
    """

    one_by_one = True

    def __init__(
        self,
        *,
        grace_s: float,
        allow_kill: bool,
        alive: Callable[[Life], bool],
        monotonic: Callable[[], float],
        wait: Callable[[float], object],
    ) -> None:
        self._grace_s = grace_s
        self._allow_kill = allow_kill
        self._alive = alive
        self._monotonic = monotonic
        self._wait = wait

    def plan(self, lives: Sequence[Life]) -> list[str]:
        then = "KILL if it is still there" if self._allow_kill else "give up if it is still there"
        return [f"TERM pid {life.pid}, wait up to {self._grace_s:g} s, {then}" for life in lives]

    def act(self, lives: Sequence[Life]) -> Acted:
        if not lives:
            return Acted(done=False, detail="no worker process was found")
        ended = []
        for life in lives:
            try:
                how = self._end(life)
            except OSError as error:  # most likely a worker of another user, which only root may signal
                return Acted(done=False, detail=f"pid {life.pid} could not be signalled: {error.strerror}")
            if how is None:
                return Acted(done=False, detail=f"pid {life.pid} is still running {self._grace_s:g} s after TERM")
            ended.append(f"pid {life.pid} {how}")
        return Acted(done=True, detail=", ".join(ended))

    def _end(self, life: Life) -> str | None:
        if not self._signal(life, signal.SIGTERM):
            return "had already gone"
        if self._gone_within(life, self._grace_s):
            return "ended on TERM"
        if not self._allow_kill:
            return None
        self._signal(life, signal.SIGKILL)
        return f"killed after {self._grace_s:g} s" if self._gone_within(life, KILL_WAIT_S) else None

    def _signal(self, life: Life, number: signal.Signals) -> bool:
        """Send through a pidfd, so that a pid reused between the check and the signal is never hit."""
        try:
            pidfd = os.pidfd_open(life.pid)
        except ProcessLookupError:
            return False
        try:
            if not self._alive(life):  # the pidfd now pins whoever has the pid: is it still our worker?
                return False
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def _gone_within(self, life: Life, seconds: float) -> bool:
        deadline = self._monotonic() + seconds
        while self._alive(life):
            if self._monotonic() >= deadline:
                return False
            self._wait(POLL_S)
        return True
