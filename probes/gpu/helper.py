"""The daemon's end of the NVML child: starts it, writes to it, hears it. It never kills: a process that is stuck in the
driver outlives SIGKILL, and one that dies in the middle of a call may take the GPU with it (dcgm-exporter#84).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import IO, Any

import probes
from probes.gpu import wire
from probes.printable import one_line

_KEPT_LINES = 20


class HelperError(Exception):
    """The child ended, or said what is not understood. The message says it in one line."""


class Helper:
    """One child, running from construction on. Used by one thread.

    Raises HelperError when it cannot be started. withheld: variables of our environment that it does not get.
    """

    def __init__(self, *, withheld: frozenset[str] = frozenset()) -> None:
        folder = str(Path(probes.__path__[0]).parent)
        kept = {name: value for name, value in os.environ.items() if name not in withheld}
        path = os.pathsep.join(filter(None, (kept.get("PYTHONPATH"), folder)))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "probes.gpu.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env={**kept, "PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C at the terminal is for the daemon
            )
        except OSError as error:
            raise HelperError(f"cannot start {sys.executable}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._out = self._process.stdout
        self._err = self._process.stderr
        self._rest = b""
        self._words: deque[str] = deque(maxlen=_KEPT_LINES)
        self._selector = selectors.DefaultSelector()
        for pipe in (self._out, self._err):
            self._selector.register(pipe, selectors.EVENT_READ)
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._err.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, kind: str, **fields: Any) -> None:
        """Never waits: a child that does not read its pipe has not answered its last request either."""
        try:
            os.write(self._stdin.fileno(), wire.encode(kind, **fields))
        except OSError as error:
            raise HelperError(f"the NVML process does not listen: {self._last_words()}") from error

    def hear(self, timeout_s: float) -> list[dict[str, Any]]:
        """What it said since; waits for something to be said, at most so long."""
        said: list[dict[str, Any]] = []
        for key, _ in self._selector.select(timeout_s):
            data = os.read(key.fd, 65536)
            if key.fileobj is self._err:
                self._words.extend(data.decode(errors="replace").splitlines())
                if not data:
                    self._selector.unregister(self._err)
                continue
            if not data:
                raise HelperError(f"the NVML process has ended: {self._last_words()}")
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > wire.MAX_LINE_BYTES:
                raise HelperError("the NVML process says a line without end")
            try:
                said += [wire.decode(line) for line in lines]
            except wire.WireError as error:
                raise HelperError(f"the NVML process was not understood: {error}") from error
        return said

    def let_go(self) -> None:
        """Close the pipes: it ends by itself, now or when its call returns. Safe to call twice."""
        self._selector.close()
        for pipe in (self._stdin, self._out, self._err):
            pipe.close()

    def is_gone(self) -> bool:
        """Whether it has ended; reaps it then."""
        return self._process.poll() is not None

    def wait(self, timeout_s: float) -> None:
        """For its end, at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            self._words.extend(os.read(self._err.fileno(), 65536).decode(errors="replace").splitlines())
        lines = [line.strip() for line in self._words if line.strip()]
        return one_line(lines[-1] if lines else f"exit code {self._process.poll()}", limit=200)
