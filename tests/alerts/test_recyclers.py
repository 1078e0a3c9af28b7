"""Recyclers on real processes: what ends, what is killed, what is never touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import DEADLINE_S, leave_out, wait_until

from alerts.recyclers import Acted
from alerts.recyclers.command import CommandRecycler
from alerts.recyclers.process import ProcessRecycler
from probes.messages import Life
from probes.process import is_alive, life_of

CHILD = Path(__file__).with_name("recycled_child.py")

Start = Callable[..., tuple[subprocess.Popen[bytes], Life]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a child of some temper; each is reaped as a supervisor would, and is gone after the test."""
    children: list[subprocess.Popen[bytes]] = []

    def start(temper: str, *more: str, reaped: bool = True) -> tuple[subprocess.Popen[bytes], Life]:
        child = subprocess.Popen([sys.executable, str(CHILD), temper, *more], stdout=subprocess.PIPE)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == f"{child.pid}\n".encode()
        if reaped:
            threading.Thread(target=child.wait, daemon=True).start()
        life = life_of(child.pid)
        assert life is not None
        return child, life

    yield start
    for child in children:
        child.kill()
        child.wait(DEADLINE_S)
        if child.stdout:
            child.stdout.close()


def recycler(*, grace_s: float = DEADLINE_S, allow_kill: bool = False, **more) -> ProcessRecycler:
    values = {"alive": is_alive, "monotonic": time.monotonic, "wait": time.sleep}
    return ProcessRecycler(grace_s=grace_s, allow_kill=allow_kill, **values | more)


class TestProcess:
    def test_a_worker_that_takes_term_is_ended_by_it(self, start: Start) -> None:
        """And that is all that happens to it."""
        child, life = start("meek")
        assert recycler(allow_kill=True).act([life]) == Acted(done=True, detail=f"pid {life.pid} ended on TERM")
        assert child.wait(DEADLINE_S) == -signal.SIGTERM

    def test_one_that_ignores_term_is_left_alone_unless_kill_is_allowed(self, start: Start) -> None:
        """Not done, and it says so: a worker in a driver call must not be killed lightly."""
        _, life = start("stubborn")
        acted = recycler(grace_s=0.2).act([life])
        assert acted == Acted(done=False, detail=f"pid {life.pid} is still running 0.2 s after TERM")
        assert is_alive(life)

    def test_one_that_ignores_term_is_killed_where_that_is_allowed(self, start: Start) -> None:
        """After its grace."""
        child, life = start("stubborn")
        acted = recycler(grace_s=0.2, allow_kill=True).act([life])
        assert acted == Acted(done=True, detail=f"pid {life.pid} killed after 0.2 s")
        assert child.wait(DEADLINE_S) == -signal.SIGKILL

    def test_it_may_finish_its_requests(self, start: Start, tmp_path: Path) -> None:
        """What ends within its grace is not killed."""
        child, life = start("slow", str(tmp_path / "done"))
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                (tmp_path / "done").touch()
            time.sleep(seconds)

        assert recycler(allow_kill=True, wait=wait).act([life]).detail == f"pid {life.pid} ended on TERM"
        assert child.wait(DEADLINE_S) == 0
        assert len(waits) >= 3

    def test_a_pid_that_is_another_process_by_now_is_never_signalled(self, start: Start) -> None:
        """The kernel gives pids again: without the right start time it is somebody else's process."""
        child, life = start("meek")
        other = Life(pid=life.pid, start_ticks=life.start_ticks + 1)
        acted = recycler(allow_kill=True).act([other])
        assert acted == Acted(done=True, detail=f"pid {life.pid} had already gone")
        assert child.poll() is None
        assert is_alive(life)

    def test_a_pid_reused_between_term_and_kill_is_not_killed(self, start: Start) -> None:
        """The life is asked for again before each signal: here it becomes another after TERM."""
        child, life = start("stubborn")
        answers = iter([True, True, True])  # before TERM; twice while waiting; then the pid is another's
        monotonic = iter([0.0, 0.0, 100.0, 100.0, 100.0]).__next__
        acted = recycler(
            allow_kill=True, alive=lambda _: next(answers, False), monotonic=monotonic, wait=lambda _: None
        ).act([life])
        assert acted.done
        assert child.poll() is None
        assert is_alive(life)

    def test_one_that_is_gone_already_needs_nothing(self, start: Start) -> None:
        """Its supervisor was quicker."""
        child, life = start("meek", reaped=False)
        child.kill()
        child.wait(DEADLINE_S)
        assert recycler().act([life]) == Acted(done=True, detail=f"pid {life.pid} had already gone")

    def test_a_zombie_is_gone(self, start: Start) -> None:
        """A supervisor that is slow to reap does not hold up the recycle."""
        child, life = start("meek", reaped=False)
        assert recycler().act([life]).detail == f"pid {life.pid} ended on TERM"
        assert Path(f"/proc/{life.pid}/stat").read_text().split()[2] == "Z"
        child.wait(DEADLINE_S)

    def test_workers_end_one_after_another(self, start: Start) -> None:
        """The second is not asked to go before the first is gone, so that it goes on serving."""
        lives = [start("meek")[1] for _ in range(3)]
        seen: list[tuple[bool, ...]] = []

        def alive(life: Life) -> bool:
            seen.append(tuple(is_alive(each) for each in lives))
            return is_alive(life)

        acted = recycler(alive=alive).act(lives)
        assert acted == Acted(done=True, detail=", ".join(f"pid {life.pid} ended on TERM" for life in lives))
        allowed = {(True, True, True), (False, True, True), (False, False, True), (False, False, False)}
        assert set(seen) <= allowed
        assert seen == sorted(seen, reverse=True)

    def test_the_first_that_stays_ends_the_round(self, start: Start) -> None:
        """The rest go on serving: one stuck worker is enough trouble."""
        (_, stuck), (_, fine) = start("stubborn"), start("meek")
        acted = recycler(grace_s=0.1).act([stuck, fine])
        assert not acted.done
        assert str(stuck.pid) in acted.detail
        assert is_alive(fine)

    def test_nobody_to_end_is_not_done(self) -> None:
        """Nothing was recycled."""
        assert recycler().act([]) == Acted(done=False, detail="no worker process was found")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
    def test_a_worker_of_another_user_is_said_and_not_raised(self) -> None:
        """The commonest mistake in setting up: the daemon may not signal the server."""
        child = subprocess.Popen(["sleep", "60"], user=1)
        try:
            life = wait_until(lambda: life_of(child.pid), "the child runs")
            os.seteuid(2)
            try:
                acted = recycler(allow_kill=True).act([life])
            finally:
                os.seteuid(0)
            assert acted == Acted(done=False, detail=f"pid {life.pid} could not be signalled: Operation not permitted")
            assert is_alive(life)
        finally:
            child.kill()
            child.wait(DEADLINE_S)

    @pytest.mark.parametrize(
        ("allow_kill", "then"), [(True, "KILL if it is still there"), (False, "give up if it is still there")]
    )
    def test_the_plan_says_what_act_would_do(self, allow_kill: bool, then: str) -> None:
        """One line a worker, for `--dry-run`."""
        lives = [Life(pid=7, start_ticks=1), Life(pid=8, start_ticks=1)]
        plan = recycler(grace_s=30, allow_kill=allow_kill).plan(lives)
        assert plan == [f"TERM pid {pid}, wait up to 30 s, {then}" for pid in (7, 8)]


LIVES = [Life(pid=7, start_ticks=1), Life(pid=8, start_ticks=2)]


def command(*argv: str, timeout_s: float = DEADLINE_S) -> CommandRecycler:
    return CommandRecycler(target="chat", argv=argv, timeout_s=timeout_s)


def python(code: str, *, timeout_s: float = DEADLINE_S) -> CommandRecycler:
    return command(sys.executable, "-c", code, timeout_s=timeout_s)


class TestCommand:
    def test_exit_status_zero_is_done(self) -> None:
        """And nothing else is."""
        assert python("pass").act(LIVES) == Acted(done=True, detail=f"{sys.executable} exited 0")

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("import sys; print('starting'); sys.exit(3)", "exited 3: starting"),
            ("import sys; sys.exit('unit not found')", "exited 1: unit not found"),
            ("import os; os._exit(3)", "exited 3: no output"),
            ("import os; print('x' * 5000 + 'the end', flush=True); os._exit(3)", "exited 3: " + "x" * 392 + "the end"),
            ("import os; os.write(1, b'caf\\xe9'); os._exit(3)", "exited 3: caf\N{REPLACEMENT CHARACTER}"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exited -9: no output"),
        ],
        ids=["stdout", "stderr", "silent", "long", "not UTF-8", "killed"],
    )
    def test_another_exit_status_comes_with_the_end_of_the_output(self, code: str, said: str) -> None:
        """A person reads it in the message."""
        assert python(code).act(LIVES) == Acted(done=False, detail=f"{sys.executable} {said}")

    @pytest.mark.parametrize(
        ("program", "why"), [("/no/such/program", "No such file or directory"), ("/", "Permission denied")]
    )
    def test_a_program_that_cannot_be_started_is_said(self, program: str, why: str) -> None:
        """An expected failure is an answer."""
        assert command(program).act(LIVES) == Acted(done=False, detail=f"{program} could not be started: {why}")

    def test_a_time_out_ends_the_whole_group(self, tmp_path: Path) -> None:
        """The command, and what it started; that it was done is not known."""
        pids = tmp_path / "pids"
        script = f'sleep 60 & echo "$$ $!" > "{pids}"; wait'
        acted = command("/bin/sh", "-c", script, timeout_s=1).act(LIVES)
        assert acted == Acted(done=False, detail="/bin/sh did not end within 1 s")
        started = [int(pid) for pid in pids.read_text().split()]
        assert len(started) == 2
        wait_until(lambda: [life_of(pid) for pid in started] == [None, None], "both are gone")

    def test_a_hung_command_ends_although_its_daemon_was_killed(self, tmp_path: Path) -> None:
        """A real process acts and is killed; a while after the time-out the whole group is gone all the same."""
        if shutil.which("timeout") is None:
            leave_out("timeout(1) is not installed")
        pids = tmp_path / "pids"
        script = f'sleep 60 & echo "$$ $!" > "{pids}"; wait'
        acting = f"""
from alerts.recyclers.command import CommandRecycler
CommandRecycler(target="chat", argv=["/bin/sh", "-c", {script!r}], timeout_s=0.5).act([])
"""
        daemon = subprocess.Popen([sys.executable, "-c", acting], cwd=Path(__file__).parents[2])
        started = wait_until(lambda: pids.exists() and pids.read_text().split(), "the command runs")
        daemon.kill()
        daemon.wait(DEADLINE_S)
        assert all(life_of(int(pid)) for pid in started)
        wait_until(lambda: [life_of(int(pid)) for pid in started] == [None, None], "both are gone")

    def test_a_child_in_the_background_does_not_hold_it_up(self, tmp_path: Path) -> None:
        """A restart script may leave the server running with our output open: that it ended is what counts."""
        pid = tmp_path / "pid"
        script = f'sleep 60 & echo $! > "{pid}"; echo started'
        acted = command("/bin/sh", "-c", script).act(LIVES)  # not done, were its output waited for
        try:
            assert acted.done
            server = life_of(int(pid.read_text()))
            assert server is not None
        finally:
            os.kill(int(pid.read_text()), signal.SIGKILL)

    def test_the_command_is_told_what_it_is_about(self, tmp_path: Path) -> None:
        """The target and the pids in its environment, the rest of ours as it is; nothing on its input."""
        code = """
import os, sys
sys.exit(" ".join([os.environ["WATCHDOG_TARGET"], repr(os.environ["WATCHDOG_PIDS"]), repr(sys.stdin.read()),
    str("PATH" in os.environ)]))
"""
        assert python(code).act(LIVES).detail.endswith("exited 1: chat '7 8' '' True")
        assert python(code).act([]).detail.endswith("exited 1: chat '' '' True")

    def test_no_shell_is_between(self, tmp_path: Path) -> None:
        """An argument is an argument, whatever it holds."""
        acted = command("/bin/ls", f"{tmp_path}; touch {tmp_path}/hacked", "$HOME").act(LIVES)
        assert not acted.done
        assert "exited 2" in acted.detail
        assert list(tmp_path.iterdir()) == []

    def test_the_plan_names_the_command_the_pids_and_the_time_out(self) -> None:
        """For `--dry-run`."""
        plan = command("systemctl", "restart", "chat", timeout_s=300).plan(LIVES)
        assert plan == ["run ['systemctl', 'restart', 'chat'] with WATCHDOG_PIDS='7 8', at most 300 s"]
