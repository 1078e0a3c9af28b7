"""The agent in real processes: where it listens, forks, a host that behaves oddly, and that it never disturbs."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from agent_stage import ROOT, TOKEN, answer_of, children_of, client, folder, life, script, started, wait_for

from probes.agent import AgentClient, AgentSpec
from probes.reading import AgentFault

__all__ = ["folder"]

ATTACH = "import os, sys, time\nfrom watchdog_agent.attach import attach\n"
LISTENS = (  # in a child script: until its agent can be asked, and not for ever
    "deadline = time.monotonic() + 20\n"
    "while agent.address is None:\n"
    "    assert time.monotonic() < deadline, agent.problem\n"
    "    time.sleep(0.01)\n"
)
REST = "print('ready', flush=True)\nsys.stdin.read()\n"


def test_a_plain_script_is_asked(folder: Path) -> None:
    """Life, versions and memory of that very process; nothing counts requests and no torch is loaded: None."""
    with script(ATTACH + "attach(folder=sys.argv[1], version='0.24', load_s=1.5)\n" + REST, str(folder)) as process:
        worker = life(process.pid)
        report = answer_of(folder, worker).report
        assert report is not None
        assert (report.life, report.version, report.model_load_s) == (worker.key, "0.24", 1.5)
        assert report.versions == {"python": ".".join(map(str, sys.version_info[:3]))}
        assert (report.requests, report.in_flight, report.shapes, report.recompiles) == (None, None, None, None)
        assert (report.allocated_bytes, report.reserved_bytes) == (None, None)
        status = Path(f"/proc/{process.pid}/status").read_text()
        anon = int(status.partition("RssAnon:")[2].split()[0]) * 1024
        assert report.host_anon_bytes == pytest.approx(anon, rel=0.2)


def test_the_socket_is_for_its_user_alone(folder: Path) -> None:
    """Mode 0600 whatever the umask; the umask of the host is as it was."""
    code = ATTACH + "os.umask(0)\nattach(folder=sys.argv[1])\n" + REST
    with script(code, str(folder / "made")) as process:
        answer_of(folder / "made", life(process.pid))
        (socket,) = (folder / "made").iterdir()
        assert socket.name == f"{life(process.pid).key}.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "made").stat().st_mode) == 0o700
        umask = Path(f"/proc/{process.pid}/status").read_text().partition("Umask:")[2].split()[0]
        assert int(umask, 8) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="another user can only be had by root")
def test_another_user_is_turned_away(folder: Path) -> None:
    """Even one that can reach the socket: the kernel says who calls."""
    ask = (
        "import os, sys, time\nfrom probes.agent import AgentClient, AgentSpec\nfrom probes.process import life_of\n"
        "from pathlib import Path\nos.setuid(65534)\n"
        "client = AgentClient(AgentSpec(folder=Path(sys.argv[1])), monotonic=time.monotonic)\n"
        "worker = life_of(int(sys.argv[2]))\nprint(client.ask([worker])[worker].fault)\n"
    )
    serve = ATTACH + "os.setuid(1)\nattach(folder=sys.argv[1])\n" + REST
    folder.chmod(0o777)
    with script(serve, str(folder)) as process:
        report = answer_of(folder, life(process.pid)).report  # root may
        assert report is not None
        (path,) = folder.iterdir()
        path.chmod(0o777)
        asked = [sys.executable, "-c", ask, str(folder), str(process.pid)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False, env=env)
        assert done.stdout == "forbidden\n", done.stderr


def test_a_killed_host_leaves_a_socket_that_the_next_one_removes(folder: Path) -> None:
    """Only that: the socket of one that lives, a plain file, and names of others stay."""
    code = ATTACH + "attach(folder=sys.argv[1])\n" + REST
    for name in ("notes.txt", "1@1.txt"):
        (folder / name).write_text("not a socket")
    (folder / "999999@5.sock").write_text("no socket either")
    with script(code, str(folder)) as first, script(code, str(folder)) as second:
        killed, alive = life(first.pid), life(second.pid)
        answer_of(folder, killed)
        answer_of(folder, alive)
        first.kill()
        first.wait()
        assert (folder / f"{killed.key}.sock").exists()
        with script(code, str(folder)) as third:
            answer_of(folder, life(third.pid))
            assert not (folder / f"{killed.key}.sock").exists()
            answer_of(folder, alive)
            ours = {f"{life(p.pid).key}.sock" for p in (second, third)}
            assert {path.name for path in folder.iterdir()} - ours == {"notes.txt", "1@1.txt", "999999@5.sock"}


def test_nothing_is_left_after_a_normal_end(folder: Path) -> None:
    """The name goes with the process."""
    with script(ATTACH + "attach(folder=sys.argv[1])\n" + REST, str(folder)) as process:
        answer_of(folder, life(process.pid))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
    assert list(folder.iterdir()) == []


def test_a_second_call_only_adds(folder: Path) -> None:
    """One socket, one thread, whatever modules call it, from several threads too."""
    code = (
        ATTACH + "import threading\n"
        "calls = [threading.Thread(target=attach, kwargs={'folder': sys.argv[1]}) for _ in range(8)]\n"
        "[t.start() for t in calls]; [t.join() for t in calls]\n"
        "first = attach(version='1')\nassert attach(load_s=2.0) is first\n" + REST
    )
    with script(code, str(folder)) as process:
        report = answer_of(folder, life(process.pid)).report
        assert report is not None
        assert (report.version, report.model_load_s) == ("1", 2.0)
        assert len(list(folder.iterdir())) == 1
        assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 2


@pytest.mark.parametrize("python", ["3.9", "3.12", "3.13"])
def test_other_pythons(folder: Path, python: str) -> None:
    """The oldest that is promised, and newer ones. 3.12 warns of forks with threads, but ours is gone by then.

    3.13 looks after it has come back, so that nothing can be done about its warning.
    """
    beside = sorted(Path(sys.base_prefix).parent.glob(f"{python}*/bin/python"))  # as pyenv keeps them
    found = str(beside[0]) if beside else shutil.which(f"python{python}")
    if found is None:
        pytest.skip(f"no Python {python} here")
    code = (
        ATTACH + "import warnings\n"
        "if sys.version_info >= (3, 13): warnings.simplefilter('ignore', DeprecationWarning)\n"
        "agent = attach(folder=sys.argv[1])\n" + LISTENS + "pid = os.fork()\n"
        "if pid == 0:\n    sys.stdin.read()\n    os._exit(0)\n" + REST
    )
    with script(code, str(folder), python=found) as process:
        answer_of(folder, life(process.pid))
        (child,) = children_of(process.pid)
        report = answer_of(folder, life(child)).report
        assert report is not None
        assert report.versions["python"].startswith(python)


def test_a_child_gets_a_door_of_its_own_and_counts_anew(folder: Path) -> None:
    """And the parent keeps its own, through as many forks as there are."""
    code = (
        ATTACH + "from watchdog_agent.middleware import watching\n"
        "attach(folder=sys.argv[1])\n"
        "with watching():\n    pass\n"
        "for _ in range(3):\n"
        "    with watching():\n"
        "        if os.fork() == 0:\n            sys.stdin.read()\n            os._exit(0)\n" + REST
    )
    with script(code, str(folder)) as process:
        parent = answer_of(folder, life(process.pid)).report
        assert parent is not None
        assert (parent.requests, parent.in_flight) == (4, 0)
        children = wait_for(lambda: c if len(c := children_of(process.pid)) == 3 else None, "three children")
        for child in children:
            report = answer_of(folder, life(child)).report
            assert report is not None
            assert (report.requests, report.in_flight) == (0, 0)
        assert len(list(folder.iterdir())) == 4


def test_a_fork_while_it_answers_hangs_nobody(folder: Path) -> None:
    """Children forked while questions are answered never get stuck on a lock that nobody holds any more."""
    code = (
        ATTACH + "from watchdog_agent.middleware import watching\n"
        "attach(folder=sys.argv[1])\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "for _ in range(60):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        with watching(): attach()\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "print('done', flush=True)\nsys.stdin.read()\n"
    )
    with script(code, str(folder)) as process:
        worker, asking = life(process.pid), client(folder)
        answer_of(folder, worker)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        answers = 0

        def look() -> bool:
            nonlocal answers
            answers += asking.ask([worker])[worker].report is not None
            return "done" in (process.stdout.readline() if process.stdout else "")

        wait_for(look, "sixty forks")
        assert answers > 0


def test_a_host_that_closes_descriptors_keeps_its_own(folder: Path) -> None:
    """What was opened under the same numbers since is not touched, and the agent comes back (a minute at most)."""
    code = (
        ATTACH + "import watchdog_agent.attach as a\na.LOOK_S = 0.2\n"
        "agent = attach(folder=sys.argv[1])\n" + LISTENS + "os.closerange(3, 64)\n"
        "held = [os.open('/etc/hostname' if i % 2 else '/dev/null', os.O_RDONLY) for i in range(20)]\n"
        "before = [os.fstat(fd) for fd in held]\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "assert [os.fstat(fd) for fd in held] == before\nprint('kept', flush=True)\nsys.stdin.read()\n"
    )
    with script(code, str(folder)) as process:
        old = {entry.inode() for entry in os.scandir(folder)}
        wait_for(lambda: {entry.inode() for entry in os.scandir(folder)} - old, "a new socket")
        answer_of(folder, life(process.pid))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "kept\n"


def test_a_socket_that_was_removed_is_opened_again(folder: Path) -> None:
    """Whoever tidies up temporary folders does not silence it for good."""
    code = ATTACH + "import watchdog_agent.attach as a\na.LOOK_S = 0.2\nattach(folder=sys.argv[1])\n" + REST
    with script(code, str(folder)) as process:
        answer_of(folder, life(process.pid))
        next(folder.iterdir()).unlink()
        answer_of(folder, life(process.pid))


def test_a_fork_wakes_an_agent_whose_socket_was_removed(folder: Path) -> None:
    """Nobody can call it any more, the fork neither: its thread still ends, and the next one opens a new socket."""
    code = (
        ATTACH + "agent = attach(folder=sys.argv[1])\n" + LISTENS + "os.unlink(agent.address)\n"
        "for _ in range(3):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "assert len(os.listdir('/proc/self/task')) == 2\n" + REST
    )
    with script(code, str(folder)) as process:
        answer_of(folder, life(process.pid))


def test_a_child_forked_in_the_middle_of_an_answer_holds_nobody_up(folder: Path) -> None:
    """It has the connection too, and lives on: whoever asked sees the end of the answer all the same."""
    code = (
        ATTACH + "import gc, threading\ncollects, forked = threading.Event(), threading.Event()\n"
        "class Slow:\n"
        "    def __del__(self): collects.set(); forked.wait(20)\n"
        "attach(folder=sys.argv[1])\ngc.disable()\n"
        "slow = Slow(); slow.itself = slow; del slow\nprint('ready', flush=True)\n"
        "assert collects.wait(20)\n"
        "if os.fork() == 0:\n    sys.stdin.read()\n    os._exit(0)\n"
        "forked.set()\nsys.stdin.read()\n"
    )
    with script(code, str(folder)) as process:
        answer_of(folder, life(process.pid))
        assert client(folder).trim(life(process.pid)).trimmed is not None


def test_nothing_is_left_by_a_child_that_ends_before_it_listens(folder: Path) -> None:
    """However long the end takes: no door is opened once it has begun."""
    code = (
        ATTACH + "import atexit\n"
        "def linger():\n"
        "    deadline = time.monotonic() + 20\n"
        "    while agent.address is None and agent._thread.is_alive() and time.monotonic() < deadline:\n"
        "        time.sleep(0.01)\n"
        "atexit.register(linger)\n"
        "agent = attach(folder=sys.argv[1])\n" + LISTENS + "if os.fork() == 0: sys.exit()\nassert os.wait()[1] == 0\n"
    )
    with started(["python", "-c", code, str(folder)]) as process:
        assert process.wait(60) == 0
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only a user of its own has as few processes as the limit allows")
def test_a_thread_that_could_not_be_started_is_tried_again() -> None:
    """By the next call. Until then `problem` says so, also where the log cannot."""
    code = (
        ATTACH + "import logging, resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]\n"
        "os.setuid(54321)\nresource.setrlimit(resource.RLIMIT_NPROC, (1, hard))\n"
        "agent = attach(folder=sys.argv[1])\nassert 'thread' in agent.problem\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))\n"
        "assert attach() is agent\n" + LISTENS + "assert agent.problem is None\n" + REST
    )
    with tempfile.TemporaryDirectory(prefix="agent-") as path:
        Path(path).chmod(0o777)
        with started(["python", "-c", code, path]) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith("the watchdog cannot ask this process")
            assert process.stdout.readline() == "ready\n"


def test_a_host_that_changes_its_folder(folder: Path) -> None:
    """A relative path means what it meant at the call."""
    code = ATTACH + "os.chdir(sys.argv[1])\nattach(folder='here')\nos.chdir('/')\n" + REST
    with script(code, str(folder)) as process:
        answer_of(folder / "here", life(process.pid))


def test_a_working_directory_that_is_gone_is_no_problem(folder: Path, tmp_path: Path) -> None:
    """A deploy that swaps folders leaves the old server in a removed one."""
    gone = tmp_path / "gone"
    gone.mkdir()
    code = ATTACH + "os.chdir(sys.argv[2])\nos.rmdir(sys.argv[2])\nattach(folder=sys.argv[1])\n" + REST
    with script(code, str(folder), str(gone)) as process:
        answer_of(folder, life(process.pid))


@pytest.mark.parametrize(
    "arguments",
    [
        "folder='/proc/nowhere/at/all'",
        "folder='/dev/null'",
        "folder='/tmp/' + 'x' * 200",
        "folder='\\0'",
        "folder=7",
        "port=5",
        "port=1, token='short'",
        "port=-1, token='long enough, I think'",
        "token='long enough, I think'",
        "model=object()",
        "version=object(), load_s='much'",
        "version='1', load_s=float('nan')",
    ],
)
def test_whatever_is_wrong_is_never_the_hosts_problem(arguments: str) -> None:
    """No exception, no delay: it is said once in the log and stands in `problem`; the host goes on."""
    code = (
        ATTACH + f"began = time.monotonic()\nagent = attach({arguments})\nassert time.monotonic() - began < 0.5\n"
        "deadline = time.monotonic() + 5\n"
        "while not (agent.problem or agent.address) and time.monotonic() < deadline: time.sleep(0.01)\n"
        "print(agent.problem or agent.address)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, "XDG_RUNTIME_DIR": "/tmp"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stdout.strip()
    if "model" in arguments or "version" in arguments:
        assert said.startswith("/tmp/inference-watchdog")
        assert done.stderr.count("attach() cannot use this") == 1
    else:
        assert "Error" in said
        assert done.stderr.count("the watchdog cannot ask this process") == 1


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("", id="an application of that name"),
        pytest.param("worker_id = lambda: 0\n", id="one with a function of that name"),
        pytest.param("import sys, types\nsys.modules['uwsgi'] = types.ModuleType('uwsgi')\n", id="a stub"),
        pytest.param("import sys\nsys.modules['uwsgi'] = None\n", id="blocked"),
        pytest.param(
            "import sys, types\nclass Broken(types.ModuleType):\n"
            "    def worker_id(self): raise RuntimeError('not now')\nsys.modules['uwsgi'] = Broken('uwsgi')\n",
            id="one that raises",
        ),
    ],
)
def test_a_module_called_uwsgi_is_not_always_uwsgi(folder: Path, tmp_path: Path, module: str) -> None:
    """`gunicorn uwsgi:app` is common: attach() raises nothing, and the process is asked as any other."""
    (tmp_path / "uwsgi.py").write_text(module)
    code = (
        ATTACH + "import contextlib\nsys.path.insert(0, sys.argv[2])\n"
        "with contextlib.suppress(ImportError): import uwsgi\n"
        "assert 'uwsgi' in sys.modules\nattach(folder=sys.argv[1])\nattach(version='2')\n" + REST
    )
    with script(code, str(folder), str(tmp_path)) as process:
        report = answer_of(folder, life(process.pid)).report
        assert report is not None
        assert report.version == "2"


def test_a_port_with_a_token(folder: Path) -> None:
    """Each process takes a port of its own; a wrong token learns nothing. A file's last line end is none of it."""
    code = ATTACH + f"attach(port=int(sys.argv[1]), token={TOKEN + chr(10)!r}, version='v')\n" + REST
    port = 20_000 + os.getpid() % 10_000
    with script(code, str(port)) as first, script(code, str(port)) as second:
        workers = [life(first.pid), life(second.pid)]

        def ask(token: str) -> list[object]:
            asking = AgentClient(AgentSpec(port=port, token=token), monotonic=time.monotonic)
            return [r.report.life if r.report else r.fault for r in asking.ask(workers).values()]

        wanted = [worker.key for worker in workers]
        wait_for(lambda: ask(TOKEN) == wanted, "both answer")
        assert ask("another token!!!") == [AgentFault.FORBIDDEN, AgentFault.FORBIDDEN]
        asking = AgentClient(AgentSpec(port=port, token=TOKEN), monotonic=time.monotonic)
        trimmed = asking.trim(workers[1]).trimmed
        assert trimmed is not None
        assert trimmed.life == workers[1].key


def test_signals_are_the_hosts(folder: Path) -> None:
    """Its handlers run in its main thread, at once, while the agent waits."""
    code = (
        ATTACH + "import signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))\n"
        "attach(folder=sys.argv[1])\nprint('ready', flush=True)\nwhile True: signal.pause()\n"
    )
    with script(code, str(folder)) as process:
        answer_of(folder, life(process.pid))
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None
        assert process.stdout.readline() == "handled\n"


def test_signals_of_the_main_thread_are_never_blocked() -> None:
    """Not even where somebody has our thread's work done there; where it is our own they are."""
    code = (
        ATTACH + "import signal\nfrom watchdog_agent.attach import Agent\nfrom watchdog_agent.native import Thread\n"
        "blocked, agent = [], Agent(lambda: None)\nagent._stop.set()\n"
        "def run():\n"
        "    agent._run(agent._stop, 0.0)\n"
        "    blocked.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "run()\nThread(run).await_end(20)\nprint(blocked)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    assert done.stdout == "[False, True]\n"


def test_it_loads_no_torch_and_sleeps(folder: Path) -> None:
    """Without questions it uses no CPU that can be measured."""
    code = ATTACH + "attach(folder=sys.argv[1])\nassert 'torch' not in sys.modules\n" + REST
    with script(code, str(folder)) as process:
        answer_of(folder, life(process.pid))
        (own,) = [t for t in Path(f"/proc/{process.pid}/task").iterdir() if t.name != str(process.pid)]

        def after(seconds: float) -> tuple[str, str]:
            before = _switches(own)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(seconds)
            return before, _switches(own)

        wait_for(lambda: len(set(after(0.3))) == 1, "the last answer is over")
        assert len(set(after(1.5))) == 1


def _switches(thread: Path) -> str:
    return (thread / "status").read_text().partition("voluntary_ctxt_switches:")[2].split()[0]


def test_where_it_listens_by_default(folder: Path) -> None:
    """$WATCHDOG_AGENT_DIR, else the user's runtime folder, else one in /tmp that only this user may enter."""
    code = ATTACH + "agent = attach()\n" + LISTENS + "print(agent.address, flush=True)\nsys.stdin.read()\n"
    for env, start in (
        ({"WATCHDOG_AGENT_DIR": str(folder / "a"), "XDG_RUNTIME_DIR": "/nowhere"}, folder / "a"),
        ({"XDG_RUNTIME_DIR": str(folder)}, folder / "inference-watchdog"),
        ({}, Path(f"/tmp/inference-watchdog-{os.getuid()}")),
    ):
        with started(["python", "-c", code], env=env) as process:
            assert process.stdout is not None
            assert Path(process.stdout.readline().strip()).parent == start
