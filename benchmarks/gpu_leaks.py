"""Real leaks on a device, and what only looks like them, told apart: processes whose memory does what `growing` says.

They are followed all at once, by the daemon's own parts, all of whose times are so many times shorter. Also what NVML
says of a process beside what its allocator says.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from baselines.leak import LeakPolicy
from baselines.leak_kind import LeakKind
from benchmarks.gpu_worker import Worker
from benchmarks.leak_recorded import Judged, accelerated, judge
from benchmarks.leak_series import STEP_MIN
from probes.gpu.reader import GpuReader
from probes.gpu.rhythm import Rhythm
from probes.messages import MemorySample

TOLD_AS: Mapping[str, Mapping[str, LeakKind | None]] = {
    "cuda": {"tensors": LeakKind.TENSORS, "fragmentation": LeakKind.FRAGMENTATION, "plateau": None},
    "cpu": {"tensors": LeakKind.HOST, "plateau": None},
}
"""What each is, by the kind of device. On the CPU no allocator tells of itself, and what is freed is given back."""

BEGUN_S = 5.0  # a process has all that the driver and the libraries take for themselves when it has worked so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How leaks are followed. speed: times shorter; windows: of the middle one, how many; rate: bytes a second."""

    speed: float = 120.0
    windows: float = 1.5
    rate: float = 12e6

    @property
    def policy(self) -> LeakPolicy:
        return accelerated(self.speed)

    @property
    def every_s(self) -> float:
        """From one sample to the next; the rules are used to one every half minute."""
        return STEP_MIN * 60 / self.speed

    @property
    def seconds(self) -> float:
        return self.windows * self.policy.window_s

    @property
    def rhythm(self) -> Rhythm:
        """So often is NVML to be read, that a sample never waits for news for long."""
        return Rhythm(memory_s=self.every_s, lists_s=2 * self.every_s)


@dataclass(frozen=True, slots=True)
class Agreement:
    """NVML's figure of a process less what its allocator reserved: the CUDA context and what libraries hold, bytes.

    middle, low, high: the median, and 1 % and 99 %. a_byte: by how many bytes NVML's figure grew for one reserved;
    None unless it grew by a tenth.
    """

    middle: float
    low: float
    high: float
    a_byte: float | None


@contextmanager
def started(kinds: Iterable[str], course: Course, *, device: str) -> Iterator[dict[str, Worker]]:
    """One process of each kind, ready to begin."""
    more = ("--bytes-a-second", str(course.rate), "--window-s", str(course.policy.window_s))
    with ExitStack() as stack:
        workers = {kind: stack.enter_context(Worker(kind, device=device, more=more)) for kind in kinds}
        for worker in workers.values():
            worker.wait_ready()
        yield workers


def follow(workers: Mapping[str, Worker], course: Course, *, gpu: GpuReader | None) -> dict[str, list[MemorySample]]:
    """Samples of each process, from the moment they all begin. gpu: None asks no driver.

    Ages count from the first sample: a process starts no faster because the rest is.
    """
    watches = {kind: worker.watch(gpu) for kind, worker in workers.items()}
    if gpu is not None:
        gpu.refresh()  # else those that have just come are not listed yet
    for worker in workers.values():
        worker.begin()
    samples: dict[str, list[MemorySample]] = {kind: [] for kind in workers}
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < course.seconds:
        for kind, watch in watches.items():
            samples[kind] += [replace(sample, uptime_s=None) for sample in watch.sample(time.time())]
        due = (elapsed // course.every_s + 1) * course.every_s
        time.sleep(max(0.0, began + due - time.monotonic()))
    return samples


def tell(samples: Mapping[str, Sequence[MemorySample]], course: Course) -> dict[str, Judged]:
    """What a daemon would have said of each, sample by sample."""
    return {kind: judge(points, course.policy) for kind, points in samples.items()}


def agreement(points: Sequence[MemorySample]) -> Agreement | None:
    """None where NVML does not tell the process's memory, or no agent what is reserved."""
    pairs = [
        (p.reserved_bytes, p.gpu_used_bytes)
        for p in points
        if p.reserved_bytes is not None and p.gpu_used_bytes is not None and p.at >= points[0].at + BEGUN_S
    ]
    if not pairs:
        return None
    reserved, used = np.array(pairs, dtype=float).T
    low, middle, high = np.quantile(used - reserved, [0.01, 0.5, 0.99])
    grew = reserved.max() > 1.1 * reserved.min()
    return Agreement(float(middle), float(low), float(high), float(np.polyfit(reserved, used, 1)[0]) if grew else None)
