"""The daemon's end of an isolated worker: a child process under any interpreter, with a deadline on every wait.

Whatever goes wrong with the child, or inside it, is a `WorkerError` that names an outcome. After anything but an
exception of the model the child has been killed and is not `usable`; the owner closes it and starts another one.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from probes.messages import Outcome
from probes.printable import MAX_CHARS, one_line
from watchdog_agent import wire

GRACE_S = 2.0
"""From a request to end, or from TERM, to the next step of the ladder. A worker has nothing to save."""

LOOK_S = 0.2
"""How often a silent child is looked at: a grandchild may hold its pipe open after it has died."""

STDERR_LINES = 40
MAX_DETAIL_CHARS = MAX_CHARS

T = TypeVar("T", bound=wire.Answer)


class ProbeError(Exception):
    """There is no result, and why: the outcome, and one line for a person, made so whatever the child said."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = one_line(detail, limit=MAX_DETAIL_CHARS)
        super().__init__(self.detail)


class WorkerError(ProbeError):
    """The isolated worker gave no answer."""


class WorkerProcess:
    """One child, running from construction on. One exchange at a time; only `kill` may be called from any thread."""

    def __init__(self, *, python: str, monotonic: Callable[[], float], withheld: frozenset[str] = frozenset()) -> None:
        """Raises WorkerError when the interpreter cannot be started.

        withheld: variables of our environment that the child does not get: those that hold secrets.
        """
        self._monotonic = monotonic
        self._buffer = wire.Lines()
        self._lines: deque[bytes] = deque()
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._ending = threading.Lock()
        self._killed = False
        self._home = tempfile.TemporaryDirectory(prefix="watchdog-worker-")
        try:
            self._process = _start(python, Path(self._home.name), withheld)
        except OSError as error:
            self._home.cleanup()
            raise WorkerError(Outcome.WORKER_ERROR, f"cannot start {python}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._drain = threading.Thread(target=_drain, args=(self._process.stderr, self._stderr), daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def usable(self) -> bool:
        """False once it was killed from this side. A child that died by itself is noticed by the next exchange."""
        return not self._killed

    @property
    def ended(self) -> bool:
        """Whether it is gone and reaped. A process that is stuck in a device driver outlives even SIGKILL."""
        return self._process.returncode is not None

    def send(self, request: wire.Request) -> None:
        """Raises WorkerError when the child is gone or said what nobody asked, wire.WireError for one too long."""
        line = wire.encode(request, limit=wire.MAX_REQUEST_BYTES)
        if self._lines or self._buffer.partial:
            raise self._garbled("more answers than questions")
        try:
            self._stdin.write(line)
        except OSError as error:
            raise self._crashed() from error

    def receive(self, kind: type[T], *, timeout_s: float) -> T:
        """The next answer, which must be of that kind. Raises WorkerError for everything else."""
        line = self._receive_line(self._monotonic() + timeout_s)
        if line is None:
            self.kill()
            place = self._last_place()
            where = f"; it was at {place}" if place else ""
            raise WorkerError(Outcome.TIMEOUT, f"no answer within {timeout_s:.3g} s{where}")
        try:
            answer = wire.decode(line)
        except wire.WireError as error:
            raise self._garbled(str(error)) from error
        if isinstance(answer, wire.Failed):
            if answer.error in (wire.CUDA_FAULT, wire.MODEL_LOAD_FAILED):
                self.kill()
            known = {Outcome.OUT_OF_MEMORY, Outcome.CUDA_FAULT, Outcome.MODEL_LOAD_FAILED}
            outcome = Outcome(answer.error) if answer.error in known else Outcome.WORKER_ERROR
            raise WorkerError(outcome, answer.detail)
        if not isinstance(answer, kind):
            raise self._garbled(f"{type(answer).__name__} instead of {kind.__name__}")
        return answer

    def kill(self) -> None:
        """TERM, grace, KILL for the child and what it started. Safe from any thread, and twice.

        It is reaped last: until then its pid is its own, and signals to its group reach nobody else.
        """
        with self._ending:
            self._killed = True
            if self.ended:
                return
            if not self._has_died():
                os.killpg(self._process.pid, signal.SIGTERM)
                self._await_death(GRACE_S)
            os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=GRACE_S)

    def close(self) -> None:
        """Ask it to stop, make sure that it did, let go of everything. Safe to call twice."""
        if self.usable:
            with contextlib.suppress(OSError):  # it is gone already
                self._stdin.write(wire.encode(wire.Stop()))
                self._await_death(GRACE_S)
        self.kill()
        self._stdin.close()
        self._stdout.close()
        self._drain.join(GRACE_S)
        self._home.cleanup()

    def _receive_line(self, deadline: float) -> bytes | None:
        """None when the deadline passed. Raises WorkerError when no line can come any more."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not self._lines:
                remaining = deadline - self._monotonic()
                if remaining <= 0:
                    return None
                if not selector.select(min(remaining, LOOK_S)):
                    if self._has_died() and not selector.select(0):
                        raise self._crashed()
                    continue
                data = os.read(self._stdout.fileno(), 65536)
                if not data:
                    raise self._crashed()
                try:
                    self._lines.extend(self._buffer.feed(data))
                except wire.WireError as error:
                    raise self._garbled(str(error)) from error
        return self._lines.popleft()

    def _crashed(self) -> WorkerError:
        self._await_death(GRACE_S)  # the pipe closes a moment before the process is gone
        self.kill()
        words = self._last_words()
        return WorkerError(Outcome.WORKER_CRASHED, f"{_ending(self._process.returncode)}{words and f': {words}'}")

    def _garbled(self, why: str) -> WorkerError:
        self.kill()
        return WorkerError(Outcome.WORKER_ERROR, f"the worker's answer was not understood: {why}")

    def _last_words(self) -> str:
        """What Python said of a crash and where, else the last line on stderr; "" when there is none."""
        self._drain.join(GRACE_S)
        lines = [line.strip() for line in list(self._stderr) if line.strip()]
        fatal = next((line for line in lines if line.startswith("Fatal Python error: ")), None)
        if fatal is not None:
            place = self._last_place()
            return f"{fatal}, {place}" if place else fatal
        return lines[-1] if lines else ""

    def _last_place(self) -> str:
        """The innermost line of the model's own code in the stack that Python left on stderr; "" without a stack."""
        self._drain.join(GRACE_S)
        frames: list[str] = []
        for line in list(self._stderr):
            if line.endswith("(most recent call first):"):
                frames = []
            elif line.startswith('  File "'):
                frames.append(line.strip())
        foreign = [f for f in frames if "/torch/" not in f and "/watchdog_agent/" not in f and "<frozen" not in f]
        return next(iter(foreign or frames), "")

    def _has_died(self) -> bool:
        """Without reaping it."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True  # another thread has reaped it meanwhile

    def _await_death(self, timeout_s: float) -> None:
        deadline = self._monotonic() + timeout_s
        while not self._has_died() and self._monotonic() < deadline:
            time.sleep(0.01)


def _start(python: str, home: Path, withheld: frozenset[str]) -> subprocess.Popen[bytes]:
    """In a session of its own, on a path that holds the agent's package and nothing else of ours."""
    (home / "watchdog_agent").symlink_to(Path(wire.__file__).resolve().parent, target_is_directory=True)
    ours = {"PYTHONHOME", *withheld}  # of this interpreter, and for our own eyes
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    program = str(Path(python).absolute()) if os.sep in python else python  # not resolved: venvs are links
    return subprocess.Popen(
        [program, "-m", "watchdog_agent.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=home,
        env={**kept, "PYTHONPATH": str(home)},
        start_new_session=True,
    )


def _drain(stderr: IO[bytes], kept: deque[str]) -> None:
    """Reads to the end, so that a talkative model never blocks; keeps the last lines, each cut to a sane length."""
    with stderr:
        rest = b""
        while data := os.read(stderr.fileno(), 65536):
            *lines, rest = (rest + data).split(b"\n")
            kept.extend(line[:500].decode(errors="replace") for line in lines)
            rest = rest[:500]
        if rest:
            kept.append(rest.decode(errors="replace"))


def _ending(returncode: int | None) -> str:
    if returncode is None:
        return "gone from its pipe, but does not end even after SIGKILL"
    if returncode >= 0:
        return f"exit code {returncode}"
    name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else f"signal {-returncode}"
    hint = " (the kernel kills so when memory runs out)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
