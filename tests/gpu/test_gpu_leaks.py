"""A real leak of tensors, a real fragmentation and a real cache that is full are told apart.

On a GPU where there is one. What can be tried without is: the same memory on a model of torch's allocator, and the same
processes, followed by the same parts, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from caching_allocator import Allocator
from nvml_stage import Driver, build_stub

from baselines.leak_kind import LeakKind
from baselines.verdict import Reason, Status
from benchmarks.gpu import REHEARSAL
from benchmarks.gpu_leaks import TOLD_AS, Course, agreement, follow, started, tell
from benchmarks.growing import growing
from benchmarks.leak_recorded import Judged
from probes.gpu.reader import GpuReader
from probes.messages import MemorySample

MIB, GIB = 2**20, 2**30
CONTEXT = 500 * MIB
PACE_S = 0.02

Samples = Mapping[str, Sequence[MemorySample]]


def sample(at: float, *, allocated: int, reserved: int, used: int | None = None) -> MemorySample:
    return MemorySample(
        target="gpu",
        slot=0,
        life="1@1",
        at=at,
        host_anon_bytes=GIB,
        capacity_bytes=64 * GIB,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        gpu_used_bytes=reserved + CONTEXT if used is None else used,
        gpu_capacity_bytes=80 * GIB,
        device_used_bytes=10 * GIB,
    )


def worked_out(kind: str, course: Course) -> list[MemorySample]:
    """What a process of that kind would show, by the model of the allocator."""
    allocator = Allocator()
    memory = growing(kind, allocator.allocate, bytes_a_second=course.rate, window_s=course.policy.window_s)
    every, samples = round(course.every_s / PACE_S), []
    for step in range(round(course.seconds / PACE_S)):
        memory.grow(step * PACE_S)
        if step % every == 0:
            samples.append(
                sample(step * PACE_S, allocated=allocator.allocated_bytes, reserved=allocator.reserved_bytes)
            )
    return samples


def check(judged: Judged, wanted: LeakKind | None) -> None:
    """Told as what it is, and so to the end; what does not leak is judged, and never said to."""
    if wanted is None:
        assert judged.told is None
        assert (judged.last.status, judged.last.reason) == (Status.OK, Reason.STEADY)
    else:
        assert judged.told is not None
        assert [judged.told.evidence["kind"], judged.last.evidence["kind"]] == [wanted, wanted]
        assert judged.last.status is Status.WORSE


def heard(points: Sequence[MemorySample]) -> bool:
    """Whether the agent has answered, but for a few times at most."""
    return sum(each.agent == "good" for each in points) > 0.95 * len(points)


# --- without a GPU ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOLD_AS["cuda"])
def test_each_is_told_apart_by_what_the_allocator_would_say(kind: str) -> None:
    """Else what the processes do on a GPU would not be what their names say."""
    course = Course()
    samples = worked_out(kind, course)
    check(tell({kind: samples}, course)[kind], TOLD_AS["cuda"][kind])
    last = samples[-1]
    assert last.allocated_bytes is not None
    assert last.reserved_bytes is not None
    if kind == "fragmentation":
        assert last.allocated_bytes < 0.01 * last.reserved_bytes
    else:
        assert last.allocated_bytes > 0.9 * last.reserved_bytes
    leaked = course.rate * course.seconds
    assert last.reserved_bytes == pytest.approx(leaked if kind != "plateau" else leaked / 3, rel=0.05)


@pytest.mark.slow
def test_real_processes_on_the_cpu_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept tensors are a leak of the host's memory, a full cache is none; driver and agent are heard meanwhile."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    driver.set(f"device 0 {80 * GIB} 0 {10 * GIB}\n")
    expected = TOLD_AS["cpu"]
    gpu = GpuReader(rhythm=REHEARSAL.course.rhythm)
    try:
        with started(expected, REHEARSAL.course, device="cpu") as workers:
            rows = [f"process 0 {worker.life.pid} {CONTEXT}" for worker in workers.values()]
            driver.set("\n".join([f"device 0 {80 * GIB} 0 {10 * GIB}", *rows, ""]))
            samples = follow(workers, REHEARSAL.course, gpu=gpu)
    finally:
        gpu.close()
    for kind, judged in tell(samples, REHEARSAL.course).items():
        check(judged, expected[kind])
        assert heard(samples[kind])
        assert samples[kind][-1].gpu_used_bytes == CONTEXT
    first, last = samples["plateau"][0], samples["plateau"][-1]
    assert last.requests is not None
    assert last.requests > 100
    assert (last.host_anon_bytes or 0) - (
        first.host_anon_bytes or 0
    ) > 0.8 * REHEARSAL.course.rate * REHEARSAL.course.policy.window_s / 2


def test_the_context_is_what_the_driver_counts_and_the_allocator_does_not() -> None:
    """Its median and its spread; byte for byte where reserved memory grew; what began late enough alone."""
    grows = [sample(at, allocated=0, reserved=GIB + at * 20 * MIB) for at in range(20)]
    found = agreement(grows)
    assert found is not None
    assert (found.low, found.middle, found.high) == (CONTEXT, CONTEXT, CONTEXT)
    assert found.a_byte == pytest.approx(1.0)
    steady = [sample(at, allocated=0, reserved=GIB, used=(2 if at < 5 else 3) * GIB) for at in range(20)]
    found = agreement(steady)
    assert found is not None
    assert (found.low, found.high, found.a_byte) == (2 * GIB, 2 * GIB, None)


def test_nothing_agrees_with_a_driver_that_tells_nothing() -> None:
    """None, rather than a context of nothing."""
    assert agreement([MemorySample(target="gpu", slot=0, life="1@1", at=9.0 * at) for at in range(9)]) is None


# --- with one ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def followed(cuda: None) -> Samples:
    """Three minutes of one process of each kind, all at once."""
    course = Course()
    gpu = GpuReader(rhythm=course.rhythm)
    try:
        with started(TOLD_AS["cuda"], course, device="cuda") as workers:
            return follow(workers, course, gpu=gpu)
    finally:
        gpu.close()


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", TOLD_AS["cuda"])
def test_each_is_told_apart_on_a_gpu(followed: Samples, kind: str) -> None:
    """By its kind, soon enough; and the memory really did what its name says."""
    course, points = Course(), followed[kind]
    check(tell({kind: points}, course)[kind], TOLD_AS["cuda"][kind])
    assert heard(points)
    allocated, reserved = (
        (getattr(points[-1], name) or 0) - (getattr(points[0], name) or 0)
        for name in ("allocated_bytes", "reserved_bytes")
    )
    grown = course.rate * course.seconds / (3 if kind == "plateau" else 1)
    assert reserved == pytest.approx(grown, rel=0.1)
    assert allocated < 0.05 * grown if kind == "fragmentation" else allocated == pytest.approx(grown, rel=0.1)


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", TOLD_AS["cuda"])
def test_the_driver_agrees_with_the_allocator(followed: Samples, kind: str) -> None:
    """NVML's figure of a process less what its allocator reserved is the CUDA context: steady, and below 1 GiB."""
    found = agreement(followed[kind])
    if found is None:
        pytest.skip("NVML does not tell what a process has, as in many containers: run on the host, or with its pids")
    assert found.low > 0
    assert found.high < GIB
    if kind == "tensors":  # of the others, what is reserved grows at once by more than NVML can tell in time
        assert found.high - found.low < 64 * MIB
        assert found.a_byte == pytest.approx(1.0, abs=0.02)
