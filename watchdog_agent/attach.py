"""The agent of a serving process. One call, anywhere, at any time, as often as one likes:

    from watchdog_agent.attach import attach
    attach(version="0.24")

It opens a door (`door`) where the daemon of the same user asks how the process stands, and lets it trim memory or run a
small kernel (`control`). One thread does everything but that, and sleeps until it is asked. Nothing here raises into
its host or makes it wait: what goes wrong is logged once by the logger `watchdog_agent`, stands in `Agent.problem`, and
is tried again later. A forked child gets a door of its own; in a server that forks in C (uWSGI) at its first request at
the latest.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from watchdog_agent import door as doors
from watchdog_agent import native
from watchdog_agent.agent_wire import Answer, Ask, Question, RunKernel, Trimmed, default_folder
from watchdog_agent.control import Control
from watchdog_agent.door import Door
from watchdog_agent.identity import life_key
from watchdog_agent.ledger import LEDGER
from watchdog_agent.report import report
from watchdog_agent.served import remember, warn
from watchdog_agent.talk import TALK_S, Talk
from watchdog_agent.trim import trim

LOOK_S = 60.0  # how soon a door that somebody closed or removed is opened again
RETRY_S = 60.0  # after one that could not be opened
PAUSE_S = 1.0  # after one that was lost: whoever closes descriptors may not be done yet
CHILD_S = 0.5  # a child that only runs another program, or ends at once, never opens a door
FORK_WAIT_S = 0.2  # a fork waits at most so long for the thread to end, so that no lock of it goes into the child
MAX_TALKS = 16  # callers who have not said all; the one who called first is dropped for one more
NOBODY = -1  # no process has this pid


def attach(
    *,
    folder: Optional[str] = None,
    port: Optional[int] = None,
    token: Optional[str] = None,
    version: Optional[str] = None,
    model: Any = None,
    load_s: Optional[float] = None,
    kernel: bool = True,
) -> Agent:
    """Let the watchdog ask this process. A second call only adds what it knows.

    folder: for the socket; None takes `agent_wire.default_folder`. port, token: loopback HTTP instead, for a daemon of
    another user; port is the first one tried. version: of what is served. model: a torch module whose inputs' shapes
    are counted. load_s: how long it took to load, in seconds; or see `loading`. kernel: False in any call forbids the
    daemon to run its reference kernel here.
    """
    with contextlib.suppress(Exception):
        if not kernel:
            LEDGER.may_run_kernel = False
        remember(version, load_s, model)
    agent = _ATTACHED.get("agent")
    if agent is None:
        new = Agent(_opener(folder, port, token))
        agent = _ATTACHED.setdefault("agent", new)  # in one step: no lock that a fork could copy while it is held
        if agent is new:
            agent.begin()
    with contextlib.suppress(Exception):
        if not _is_before_uwsgi_forks():
            agent.follow_fork()
            agent.follow_failure()
    return agent


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around what loads the model: how long it took is told by the agent."""
    began = time.monotonic()
    yield
    LEDGER.model_load_s = time.monotonic() - began


class Agent:
    """problem: why it cannot be asked, one line; None while it can, or is about to be. address: where."""

    def __init__(self, open_door: Callable[[], Door]) -> None:
        self.problem: Optional[str] = None
        self._open_door = open_door
        self._door: Optional[Door] = None
        self._talks: List[Talk] = []
        self._control = Control()
        self._logged = False
        self._closed = False
        self._unstarted = False
        self._pid = os.getpid()
        self._stop = native.Event()
        self._thread: Optional[native.Thread] = None

    @property
    def address(self) -> Optional[str]:
        """The socket's path, or host:port; None while no door is open."""
        door = self._door
        return None if door is None else door.address

    def begin(self) -> None:
        """Start, and from now on also in every forked child."""
        with self._noting():
            os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._reborn)
            atexit.register(self._at_exit)
            LEDGER.on_fork = self.follow_fork
            self._hook_into_uwsgi()
            if _is_before_uwsgi_forks():  # a thread of ours would take the interpreter's lock into every worker
                self._pid = NOBODY
                LEDGER.forget_process()
                return
        self._start(0.0)

    def follow_fork(self) -> None:
        """In a child that nothing told of its fork: be reborn."""
        if self._pid != os.getpid():
            self._reborn()

    def follow_failure(self) -> None:
        """Where no thread could be started before: try again."""
        if self._unstarted:
            self._start(0.0)

    def close(self) -> None:
        """Close the door for good; for whoever embeds the agent in something that outlives it."""
        self._closed = True
        self._end_threads(FORK_WAIT_S + 1.0)
        self._control.close(0.0)
        if _ATTACHED.get("agent") is self:
            del _ATTACHED["agent"]

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _start(self, delay_s: float) -> None:
        with self._noting():
            try:
                self._thread = native.Thread(self._run, self._stop, delay_s)
            except RuntimeError:
                self._unstarted = True
                raise
            self._unstarted = False

    def _run(self, stop: native.Event, delay_s: float) -> None:
        with self._noting():  # the host's signals are for the host's threads, first of all for its main thread
            if not native.is_main_thread():
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        stop.wait(delay_s)
        while not stop.is_set():
            pause_s = RETRY_S
            with self._noting():
                door = self._door
                if door is None:
                    door = self._door = self._open_door()
                self.problem, self._logged = None, False
                try:
                    self._serve(door, stop)
                finally:
                    forking = stop.is_set() and not self._closed  # the door stays open, and the next thread goes on
                    if not forking:
                        self._door = None
                        self._end_talks()
                        door.close(remove=self._closed)
                pause_s = PAUSE_S
            stop.wait(pause_s)

    def _serve(self, door: Door, stop: native.Event) -> None:
        """Answer until it stops standing."""
        while not stop.is_set():
            poll = native.original(select, "poll")()
            for fd in (door.fileno(), *(talk.fileno() for talk in self._talks)):
                poll.register(fd, select.POLLIN)
            called = poll.poll((TALK_S if self._talks else LOOK_S) * 1000)
            if stop.is_set() or not door.stands():
                return
            caller = door.accept() if called else None
            if caller is not None:
                self._talks.append(Talk(caller, token=door.token))
            for talk in list(self._talks):
                self._talks.remove(talk)  # after a fork the next thread goes on with the others
                if talk.go_on(self._answer):
                    self._talks.append(talk)
                if stop.is_set():
                    return
            while len(self._talks) > MAX_TALKS:
                self._talks.pop(0).end()

    def _end_talks(self) -> None:
        talks, self._talks = self._talks, []
        for talk in talks:
            talk.end()

    def _answer(self, question: Question) -> Answer:
        if isinstance(question, RunKernel):
            return self._control.answer()
        return report(LEDGER) if isinstance(question, Ask) else Trimmed(life=life_key(), steps=trim())

    def _end_threads(self, wait_s: float) -> None:
        self._stop.set()
        door, thread = self._door, self._thread
        if thread is not None and not thread.is_current() and thread.is_alive():
            if door is not None:
                door.knock()
            thread.await_end(wait_s)
        self._control.end(wait_s)

    # --- forks and the end --------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        """No thread but the forking one goes into a child: what ours was at would never be finished there."""
        with self._noting():
            self._end_threads(FORK_WAIT_S)

    def _after_fork(self) -> None:
        with self._noting():
            if self._stop.is_set() and not self._closed:
                self._stop = native.Event()
                self._start(0.0)

    def _reborn(self) -> None:
        """In the child: the parent's door is not ours, its thread is not here."""
        with self._noting():
            door, self._door = self._door, None
            self._pid, self._stop, self._thread = os.getpid(), native.Event(), None
            self._control = Control()
            LEDGER.reset()
            self._end_talks()
            if door is not None:
                door.close(remove=False)
            if not self._closed:
                self._start(CHILD_S)

    def _hook_into_uwsgi(self) -> None:
        """uWSGI forks in C and calls only its own hook; where somebody else takes that, the first request starts us."""
        uwsgi = _uwsgi()
        if uwsgi is None:
            return
        before = getattr(uwsgi, "post_fork_hook", None)

        def hook() -> None:
            if before is not None:
                before()
            self.follow_fork()

        uwsgi.post_fork_hook = hook

    def _at_exit(self) -> None:
        if self._pid != os.getpid():
            return
        self._control.close(FORK_WAIT_S)
        self._closed = True
        self._stop.set()  # also for a thread that has yet to open the door
        door = self._door
        if door is not None:
            door.close(remove=True)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Whatever goes wrong inside stays inside, and is said once."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - never the host's problem
            with contextlib.suppress(Exception):
                self._note(error)

    def _note(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        try:
            if not self._logged:
                self._logged = True
                warn(f"the watchdog cannot ask this process: {said}")
        finally:
            self.problem = said


def _uwsgi() -> Any:
    """What uWSGI puts into its interpreters, which has no file; None elsewhere, also for an application's uwsgi.py."""
    uwsgi: Any = sys.modules.get("uwsgi")
    is_its_own = getattr(uwsgi, "__file__", None) is None and callable(getattr(uwsgi, "worker_id", None))
    return uwsgi if is_its_own else None


def _is_before_uwsgi_forks() -> bool:
    with contextlib.suppress(Exception):  # of whoever bears the name all the same
        uwsgi = _uwsgi()
        return uwsgi is not None and uwsgi.worker_id() == 0
    return False


def _opener(folder: Optional[str], port: Optional[int], token: Optional[str]) -> Callable[[], Door]:
    if port is None and token is None:
        here = ""
        with contextlib.suppress(OSError):  # a folder that was removed, as by a deploy that swaps it
            here = os.getcwd()  # noqa: PTH109 - now: the host may go elsewhere
        return lambda: doors.open_folder(os.path.join(here, folder or default_folder()))  # noqa: PTH118

    def open_port() -> Door:
        if port is None or token is None:
            raise ValueError("port and token go together")
        return doors.open_port(port, token)

    return open_port


_ATTACHED: Dict[str, Agent] = {}  # none or one: a process has one life to tell of
