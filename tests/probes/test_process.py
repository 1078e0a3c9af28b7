from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from builders import leave_out
from ports import free_port

from probes.canary.burst import CanaryPlan
from probes.canary.http import HttpCanary
from probes.expectation import Expectation
from probes.host import Host
from probes.messages import Life, Outcome
from probes.process import (
    ProcessSpec,
    WorkerWatch,
    cpu_seconds,
    generation_of,
    is_alive,
    life_of,
    peer_life,
)

CHILD = Path(__file__).with_name("serving_child.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    pid: int
    port: int

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return bytes(answer.read())


@contextmanager
def serving(shape: str, count: int = 0) -> Iterator[Served]:
    process = subprocess.Popen([sys.executable, str(CHILD), shape, str(count)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Served(pid=process.pid, port=int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def wait_for(condition: Callable[[], bool], *, deadline_s: float = 20.0) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.01)


def children_of(pid: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        life = life_of(int(entry.name)) if entry.name.isdecimal() else None
        with suppress(OSError):  # it may end meanwhile
            if life is not None and f"PPid:\t{pid}\n" in (entry / "status").read_text():
                found.add(life.pid)
    return found


def find(**spec: Any) -> set[int]:
    return {life.pid for life in WorkerWatch(ProcessSpec(**spec), target="toy").find().values()}


@pytest.mark.parametrize("given", [{}, {"port": 1, "parent_pid": 2}], ids=["none", "two"])
def test_a_spec_names_its_process_in_exactly_one_way(given: dict[str, int]) -> None:
    """Anything else would be guessed at."""
    with pytest.raises(ValueError, match="exactly one"):
        ProcessSpec(**given)


@pytest.mark.parametrize(("shape", "count"), [("master", 2), ("reuse", 2)])
def test_workers_behind_a_port_are_found(shape: str, count: int) -> None:
    """The master is none of them; workers that each opened the port for themselves all are."""
    with serving(shape, count) as served:
        workers = children_of(served.pid)
        assert len(workers) == count
        assert find(port=served.port) == workers


def test_a_master_named_by_pid_stands_for_its_workers(tmp_path: Path) -> None:
    """By pid file and by parent pid alike; `self` and `children` force it."""
    with serving("master", 2) as served:
        workers = children_of(served.pid)
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{served.pid}\n")
        assert find(pid_file=pid_file) == workers
        assert find(parent_pid=served.pid) == workers
        for named in ({"pid_file": pid_file}, {"parent_pid": served.pid}, {"port": served.port}):
            assert find(**named, workers="self") == {served.pid}
            assert find(**named, workers="children") == workers


def test_a_single_server_stands_for_itself_whatever_helpers_it_has(tmp_path: Path) -> None:
    """Python's resource tracker is a child of many a model server and serves nobody."""
    with serving("single") as served:
        wait_for(lambda: len(children_of(served.pid)) == 1)
        pid_file = tmp_path / "pid"
        pid_file.write_text(str(served.pid))
        assert find(port=served.port) == find(pid_file=pid_file) == find(parent_pid=served.pid) == {served.pid}
        assert find(pid_file=pid_file, workers="children") == set()


def test_without_sockets_a_parent_means_its_children_and_a_pid_file_its_process(tmp_path: Path) -> None:
    """A plain script is its own worker in both."""
    pid_file = tmp_path / "pid"
    with serving("parent", 2) as served:
        pid_file.write_text(str(served.pid))
        assert find(parent_pid=served.pid) == children_of(served.pid)
        assert find(pid_file=pid_file) == {served.pid}
        assert find(pid_file=pid_file, workers="children") == children_of(served.pid)
    with serving("plain") as served:
        pid_file.write_text(str(served.pid))
        assert find(parent_pid=served.pid) == find(pid_file=pid_file) == {served.pid}


@pytest.mark.parametrize("content", [None, "", "abc", "-1", "9" * 30, "999999999", "\x00\xff"])
def test_a_pid_file_that_says_nothing_finds_nothing(tmp_path: Path, content: str | None) -> None:
    """While a server starts or is down this is normal."""
    pid_file = tmp_path / "pid"
    if content is not None:
        pid_file.write_bytes(content.encode("latin-1"))
    watch = WorkerWatch(ProcessSpec(pid_file=pid_file), target="toy")
    assert watch.find() == {}
    assert watch.generation() is None
    assert watch.sample(now=1.0) == []


def test_a_port_nobody_listens_on_finds_nothing() -> None:
    """Neither does one that somebody is only connected to."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as ours:
        port = ours.getsockname()[1]
        assert find(port=port) == set()
        assert find(port=listening.getsockname()[1]) == {os.getpid()}


def test_a_new_life_takes_the_slot_of_the_one_that_ended() -> None:
    """Labels and memory windows hang on slots: the others must not move."""
    with serving("master", 3) as served:
        watch = WorkerWatch(ProcessSpec(port=served.port), target="toy")
        before = watch.find()
        generation = watch.generation()
        assert sorted(before) == [0, 1, 2]
        assert generation == generation_of(reversed(before.values()))
        os.kill(before[1].pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(before[1]))
        wait_for(lambda: len(watch.find()) == 3)
        after = watch.find()
        assert (after[0], after[2]) == (before[0], before[2])
        assert after[1] not in before.values()
        assert watch.generation() != generation


def test_known_workers_are_looked_for_only_when_one_ended(tmp_path: Path) -> None:
    """Else a read per worker is enough, whatever else runs on the machine; a new one shows with the next search."""
    with serving("master", 2) as served:
        pid_file = tmp_path / "toy.pid"
        pid_file.write_text(f"{served.pid}\n")
        watch = WorkerWatch(ProcessSpec(pid_file=pid_file), target="toy")
        first = watch.known()
        assert len(first) == 2
        pid_file.unlink()  # whoever looked for them now would find none
        assert watch.known() == first
        pid_file.write_text(f"{served.pid}\n")
        os.kill(first[1].pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(first[1]))
        wait_for(lambda: len(children_of(served.pid) - {first[1].pid}) == 2)
        assert watch.known()[0] == first[0]
        assert len(watch.known()) == 2
        assert watch.known()[1] != first[1]


def test_a_slot_stays_free_until_somebody_takes_it() -> None:
    """Fewer workers do not shift the rest down."""
    with serving("master", 2) as served:
        watch = WorkerWatch(ProcessSpec(port=served.port), target="toy")
        before = watch.find()
        os.kill(served.pid, signal.SIGSTOP)  # the master cannot replace it now
        try:
            os.kill(before[0].pid, signal.SIGKILL)
            wait_for(lambda: not is_alive(before[0]))
            assert watch.find() == {1: before[1]}
        finally:
            os.kill(served.pid, signal.SIGCONT)
        wait_for(lambda: sorted(watch.find()) == [0, 1])


def test_a_life_is_a_pid_with_its_start_time() -> None:
    """The same pid with another start time is another process."""
    mine = life_of(os.getpid())
    assert mine is not None
    assert is_alive(mine)
    assert not is_alive(Life(pid=mine.pid, start_ticks=mine.start_ticks - 1))
    assert life_of(4_000_000) is None


def test_a_zombie_is_not_alive() -> None:
    """It is dead and only waits for its parent to notice."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        life = life_of(process.pid)
        assert life is not None
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        wait_for(lambda: life_of(process.pid) is None)
        assert Path(f"/proc/{process.pid}").exists()
        assert not is_alive(life)


def test_a_process_name_cannot_forge_a_start_time() -> None:
    """A name may hold spaces and parentheses; the fields are counted from the last one."""
    script = "import sys; open('/proc/self/comm', 'w').write('x) Z 1 (y'); print(flush=True); input()"
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        before = life_of(process.pid)
        assert process.stdout is not None
        process.stdout.readline()
        assert before is not None
        assert life_of(process.pid) == before
        process.communicate(b"\n")


def test_memory_samples_follow_private_memory() -> None:
    """50 MB kept by the worker are 50 MB in its RssAnon; capacity and uptime are known."""
    with serving("single") as served:
        watch = WorkerWatch(ProcessSpec(port=served.port), target="toy")
        served.get("/")
        [before] = watch.sample(now=10.0)
        served.get("/grow")
        [after] = watch.sample(now=20.0)
        assert before.host_anon_bytes is not None
        assert after.host_anon_bytes is not None
        assert 45_000_000 < after.host_anon_bytes - before.host_anon_bytes < 80_000_000
        assert after.capacity_bytes is not None
        assert after.capacity_bytes > after.host_anon_bytes
        assert after.cgroup_bytes is None or after.cgroup_bytes > 50_000_000, "the worker's share is in it"
        assert (before.target, before.slot, before.at, after.at) == ("toy", 0, 10.0, 20.0)
        assert before.life == after.life == watch.find()[0].key
        assert before.uptime_s is not None
        assert after.uptime_s is not None
        assert 0 <= before.uptime_s <= after.uptime_s < 3600
        assert (after.gpu_used_bytes, after.device_used_bytes) == (None, None)
        assert before.load is None, "there is nothing to compare with"
        assert after.load is not None
        assert 0 <= after.load < 64, "CPU seconds a second"


def anon(watch: WorkerWatch) -> int:
    """What the only worker's sample says."""
    [sample] = watch.sample(now=25.0)
    return sample.host_anon_bytes or 0


def alone(life: Life) -> int:
    """RssAnon of the process itself, of which its agent tells."""
    status = Host().status(life.pid)
    return (status.anon_bytes or 0) - status.swapped_bytes


def test_what_a_worker_started_holds_memory_for_it() -> None:
    """An engine two forks below it: its memory and its CPU time are the worker's, till it ends."""
    with serving("single") as served:
        watch = WorkerWatch(ProcessSpec(port=served.port, workers="self"), target="toy")
        served.get("/")
        [before] = watch.sample(now=10.0)
        served.get("/start")
        [after] = watch.sample(now=20.0)
        assert before.host_anon_bytes is not None
        assert after.host_anon_bytes is not None
        grown = after.host_anon_bytes - before.host_anon_bytes
        assert 50_000_000 < grown < 80_000_000 + 2 * before.host_anon_bytes, "what is shared since a fork counts twice"
        assert (after.life, after.threads, after.fds) == (before.life, 1, (before.fds or 0) + 1)
        [life] = watch.find().values()
        # At the first look Python's own helper may still start, so what there was below the worker is not compared.
        wait_for(lambda: abs(anon(watch) - alone(life) - watch.helpers_bytes(life)) < 1_000_000)
        wait_for(lambda: (watch.sample(now=30.0)[0].load or 0.0) > 0.1)
        served.get("/stop")
        wait_for(lambda: (watch.sample(now=40.0)[0].host_anon_bytes or 0) < before.host_anon_bytes + 10_000_000)
        assert watch.helpers_bytes(life) < 50_000_000


def test_workers_are_no_part_of_each_other_and_their_master_none_of_them() -> None:
    """Each counts for itself; all of them for the master where that is the worker."""
    with serving("master", 2) as served:
        alone = [life_of(pid) for pid in (served.pid, *children_of(served.pid))]
        [whole] = WorkerWatch(ProcessSpec(port=served.port, workers="self"), target="toy").sample(now=1.0)
        each = WorkerWatch(ProcessSpec(port=served.port), target="toy").sample(now=1.0)
        parts = [Host().status(life.pid).anon_bytes or 0 for life in alone if life is not None]
        assert len(parts) == 3
        assert sum(s.host_anon_bytes or 0 for s in each) == pytest.approx(sum(parts[1:]), rel=0.05)
        assert whole.host_anon_bytes == pytest.approx(sum(parts), rel=0.05)


def test_a_helper_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """It has ended, or is another user's; a worker that cannot be read itself is unknown."""
    worker, engine, hidden = 4_100_001, 4_100_002, 4_100_003  # no machine has so many
    for pid, parent in ((worker, 1), (engine, worker), (hidden, engine)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {parent} {'0 ' * 17} 77 0 0\n")
    for pid, kb in ((worker, 2_000), (engine, 30_000)):
        (tmp_path / str(pid) / "status").write_text(f"RssAnon:\t{kb} kB\nThreads:\t3\n")
    watch = WorkerWatch(ProcessSpec(parent_pid=worker, workers="self"), target="toy", host=Host(proc=tmp_path))
    [sample] = watch.sample(now=1.0)
    assert (sample.host_anon_bytes, sample.threads) == (32_000 * 1024, 3)
    (tmp_path / str(worker) / "status").unlink()
    [sample] = watch.sample(now=2.0)
    assert sample.host_anon_bytes is None


def test_what_is_swapped_out_is_not_given_back_by_a_trim(tmp_path: Path) -> None:
    """The agent tells what is in RAM: the rest of the worker's, and what is below it, is added to that."""
    worker, engine = 4_100_001, 4_100_002  # no machine has so many
    for pid, parent in ((worker, 1), (engine, worker)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {parent} {'0 ' * 17} 77 0 0\n")
        (tmp_path / str(pid) / "status").write_text("RssAnon:\t2000 kB\nVmSwap:\t500 kB\nThreads:\t3\n")
    watch = WorkerWatch(ProcessSpec(parent_pid=worker, workers="self"), target="toy", host=Host(proc=tmp_path))
    [sample] = watch.sample(now=1.0)
    assert sample.host_anon_bytes == 5_000 * 1024
    [life] = watch.find().values()
    assert watch.helpers_bytes(life) == 3_000 * 1024


def test_descriptors_and_threads_are_counted() -> None:
    """Connections that are kept are descriptors of the worker's."""
    with serving("single") as served:
        watch = WorkerWatch(ProcessSpec(port=served.port), target="toy")
        [before] = watch.sample(now=10.0)
        with socket.create_connection(("127.0.0.1", served.port)) as ours:
            ours.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert ours.recv(4096)
            [after] = watch.sample(now=20.0)
        assert before.fds is not None
        assert after.fds == before.fds + 1
        assert after.fd_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert after.threads == 1


def test_the_holder_of_the_other_end_is_the_peer() -> None:
    """Of two workers, the one that accepted; nobody where it is not among the candidates."""
    with serving("master", 2) as served:
        lives = list(WorkerWatch(ProcessSpec(port=served.port), target="toy").find().values())
        with socket.create_connection(("127.0.0.1", served.port)) as ours:
            ours.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"}" not in answer:
                answer += ours.recv(4096)
            ends = ours.getsockname(), ours.getpeername()
            found = peer_life(*ends, lives)
            assert found is not None
            assert f'"pid": {found.pid}'.encode() in answer
            assert peer_life(*ends, [life for life in lives if life != found]) is None
            assert peer_life(ends[1], ends[0], lives) is None
        assert peer_life(("no-address", 1), ends[1], lives) is None


def test_an_ipv6_socket_is_found_by_the_ipv4_address_it_serves() -> None:
    """A server with an IPv6 socket sees 127.0.0.1 as ::ffff:127.0.0.1."""
    mine = life_of(os.getpid())
    assert mine is not None
    if not socket.has_dualstack_ipv6():
        pytest.skip("no dual-stack IPv6 on this machine")
    address = ("::ffff:127.0.0.1", 0)
    with (
        socket.create_server(address, family=socket.AF_INET6, dualstack_ipv6=True) as listening,
        socket.create_connection(("127.0.0.1", listening.getsockname()[1])) as ours,
    ):
        accepted, _ = listening.accept()
        with accepted:
            assert peer_life(ours.getsockname(), ours.getpeername(), [mine]) == mine


def test_a_connection_that_nobody_accepted_has_no_peer() -> None:
    """It waits in the kernel's queue and belongs to no process yet."""
    mine = life_of(os.getpid())
    assert mine is not None
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as ours,
    ):
        assert peer_life(ours.getsockname(), ours.getpeername(), [mine]) is None
        accepted, _ = listening.accept()
        with accepted:
            assert peer_life(ours.getsockname(), ours.getpeername(), [mine]) == mine


def test_cpu_time_is_that_of_the_process() -> None:
    """The interpreter's own clock of itself is the oracle; a process that is gone is left out."""
    mine = life_of(os.getpid())
    assert mine is not None
    low = time.process_time()
    found = cpu_seconds([mine, Life(pid=4_000_000, start_ticks=1)])
    assert list(found) == [mine]
    assert low <= found[mine] <= time.process_time()


def canary(served: Served, path: str) -> HttpCanary:
    return HttpCanary(
        target="toy",
        name="default",
        plan=CanaryPlan(interval_s=60.0, timeout_s=5.0, size=5, warmup=0, max_busy=1.0),
        expectation=Expectation(),
        method="GET",
        url=f"http://127.0.0.1:{served.port}{path}",
        headers={},
        body=None,
        content_type=None,
        control_url=None,
        workers=WorkerWatch(ProcessSpec(port=served.port), target="toy"),
        now=time.time,
        monotonic=time.monotonic,
    )


def test_bursts_visit_the_workers_and_know_which_one_answered() -> None:
    """No agent, no header: the life is that of the process at the other end, for the whole burst."""
    with serving("master", 2) as served:
        watch = WorkerWatch(ProcessSpec(port=served.port), target="toy")
        keys = {life.key for life in watch.find().values()}
        burst = canary(served, "/").burst(size=3)
        assert [s.outcome for s in burst.samples] == [Outcome.GOOD] * 3
        assert burst.life in keys
        assert {s.life for s in burst.samples} == {burst.life}
        assert (burst.workers_alive, burst.generation) == (2, watch.generation())


def test_the_worker_that_hangs_is_named() -> None:
    """It holds its end of the connection even after the canary has given up."""
    with serving("master", 2) as served:
        hanging = canary(served, "/hang")
        hanging.plan = CanaryPlan(interval_s=60.0, timeout_s=0.3, size=5, warmup=0, max_busy=1.0)
        burst = hanging.burst(size=3)
        assert [s.outcome for s in burst.samples] == [Outcome.TIMEOUT]
        assert burst.life in {
            life.key for life in WorkerWatch(ProcessSpec(port=served.port), target="toy").find().values()
        }


def test_a_burst_tells_how_busy_the_worker_was() -> None:
    """A worker that computes while the burst waits looks other than one that sleeps."""
    with serving("single") as served:
        began = time.monotonic()
        burning = canary(served, "/burn").burst(size=3).worker_cpu
        wall_s = time.monotonic() - began
        idle = canary(served, "/idle").burst(size=3).worker_cpu
        assert burning is not None
        assert idle is not None
        assert 0 <= idle < burning <= 1.2
        assert burning * wall_s >= 3 * 0.06  # what it used, as a share of no more than the whole burst
        canary(served, "/start").burst(size=1)
        engine = canary(served, "/idle").burst(size=3).worker_cpu
        assert engine is not None
        assert engine > 2 * idle, "what it started computes for it: it is busy and does not hang"


ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"1"})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "workers"),
    [
        (["uvicorn", "asgi:app", "--port", "{port}"], 0),
        (["uvicorn", "asgi:app", "--port", "{port}", "--workers", "2"], 2),
        (["gunicorn", "wsgi:app", "-w", "2", "-b", "127.0.0.1:{port}", "--no-control-socket"], 2),
    ],
    ids=["uvicorn", "uvicorn_workers", "gunicorn"],
)
def test_workers_of_real_servers_are_found(tmp_path: Path, argv: list[str], workers: int) -> None:
    """By port, by pid file and by parent pid: the same processes, never the master or a helper."""
    if find_spec(argv[0]) is None:
        leave_out(f"{argv[0]} is not installed")
    (tmp_path / "asgi.py").write_text(ASGI)
    (tmp_path / "wsgi.py").write_text("def app(environ, start):\n    start('200 OK', [])\n    return [b'1']\n")
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in argv)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(
                lambda: len(find(port=port)) == max(1, workers) and (workers == 0 or process.pid not in find(port=port))
            )
            found = find(port=port)
            assert found == ({process.pid} if workers == 0 else found - {process.pid})
            pid_file = tmp_path / "pid"
            pid_file.write_text(str(process.pid))
            assert find(pid_file=pid_file) == find(parent_pid=process.pid) == found
        finally:
            process.terminate()
            process.wait(20)
