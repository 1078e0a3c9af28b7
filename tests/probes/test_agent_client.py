"""The daemon asks agents: of processes that hang, are stopped, lie, or are somebody else."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_stage import answer_of, script, stop
from hypothesis import given
from hypothesis import strategies as st

from probes.agent import REST_S, AgentClient, AgentSpec
from probes.host import Host
from probes.messages import Life, MemorySample
from probes.process import find_named, life_of
from probes.reading import FAULT_WORDS, AgentFault, implausible
from watchdog_agent import agent_wire
from watchdog_agent.agent_wire import Held, Ran, Report, Step, Trimmed

ATTACH = "import sys\nfrom watchdog_agent.attach import attach\nattach(folder=sys.argv[1])\n"
REST = "print('ready', flush=True)\nsys.stdin.read()\n"
REPORT = Report(
    life=None,
    version="0.24",
    versions={"python": "3.11.7"},
    model_load_s=2.5,
    requests=10,
    in_flight=2,
    shapes=3,
    recompiles=0,
    host_anon_bytes=10**8,
    allocated_bytes=10**9,
    reserved_bytes=2 * 10**9,
    active_bytes=10**9,
    inactive_split_bytes=10**8,
    private_pool_bytes=None,
    alloc_retries=0,
    ooms=0,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agent-") as path:
        yield Path(path)


def me() -> Life:
    found = life_of(os.getpid())
    assert found is not None
    return found


def sample_of(life: Life, slot: int = 0) -> MemorySample:
    return MemorySample(target="chat", slot=slot, life=life.key, at=0.0, host_anon_bytes=7)


@contextmanager
def answering(path: Path, answer: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """A socket of this very process that answers each question as told; None never answers."""
    with ExitStack() as held, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    caller, _ = listener.accept()
                except OSError:
                    return
                said = answer(caller.recv(4096))
                if said is None:
                    held.enter_context(caller)
                    continue
                with caller:
                    try:
                        caller.sendall(said)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def ask(folder: Path, answer: Callable[[bytes], bytes | None]) -> tuple[AgentFault | None, str]:
    with answering(folder / f"{me().key}.sock", answer):
        reading = AgentClient(AgentSpec(folder=folder, timeout_s=0.5), monotonic=time.monotonic).ask([me()])[me()]
    return reading.fault, reading.detail


def said(**change: object) -> bytes:
    return agent_wire.encode_answer(replace(REPORT, **{"life": me().key, **change}))


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"", AgentFault.FORBIDDEN),
        (b"hello\n", AgentFault.UNREADABLE),
        (b'{"v": 2, "kind": "report"}\n', AgentFault.UNREADABLE),
        (b'{"v": 1, "kind": "ask"}\n', AgentFault.UNREADABLE),
        (b"x" * 100_000, AgentFault.UNREADABLE),
        (b"[" * 10_000, AgentFault.UNREADABLE),
        (b'{"v":1,"kind":"refused","why":"not now"}\n', AgentFault.REFUSED),
        (None, AgentFault.SILENT),
        (said(life="1@1"), AgentFault.STRANGER),
        (said(life=None), AgentFault.STRANGER),
        (said(requests=-1), AgentFault.IMPLAUSIBLE),
        (said(allocated_bytes=3 * 10**9), AgentFault.IMPLAUSIBLE),
        (said(reserved_bytes=2**60), AgentFault.IMPLAUSIBLE),
        (said(in_flight=11), AgentFault.IMPLAUSIBLE),
        (said(model_load_s=float("nan")), AgentFault.IMPLAUSIBLE),
        (said(version="\x1b[2J"), AgentFault.IMPLAUSIBLE),
        (said(versions={"python": "x" * 101}), AgentFault.IMPLAUSIBLE),
        (said(), None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_every_way_to_be_at_fault_has_its_word(folder: Path, answer: bytes | None, fault: AgentFault | None) -> None:
    """And a line for a person."""
    found, detail = ask(folder, lambda _: answer)
    assert found == fault, detail
    assert bool(detail) == (fault is not None)
    assert detail.isprintable()


RAN = Ran(life=None, kernel="gemm", took_s=1e-9)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"took_s": 0.0}, AgentFault.IMPLAUSIBLE),
        ({"took_s": -1.0}, AgentFault.IMPLAUSIBLE),
        ({"took_s": float("nan")}, AgentFault.IMPLAUSIBLE),
        ({"took_s": 5.0}, AgentFault.IMPLAUSIBLE),  # longer than we have waited
        ({"kernel": "\x1b[2J"}, AgentFault.IMPLAUSIBLE),
        ({"kernel": "x" * 101}, AgentFault.IMPLAUSIBLE),
        ({"life": "1@1"}, AgentFault.STRANGER),
    ],
)
def test_a_run_that_cannot_be_right_is_none(folder: Path, change: dict[str, Any], fault: AgentFault | None) -> None:
    """The worker's own clock cannot have run for longer than the daemon has waited."""
    told = replace(RAN, **{"life": me().key, **change})
    with answering(folder / f"{me().key}.sock", lambda _: agent_wire.encode_answer(told)):
        asking = AgentClient(AgentSpec(folder=folder, timeout_s=2.0), monotonic=time.monotonic)
        reading = asking.run_kernel(me())
        assert (reading.fault, reading.ran) == (fault, told if fault is None else None)
        assert asking.kernel_s(me()) == (1e-9 if fault is None else None)


def test_an_agent_that_hung_runs_no_kernel(folder: Path) -> None:
    """It is left alone for a while, so that a burst waits for it once and not ten times."""
    questions: list[bytes] = []
    with answering(folder / f"{me().key}.sock", questions.append):
        asking = AgentClient(AgentSpec(folder=folder, timeout_s=0.2), monotonic=time.monotonic)
        assert [asking.run_kernel(me()).fault for _ in range(3)] == [AgentFault.SILENT] * 3
    assert len(questions) == 1


def test_every_fault_has_words() -> None:
    """For status, check and log."""
    assert set(FAULT_WORDS) == set(AgentFault)


def test_one_that_is_not_there(folder: Path) -> None:
    """No socket, a folder that does not exist, and a stale socket."""
    client = AgentClient(AgentSpec(folder=folder), monotonic=time.monotonic)
    assert client.ask([me()])[me()].fault is AgentFault.ABSENT
    elsewhere = AgentClient(AgentSpec(folder=Path("/proc/nowhere")), monotonic=time.monotonic)
    assert elsewhere.ask([me()])[me()].fault is AgentFault.ABSENT
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / f"{me().key}.sock"))
    assert client.ask([me()])[me()].fault is AgentFault.ABSENT


def test_a_socket_that_another_process_opened_is_not_believed(folder: Path) -> None:
    """Whatever it says: the kernel knows whose it is. It is not even asked."""
    with script(ATTACH + REST, str(folder)) as process:
        other = life_of(process.pid)
        assert other is not None
        answer_of(folder, other)
        (folder / f"{me().key}.sock").hardlink_to(folder / f"{other.key}.sock")
        client = AgentClient(AgentSpec(folder=folder), monotonic=time.monotonic)
        assert client.ask([me()])[me()].fault is AgentFault.STRANGER


def test_a_stopped_worker_costs_the_others_nothing(folder: Path) -> None:
    """All are asked at once under one deadline, and the one that hangs is left alone for a minute."""
    clock = [0.0]
    with ExitStack() as stack:
        processes = [stack.enter_context(script(ATTACH + REST, str(folder))) for _ in range(4)]
        workers = {slot: life_of(p.pid) for slot, p in enumerate(processes)}
        lives = {slot: life for slot, life in workers.items() if life is not None}
        for life in lives.values():
            answer_of(folder, life)
        for stopped in (0, 2):
            stop(lives[stopped].pid)
        try:
            client = AgentClient(AgentSpec(folder=folder, timeout_s=4.0), monotonic=lambda: time.monotonic() + clock[0])
            samples = [sample_of(life, slot) for slot, life in lives.items()]
            began = time.monotonic()
            assert [s.agent for s in client.complete(samples, lives)] == ["silent", "good", "silent", "good"]
            assert time.monotonic() - began < 7.0, "two that hang take no longer than one"
            began = time.monotonic()
            again = client.complete(samples, lives)
            assert [s.agent for s in again] == ["silent", "good", "silent", "good"]
            assert time.monotonic() - began < 3.5, "nobody waits for them again"
            assert [s.host_anon_bytes for s in again] == [7] * 4
        finally:
            for stopped in (0, 2):
                os.kill(lives[stopped].pid, signal.SIGCONT)
        clock[0] = REST_S + 1
        assert [s.agent for s in client.complete(samples, lives)] == ["good"] * 4


def test_counts_that_go_back_are_not_believed(folder: Path) -> None:
    """Within one life they only grow."""
    counts = iter([5, 9, 3, 4])
    client = AgentClient(AgentSpec(folder=folder), monotonic=time.monotonic)
    with answering(folder / f"{me().key}.sock", lambda _: said(requests=next(counts))):
        faults = [client.ask([me()])[me()].fault for _ in range(4)]
    assert faults == [None, None, AgentFault.IMPLAUSIBLE, None]


def test_a_sample_with_all_that_was_said(folder: Path) -> None:
    """The kernel's figure stays where there is one."""
    client = AgentClient(AgentSpec(folder=folder), monotonic=time.monotonic)
    with answering(folder / f"{me().key}.sock", lambda _: said()):
        (known,) = client.complete([sample_of(me())], {0: me()})
        (unknown,) = client.complete([replace(sample_of(me()), host_anon_bytes=None)], {0: me()})
    assert (known.host_anon_bytes, unknown.host_anon_bytes) == (7, 10**8)
    assert known == replace(
        sample_of(me()),
        agent="good",
        version="0.24",
        allocated_bytes=10**9,
        reserved_bytes=2 * 10**9,
        inactive_split_bytes=10**8,
        active_bytes=10**9,
        recompiles=0,
        model_load_s=2.5,
        alloc_retries=0,
        ooms=0,
        requests=10,
        in_flight=2,
        shapes=3,
    )


def test_a_trim_says_what_each_step_gave_back(folder: Path) -> None:
    """By the real agent."""
    with script(ATTACH + "held = bytearray(10**7)\n" + REST, str(folder)) as process:
        worker = life_of(process.pid)
        assert worker is not None
        answer_of(folder, worker)
        trimmed = AgentClient(AgentSpec(folder=folder), monotonic=time.monotonic).trim(worker).trimmed
    assert trimmed is not None
    assert [(step.name, step.ran) for step in trimmed.steps] == [
        ("gc", True),
        ("empty_cache", False),
        ("malloc_trim", True),
    ]
    assert trimmed.steps[1].detail == "CUDA is not initialised"


def test_a_worker_in_a_container_is_found_by_its_own_pid(tmp_path: Path, folder: Path) -> None:
    """NSpid, on a recorded tree: the start time is the same, the pid is not."""
    for pid, status in ((1234, "NSpid:\t1234\t17\n"), (1235, "NSpid:\t1235\n"), (1236, "no such line\n")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(status)
    host = Host(proc=tmp_path)
    inside, plain, old = (Life(pid=pid, start_ticks=99) for pid in (1234, 1235, 1236))
    assert (host.namespace_pids(1234), host.namespace_pids(1236), host.namespace_pids(7)) == ((1234, 17), (), ())
    lives = [inside, plain, old]
    assert find_named("17@99", lives, host=host) == inside
    assert find_named("1235@99", lives, host=host) == plain
    assert find_named("1236@99", lives, host=host) == old
    assert find_named("17@98", lives, host=host) is None
    assert find_named("18@99", lives, host=host) is None
    (folder / "17@99.sock").touch()
    client = AgentClient(AgentSpec(folder=folder), monotonic=time.monotonic, host=host)
    assert client._place(inside, client._names(inside)) == str(folder / "17@99.sock")
    assert client._place(plain, client._names(plain)) is None


def test_a_folder_may_name_the_worker() -> None:
    """As /proc/{pid}/root does, to look into a container."""
    with tempfile.TemporaryDirectory(prefix="agent-") as path, script(ATTACH + REST, path) as process:
        worker = life_of(process.pid)
        assert worker is not None
        answer_of(Path(path), worker)
        spec = AgentSpec(folder=Path("/proc/{pid}/root" + path))
        assert AgentClient(spec, monotonic=time.monotonic).ask([worker])[worker].fault is None


@pytest.mark.parametrize("given", [{}, {"folder": Path("/x"), "port": 1, "token": "t"}, {"port": 1}, {"token": "t"}])
def test_a_spec_is_a_folder_or_a_port_with_its_token(given: dict[str, object]) -> None:
    """Nothing between."""
    with pytest.raises(ValueError, match="either a folder"):
        AgentSpec(**given)  # type: ignore[arg-type]


figures = st.none() | st.integers(-(2**63), 2**63 - 1)


@given(
    st.builds(
        Report,
        life=st.none() | st.text(max_size=8),
        version=st.none() | st.text(max_size=120),
        versions=st.dictionaries(st.text(max_size=5), st.text(max_size=120), max_size=3),
        model_load_s=st.none() | st.floats(),
        **dict.fromkeys(Report.__dataclass_fields__.keys() - {"life", "version", "versions", "model_load_s"}, figures),
    )
)
def test_whatever_passes_can_be_stored(report: Report) -> None:
    """No figure below zero or beyond what a database holds, no text that a terminal would act on."""
    if implausible(report):
        return
    numbers = [v for v in vars(report).values() if isinstance(v, (int, float))]
    assert all(0 <= n < 2**63 for n in numbers)
    assert (report.version or "").isprintable()


@given(st.lists(st.tuples(figures, figures, figures), max_size=3))
def test_whatever_a_trim_says_adds_up(held: list[tuple[int | None, int | None, int | None]]) -> None:
    """Never below zero, and no more than a machine has."""
    from probes.reading import MOST, given_back, left_after

    steps = [
        Step(name="gc", ran=True, detail="", took_s=0.0, before=Held(*three), after=Held(*reversed(three)))
        for three in held
    ]
    trimmed = Trimmed(life=None, steps=steps)
    assert 0 <= given_back(trimmed) <= MOST
    for channel in ("host_anon_bytes", "reserved_bytes", "gpu_used_bytes", "cgroup_bytes"):
        left = left_after(trimmed, channel)
        assert left is None or (0 <= left <= MOST and channel != "cgroup_bytes")
