"""The agent under the servers that people run: each worker is asked, counts its requests, and is named in answers."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from agent_stage import ROOT, answer_of, children_of, client, folder, life, started, wait_for
from builders import leave_out
from ports import free_port

from probes.canary.provenance import read_life
from probes.messages import Life
from probes.reading import AgentFault

__all__ = ["folder"]
pytestmark = pytest.mark.slow

ASGI = """
import os
from watchdog_agent.attach import attach
from watchdog_agent.middleware import WatchdogASGI

attach(folder=os.environ["FOLDER"], version="0.24")

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

app = WatchdogASGI(application)
"""

WSGI = """
import os
from watchdog_agent.attach import attach
from watchdog_agent.middleware import WatchdogWSGI

attach(folder=os.environ["FOLDER"], version="0.24")

def answer(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield str(os.getpid()).encode()

app = application = WatchdogWSGI(answer)
"""

STUCK = """
import fcntl

def stuck(environ, start_response):
    with open(os.environ["FOLDER"] + "/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # holds up the thread that it runs on, and with it all greenlets
    return answer(environ, start_response)

app = application = WatchdogWSGI(stuck)
"""

TASKS = """
import os
from celery import Celery
from watchdog_agent.attach import attach
from watchdog_agent.middleware import watching

app = Celery("tasks", broker="filesystem://", backend="file://" + os.environ["FOLDER"] + "/results")
app.conf.broker_transport_options = {
    "data_folder_in": os.environ["FOLDER"] + "/queue", "data_folder_out": os.environ["FOLDER"] + "/queue",
    "control_folder": os.environ["FOLDER"] + "/control",
}
attach(folder=os.environ["FOLDER"])

@app.task
def predict():
    with watching():
        return os.getpid()
"""


@contextmanager
def serving(folder: Path, code: str, command: list[str]) -> Iterator[tuple[int, str]]:
    """A server of that code on a free port, once it answers: its pid and URL. PORT in the command is the port."""
    (folder / "served.py").write_text(code)
    port = free_port()
    log = folder / "server.log"
    wrapped = [part.replace("PORT", str(port)) for part in command]
    env = {"FOLDER": str(folder / "agents"), "PYTHONPATH": f"{ROOT}:{folder}"}
    shell = ["sh", "-c", 'exec "$0" "$@" > "$LOG" 2>&1', *wrapped]
    with started(shell, env=env | {"LOG": str(log)}, cwd=folder) as process:
        url = f"http://127.0.0.1:{port}/"

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return httpx.get(url, timeout=5, trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(answers, "the server answers")
        yield process.pid, url


def ask(url: str) -> tuple[int, str]:
    """The pid that answers, and the life that the header names."""
    with httpx.Client(headers={"X-Watchdog-Canary": "x"}, trust_env=False, timeout=10) as fresh:
        answer = fresh.get(url)
    return int(answer.text), read_life(answer.headers) or ""


def check_workers(folder: Path, url: str, workers: list[int]) -> None:
    """Each has a door of its own, counts its own requests, and is named in its own answers."""
    lives = {pid: life(pid) for pid in workers}
    for worker in lives.values():
        answer_of(folder, worker)
    before = _requests(folder, list(lives.values()))
    answered = dict.fromkeys(workers, 0)
    for _ in range(20):
        pid, named = ask(url)
        assert named == lives[pid].key
        answered[pid] += 1
    after = _requests(folder, list(lives.values()))
    assert {pid: after[worker] - before[worker] for pid, worker in lives.items()} == answered
    for reading in client(folder).ask(list(lives.values())).values():
        assert reading.report is not None
        assert (reading.report.in_flight, reading.report.version) == (0, "0.24")


def _requests(folder: Path, workers: list[Life]) -> dict[Life, int]:
    found = {}
    for worker, reading in client(folder).ask(workers).items():
        assert reading.report is not None, reading
        assert reading.report.requests is not None
        found[worker] = reading.report.requests
    return found


def workers_of(pid: int, count: int) -> list[int]:
    """The master's workers; Python's own helpers are none."""

    def look() -> list[int] | None:
        found = [c for c in children_of(pid) if b"multiprocessing.resource_tracker" not in _words(c)]
        return found if len(found) == count else None

    return wait_for(look, f"{count} workers")


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn(folder: Path, workers: int) -> None:
    """A single process, and a master with two that it spawned."""
    command = [sys.executable, "-m", "uvicorn", "served:app", "--port", "PORT", "--workers", str(workers)]
    with serving(folder, ASGI, command) as (pid, url):
        check_workers(folder / "agents", url, [pid] if workers == 1 else workers_of(pid, workers))


@pytest.mark.parametrize("preload", [False, True], ids=["fork", "preload"])
def test_gunicorn(folder: Path, preload: bool) -> None:
    """attach() in each worker, and once in the master before it forks; a worker that is replaced has an agent too."""
    command = [sys.executable, "-m", "gunicorn", "served:app", "--bind", "127.0.0.1:PORT", "--workers", "2"]
    with serving(folder, WSGI, command + ["--preload"] * preload) as (pid, url):
        agents = folder / "agents"
        workers = workers_of(pid, 2)
        check_workers(agents, url, workers)
        gone = life(workers[0])
        os.kill(gone.pid, 15)
        new = wait_for(lambda: set(children_of(pid)) - set(workers), "a new worker")
        check_workers(agents, url, [*new, workers[1]])
        assert client(agents).ask([gone])[gone].fault is AgentFault.ABSENT


@pytest.mark.parametrize("preload", [False, True], ids=["fork", "preload"])
def test_gunicorn_with_gevent(folder: Path, preload: bool) -> None:
    """The agent has a thread of its own among greenlets: it answers while they stand still, and blocks no signal."""
    if importlib.util.find_spec("gevent") is None:
        leave_out("gevent is not installed")
    agents = folder / "agents"
    agents.mkdir()
    (agents / "lock").touch()
    command = [sys.executable, "-m", "gunicorn", "served:app", "--bind", "127.0.0.1:PORT", "--worker-class", "gevent"]
    with serving(folder, WSGI + STUCK, command + ["--preload"] * preload) as (pid, url):
        (worker,) = workers_of(pid, 1)
        check_workers(agents, url, [worker])
        assert _blocked(worker) == _blocked(pid)
        caller = threading.Thread(target=ask, args=(url,))
        with (agents / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            caller.start()
            wait_for(lambda: _in_flight(agents, life(worker)) == 1, "an answer while a request holds the worker up")
        caller.join()
        os.kill(worker, signal.SIGTERM)
        wait_for(lambda: worker not in children_of(pid), "the worker has ended")


def _blocked(pid: int) -> str:
    """The signals that its main thread does not take."""
    return Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]


def _in_flight(folder: Path, worker: Life) -> int | None:
    report = client(folder).ask([worker])[worker].report
    return None if report is None else report.in_flight


@pytest.mark.parametrize("lazy", [False, True], ids=["fork", "lazy_apps"])
def test_uwsgi(folder: Path, lazy: bool) -> None:
    """A server that forks without Python's knowledge; it needs enable-threads, as every Python thread there does."""
    program = shutil.which("uwsgi")
    if program is None:
        leave_out("uwsgi is not installed")
    command = [program, "--plugin", "python3", "--http-socket", "127.0.0.1:PORT", "--master", "--processes", "2"]
    command += ["--enable-threads", "--wsgi-file", str(folder / "served.py"), "--die-on-term", "--need-app"]
    with serving(folder, WSGI, command + ["--lazy-apps"] * lazy) as (pid, url):
        check_workers(folder / "agents", url, workers_of(pid, 2))


def test_celery_prefork(folder: Path) -> None:
    """The pool's children answer for themselves and count their tasks."""
    for name in ("agents", "agents/queue", "agents/control", "agents/results"):
        (folder / name).mkdir()
    (folder / "served.py").write_text(TASKS)
    env = {"FOLDER": str(folder / "agents"), "PYTHONPATH": f"{ROOT}:{folder}"}
    command = [sys.executable, "-m", "celery", "-A", "served", "worker", "--pool", "prefork", "--concurrency", "2"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with started(["sh", "-c", 'exec "$0" "$@" > log 2>&1', *command], env=env, cwd=folder) as process:
        lives = [life(pid) for pid in workers_of(process.pid, 2)]
        for worker in lives:
            answer_of(folder / "agents", worker)
        submit = "import served, json; print(json.dumps([served.predict.delay().get(timeout=30) for _ in range(6)]))"
        with started([sys.executable, "-c", submit], env=env, cwd=folder) as caller:
            assert caller.stdout is not None
            pids = json.loads(caller.stdout.read().splitlines()[-1])
        asking = client(folder / "agents")
        deadline = time.monotonic() + 10
        while True:
            counts = {w.pid: r.report.requests if r.report else None for w, r in asking.ask(lives).items()}
            wanted = {w.pid: pids.count(w.pid) or None for w in lives}
            if counts == wanted or time.monotonic() > deadline:
                break
        assert counts == wanted
