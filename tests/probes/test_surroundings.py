"""What went on around a burst: on recorded trees, between moments made up, and on this very machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from builders import wait_until

from probes.facts import (
    CPU_PRESSURE,
    CPU_STEAL,
    GPU_OTHERS,
    GPU_THROTTLE,
    IO_PRESSURE,
    MEMORY_PRESSURE,
    OWN_DELAY,
    SERVER_CPU,
    SERVER_WAIT,
    SM_CLOCK_HZ,
)
from probes.gpu.sample import DeviceSample, GpuSample
from probes.host import Host
from probes.messages import Life
from probes.process import life_of
from probes.surroundings import MAX_THREADS, Moment, Surroundings, compare, facts_of_gpus

WORKER = Life(pid=5_000_001, start_ticks=7)  # above what the kernel gives: no process of this machine has it
OTHER = Life(pid=5_000_101, start_ticks=8)


@dataclass
class Machine:
    """A tree like /proc that a test changes, and a clock of its own."""

    root: Path
    at: float = 1000.0
    own_delay_s: float = 1.0
    around: Surroundings = field(init=False)

    def __post_init__(self) -> None:
        self.around = Surroundings(
            monotonic=lambda: self.at, own_delay_s=lambda: self.own_delay_s, host=Host(proc=self.root)
        )

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def start(self, life: Life) -> None:
        self.write(f"{life.pid}/stat", f"{life.pid} (srv) S 1 {'0 ' * 17}{life.start_ticks} 0\n")
        self.thread(life, 0, waited_ns=0)

    def forget(self, life: Life) -> None:
        """The process runs, and nothing more is known of it."""
        self.start(life)
        self.end_thread(life, 0)

    def thread(self, life: Life, number: int, *, waited_ns: int, times: int = 1) -> None:
        self.write(f"{life.pid}/task/{life.pid + number}/schedstat", f"123 {waited_ns} {times}\n")

    def end_thread(self, life: Life, number: int) -> None:
        folder = self.root / f"{life.pid}/task/{life.pid + number}"
        (folder / "schedstat").unlink()
        folder.rmdir()

    def pressure(self, total_us: int) -> None:
        for name in ("cpu", "memory", "io"):
            lines = (f"{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={total_us}\n" for kind in ("some", "full"))
            self.write(f"pressure/{name}", "".join(lines))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_each_fact_is_what_its_unit_says(machine: Machine) -> None:
    """Two seconds, in which half of the CPU time was stolen and tasks waited for a quarter of it."""
    machine.write("stat", "cpu  100 0 100 100 0 0 0 100 50 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    machine.pressure(1_000_000)
    machine.start(WORKER)
    machine.thread(WORKER, 1, waited_ns=5_000_000_000)
    before = machine.around.begin([WORKER])
    machine.at += 2.0
    machine.own_delay_s += 0.25
    machine.write("stat", "cpu  150 0 100 150 0 0 0 200 99 0\n")
    machine.pressure(1_500_000)
    machine.thread(WORKER, 0, waited_ns=1_000_000_000, times=2)
    machine.thread(WORKER, 1, waited_ns=5_500_000_000, times=2)
    assert machine.around.end(before, [WORKER]) == {
        CPU_STEAL: 0.5,
        CPU_PRESSURE: 0.25,
        MEMORY_PRESSURE: 0.25,
        IO_PRESSURE: 0.25,
        OWN_DELAY: 0.125,
        SERVER_WAIT: 0.75,
    }


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"stat": "", "pressure/cpu": "", f"{WORKER.pid}/task/{WORKER.pid}/schedstat": ""},
        {"stat": "cpu 1 2 3", "pressure/io": "some avg10=0", f"{WORKER.pid}/task/{WORKER.pid}/schedstat": "1 2"},
        {"stat": "cpu a b c d e f g h", "pressure/io": "some total=x", f"{WORKER.pid}/task/x/y": ""},
        {"stat": "intr 1 2 3 4 5 6 7 8 9", "pressure/io": "full avg10=0.00 total=5"},
        {f"{WORKER.pid}/task/{WORKER.pid}/schedstat": "0 0 0\n"},
    ],
    ids=["nothing", "empty", "cut short", "no numbers", "other lines", "not counted"],
)
def test_what_cannot_be_read_is_left_out(machine: Machine, files: dict[str, str]) -> None:
    """Never 0, and never an exception: a burst goes on without it."""
    machine.own_delay_s = 0.0
    machine.forget(WORKER)
    for name, text in files.items():
        machine.write(name, text)
    before = machine.around.begin([WORKER])
    machine.at += 1.0
    assert machine.around.end(before, [WORKER]) == {}


def test_a_thread_that_begins_counts_and_one_that_ends_does_not(machine: Machine) -> None:
    """Servers start a thread for a connection; what a thread that is gone waited at last, nobody knows."""
    machine.start(WORKER)
    machine.thread(WORKER, 1, waited_ns=9_000_000_000)
    before = machine.around.begin([WORKER])
    machine.at += 1.0
    machine.end_thread(WORKER, 1)
    machine.thread(WORKER, 2, waited_ns=300_000_000)
    machine.thread(WORKER, 0, waited_ns=100_000_000, times=2)
    assert machine.around.end(before, [WORKER])[SERVER_WAIT] == 0.4


def test_a_worker_that_ended_is_left_out_though_another_has_its_pid(machine: Machine) -> None:
    """Its next owner's figures are not its own; a worker beside it still counts."""
    machine.start(WORKER)
    machine.start(OTHER)
    before = machine.around.begin([WORKER, OTHER])
    machine.at += 1.0
    machine.thread(OTHER, 0, waited_ns=200_000_000, times=2)
    machine.start(replace(WORKER, start_ticks=99))
    machine.thread(WORKER, 0, waited_ns=800_000_000, times=2)
    assert machine.around.end(before, [WORKER, OTHER])[SERVER_WAIT] == 0.2
    assert SERVER_WAIT not in machine.around.end(before, [WORKER])


def test_only_the_workers_that_answered_count(machine: Machine) -> None:
    """The others waited too, and for somebody else."""
    machine.start(WORKER)
    machine.start(OTHER)
    before = machine.around.begin([WORKER, OTHER])
    machine.at += 1.0
    for life, waited_ns in ((WORKER, 100_000_000), (OTHER, 800_000_000)):
        machine.thread(life, 0, waited_ns=waited_ns, times=2)
    assert machine.around.end(before, [WORKER])[SERVER_WAIT] == 0.1


def test_of_hundreds_of_threads_those_that_work_are_found(machine: Machine) -> None:
    """Few are looked at in each burst; after some bursts the busy ones are among them, and stay."""
    machine.start(WORKER)
    for number in range(1, 300):
        machine.thread(WORKER, number, waited_ns=0)
    runs, around_all = dict.fromkeys(range(300), 1), 300 // MAX_THREADS + 1

    def burst(*working: int) -> float:
        before = machine.around.begin([WORKER])
        assert len(before.runs) == MAX_THREADS
        machine.at += 1.0
        for number in working:
            runs[number] += 1
            machine.thread(WORKER, number, waited_ns=100_000_000 * (runs[number] - 1), times=runs[number])
        return machine.around.end(before, [WORKER])[SERVER_WAIT]

    assert burst(0, 297, 298) == 0.1, "the first thread alone"
    found = [burst(0, 297, 298) for _ in range(2 * around_all)]
    assert set(found[around_all:]) == {0.3}
    found = [burst(150, 298) for _ in range(2 * around_all)]
    assert set(found[around_all:]) == {0.2}, "one that had been idle"


def test_a_new_thread_counts_beside_hundreds(machine: Machine) -> None:
    """It is the one that serves the connection."""
    machine.start(WORKER)
    for number in range(1, 100):
        machine.thread(WORKER, number, waited_ns=0)
    before = machine.around.begin([WORKER])
    machine.at += 1.0
    machine.thread(WORKER, 500, waited_ns=300_000_000)
    assert machine.around.end(before, [WORKER])[SERVER_WAIT] == 0.3


def test_workers_share_the_places(machine: Machine) -> None:
    """Each has its first thread looked at before any has its second."""
    lives = [Life(pid=5_000_001 + 1000 * number, start_ticks=1) for number in range(4)]
    for life in lives:
        machine.start(life)
        for number in range(1, 50):
            machine.thread(life, number, waited_ns=0)
    looked_at = machine.around.begin(lives).runs
    assert {tid for tid in looked_at if tid in {life.pid for life in lives}} == {life.pid for life in lives}
    assert len(looked_at) == MAX_THREADS


MOMENT = Moment(
    at=10.0, ticks=(5, 100), stalled_s={CPU_PRESSURE: 1.0}, cpu_s={WORKER: 1.0}, pids={1: WORKER.pid}, own_delay_s=1.0
)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"at": 10.0}, {}),
        ({"at": 9.0}, {}),
        ({}, {CPU_PRESSURE: 0.0, SERVER_CPU: 0.0, OWN_DELAY: 0.0}),
        ({"ticks": (4, 110)}, {CPU_PRESSURE: 0.0, SERVER_CPU: 0.0, OWN_DELAY: 0.0}),
        ({"ticks": (7, 101)}, {CPU_PRESSURE: 0.0, SERVER_CPU: 0.0, OWN_DELAY: 0.0}),
        ({"ticks": (5, 110)}, {CPU_STEAL: 0.0, CPU_PRESSURE: 0.0, SERVER_CPU: 0.0, OWN_DELAY: 0.0}),
        ({"stalled_s": {CPU_PRESSURE: 2.0001}}, {CPU_PRESSURE: 1.0, SERVER_CPU: 0.0, OWN_DELAY: 0.0}),
        ({"stalled_s": {CPU_PRESSURE: 0.5}}, {SERVER_CPU: 0.0, OWN_DELAY: 0.0}),
        ({"cpu_s": {}}, {CPU_PRESSURE: 0.0, OWN_DELAY: 0.0}),
        ({"cpu_s": {WORKER: 1.123456789}}, {CPU_PRESSURE: 0.0, SERVER_CPU: 0.1235, OWN_DELAY: 0.0}),
    ],
    ids=[
        "no time",
        "time went back",
        "nothing",
        "steal went back",
        "more stolen than there was",
        "no steal",
        "more pressure than time",
        "pressure went back",
        "worker gone",
        "four digits",
    ],
)
def test_what_cannot_be_true_is_left_out(changes: dict[str, Any], facts: dict[str, float]) -> None:
    """The kernel's sums are not all read at the same instant, and some may go back a little."""
    assert compare(MOMENT, replace(MOMENT, **{"at": 11.0, **changes}), {WORKER}) == facts


BUSY = (
    "import time\nprint(flush=True)\ninput()\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
)


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_real_process_that_works_is_seen_to_work_and_wait() -> None:
    """Two of them on one core: both use it, and one waits while the other runs."""
    around = Surroundings(monotonic=time.monotonic)
    code = f"{BUSY}print(flush=True)\ninput()\n"
    with child(code) as one, child(code) as two:
        lives = [life for process in (one, two) if (life := life_of(process.pid)) is not None]
        core = min(os.sched_getaffinity(0))
        for process in (one, two):
            os.sched_setaffinity(process.pid, {core})
        before = around.begin(lives)
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in (one, two):
            assert process.stdout is not None
            process.stdout.readline()
        took_s = time.monotonic() - before.at
        facts = around.end(before, lives)
        assert facts[SERVER_CPU] * took_s >= 0.55
        assert facts[SERVER_WAIT] * took_s >= 0.1
        assert facts[SERVER_CPU] <= 1.05, "one core"
        idle = around.begin(lives)
        wait_until(lambda: time.monotonic() - idle.at > 0.05, "some time")
        assert around.end(idle, lives)[SERVER_CPU] < 0.5, "both wait for us"


def test_the_real_machine_tells_what_it_has() -> None:
    """Whatever kernel it runs; each figure is a share."""
    around = Surroundings(monotonic=time.monotonic)
    before = around.begin([])
    wait_until(lambda: time.monotonic() - before.at > 0.1, "some ticks of the CPUs")
    facts = around.end(before, [])
    assert CPU_STEAL in facts
    assert (CPU_PRESSURE in facts) == Path("/proc/pressure/cpu").exists()
    assert all(0 <= facts[name] <= 1 for name in facts)
    assert not {SERVER_CPU, SERVER_WAIT} & set(facts)


def device(**about: Any) -> DeviceSample:
    figures = {"sm_clock_mhz": 1980, "clock_event_reasons": 0}
    return DeviceSample(**{"index": 0, "at": 0.0, "figures": figures, "others": 0, **about})


@pytest.mark.parametrize(
    ("devices", "facts"),
    [
        ((), {}),
        ((device(),), {SM_CLOCK_HZ: 1.98e9, GPU_THROTTLE: 0, GPU_OTHERS: 0}),
        ((device(figures={}, others=None),), {}),
        ((device(others=3, canaries=1),), {SM_CLOCK_HZ: 1.98e9, GPU_THROTTLE: 0, GPU_OTHERS: 2}),
        (
            (device(), device(figures={"sm_clock_mhz": 990, "clock_event_reasons": 0x28}, others=2)),
            {SM_CLOCK_HZ: 0.99e9, GPU_THROTTLE: 0x28, GPU_OTHERS: 2},
        ),
        ((device(), device(figures={"sm_clock_mhz": None}, others=1)), {GPU_OTHERS: 1}),
    ],
    ids=["no device", "one", "not read", "our own canary", "two", "one of two not read"],
)
def test_of_gpus_the_worst_counts(devices: tuple[DeviceSample, ...], facts: dict[str, float]) -> None:
    """The lowest clock, all reasons to lower it, all neighbours; nothing where one of them does not say."""
    assert facts_of_gpus(GpuSample(target="chat", at=0.0, devices=devices)) == facts
