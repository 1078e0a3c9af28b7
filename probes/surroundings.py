"""What else went on while a burst ran: on this machine, with the threads of the server, and on its GPUs.

Everything is a counter of the kernel, read before the first request and after the last, never between two. What cannot
be read is left out. Of a core it takes 0.1 ms a burst without workers, 0.2 ms for one thread, 0.5 ms for sixteen, and
0.2 ms more for each hundred beyond, which are only listed.

Formats: proc_stat(5); accounting/psi.rst and scheduler/sched-stats.rst of Linux, of which /proc/PID/task/TID/schedstat
is "nanoseconds on a core, nanoseconds ready to run without one, times it ran".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import zip_longest
from operator import or_

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
from probes.process import cpu_seconds, is_alive
from probes.taint import run_queue_delay_s

MAX_THREADS = 16  # that are looked at, of all workers together: 7 us each, twice a burst
DIGITS = 4  # that are kept of a figure: it is stored with each burst, and none is known better

_PRESSURES = {CPU_PRESSURE: "cpu", MEMORY_PRESSURE: "memory", IO_PRESSURE: "io"}
_STEAL, _CPU_FIELDS = 7, 8  # of the line "cpu"; the two behind, guests, are in the others already


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Counters at one moment; only their differences mean something.

    at: monotonic seconds. ticks: of all CPUs, stolen and in all; None where it cannot be read. stalled_s: by the name
    of the fact. cpu_s: of each worker. pids: the worker's pid of each thread, by the thread's id. runs: of each thread
    that was looked at, and has run since it began: for how many nanoseconds it waited for a core, and how often it got
    one. own_delay_s: see `taint.OwnDelay`; 0.0 where the kernel does not count.
    """

    at: float
    ticks: tuple[int, int] | None = None
    stalled_s: Mapping[str, float] = field(default_factory=dict)
    cpu_s: Mapping[Life, float] = field(default_factory=dict)
    pids: Mapping[int, int] = field(default_factory=dict)
    runs: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    own_delay_s: float = 0.0


class Surroundings:
    """Looks around before and after each burst of one canary. One burst at a time, from one thread.

    It learns which threads of a server work, so that of hundreds the ones that are looked at are those: a thread that
    never ran never waited, and adds nothing to the sum. The others get their turn in the places that are left.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        own_delay_s: Callable[[], float] = run_queue_delay_s,
        host: Host | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._own_delay_s = own_delay_s
        self._host = host or Host()
        self._proc = str(self._host.proc)  # a Path takes as long to join as the kernel to answer
        self._idle: dict[int, None] = {}  # threads that did not run when last looked at, longest ago first

    def begin(self, lives: Collection[Life]) -> Moment:
        """Before the first request. lives: the workers that may answer; empty when they are not watched."""
        pids = self._list_threads(lives)
        self._idle = {tid: None for tid in self._idle if tid in pids}
        working = [tid for tid in pids if tid not in self._idle]
        return self._look(lives, pids, [*working, *self._idle][:MAX_THREADS])

    def end(self, before: Moment, lives: Collection[Life]) -> dict[str, float]:
        """After the last one: the facts, by name. lives: of the workers at the beginning, those that count."""
        now = self._list_threads(lives)
        new = [tid for tid in now if tid not in before.pids][:MAX_THREADS]
        after = self._look(lives, {**before.pids, **now}, [*before.runs, *new])
        alive = {life for life in lives if is_alive(life, host=self._host)}  # asked last: a pid may have a next owner
        for tid in after.runs:
            self._idle.pop(tid, None)
            if after.runs[tid] == before.runs.get(tid):
                self._idle[tid] = None
        return compare(before, after, alive)

    def _look(self, lives: Iterable[Life], pids: Mapping[int, int], tids: Iterable[int]) -> Moment:
        return Moment(
            at=self._monotonic(),
            ticks=self._ticks(),
            stalled_s={fact: s for fact, name in _PRESSURES.items() if (s := self._stalled_s(name)) is not None},
            cpu_s=cpu_seconds(lives),
            pids=pids,
            runs={tid: runs for tid in tids if (runs := self._runs(pids[tid], tid)) is not None},
            own_delay_s=self._own_delay_s(),
        )

    def _list_threads(self, lives: Iterable[Life]) -> dict[int, int]:
        """The worker's pid of each thread, by the thread's id; in turn one of each worker, the oldest first."""
        tids = {life.pid: self._tids(life.pid) for life in lives}
        if len(tids) == 1:
            return {tid: pid for pid, own in tids.items() for tid in own}
        turns = zip_longest(*([(tid, pid) for tid in own] for pid, own in tids.items()))
        return dict(thread for turn in turns for thread in turn if thread is not None)

    def _tids(self, pid: int) -> list[int]:
        try:
            with os.scandir(f"{self._proc}/{pid}/task") as entries:
                return sorted(int(entry.name) for entry in entries)
        except (OSError, ValueError):
            return []

    def _runs(self, pid: int, tid: int) -> tuple[int, int] | None:
        _, waited_ns, times = _whole(self._read(f"{pid}/task/{tid}/schedstat").split(), 3) or (0, 0, 0)
        return (waited_ns, times) if times > 0 else None  # 0: it never ran; or the kernel does not count

    def _ticks(self) -> tuple[int, int] | None:
        name, *fields = self._read("stat").partition(b"\n")[0].split() or [b""]
        ticks = _whole(fields, _CPU_FIELDS) if name == b"cpu" else []
        return (ticks[_STEAL], sum(ticks)) if ticks else None

    def _stalled_s(self, resource: str) -> float | None:
        line = self._read(f"pressure/{resource}").partition(b"\n")[0]
        total_us = _whole([line.partition(b" total=")[2]], 1) if line.startswith(b"some ") else []
        return total_us[0] / 1e6 if total_us else None

    def _read(self, name: str) -> bytes:
        """The first of what a file of /proc holds; nothing where it cannot be read. As few calls as can be."""
        try:
            file = os.open(f"{self._proc}/{name}", os.O_RDONLY)
            try:
                return os.read(file, 512)
            finally:
                os.close(file)
        except OSError:
            return b""


def _whole(fields: Sequence[bytes], count: int) -> list[int]:
    """The first so many, as numbers; empty when they are fewer or others."""
    try:
        return [int(field) for field in fields[:count]] if len(fields) >= count else []
    except ValueError:
        return []


def compare(before: Moment, after: Moment, alive: Collection[Life]) -> dict[str, float]:
    """The facts between two moments, by name; those that cannot be told are left out.

    alive: the workers that count, and still run. Of a thread that began in between everything counts, of one that ended
    nothing.
    """
    took_s = after.at - before.at
    if took_s <= 0:
        return {}
    found: dict[str, float] = {}
    if before.ticks is not None and after.ticks is not None:
        stolen, ticks = (now - then for then, now in zip(before.ticks, after.ticks, strict=True))
        if 0 <= stolen <= ticks and ticks > 0:  # the kernel's own sums may go back by a tick
            found[CPU_STEAL] = stolen / ticks
    for fact in before.stalled_s.keys() & after.stalled_s.keys():
        found[fact] = min(1.0, (after.stalled_s[fact] - before.stalled_s[fact]) / took_s)
    if after.own_delay_s > 0:
        found[OWN_DELAY] = (after.own_delay_s - before.own_delay_s) / took_s
    pids = {life.pid for life in alive}
    used_s = [after.cpu_s[life] - before.cpu_s[life] for life in before.cpu_s.keys() & after.cpu_s.keys() & set(alive)]
    if used_s:
        found[SERVER_CPU] = sum(used_s) / took_s
    waited_ns = [
        runs[0] - before.runs.get(tid, (0, 0))[0]
        for tid, runs in after.runs.items()
        if after.pids[tid] in pids and (tid in before.runs or tid not in before.pids)
    ]
    if waited_ns:
        found[SERVER_WAIT] = sum(waited_ns) / 1e9 / took_s
    return {fact: float(f"{value:.{DIGITS}g}") for fact, value in found.items() if value >= 0}


def facts_of_gpus(sample: GpuSample) -> dict[str, float]:
    """Of the target's devices as they were last read. What one of them does not tell is left out for all."""
    found: dict[str, float] = {}
    if clocks := _of_all(sample, lambda device: device.number("sm_clock_mhz")):
        found[SM_CLOCK_HZ] = min(clocks) * 1e6
    if reasons := _of_all(sample, lambda device: device.number("clock_event_reasons")):
        found[GPU_THROTTLE] = reduce(or_, map(int, reasons))
    if others := _of_all(sample, lambda device: None if device.others is None else device.others - device.canaries):
        found[GPU_OTHERS] = sum(others)
    return found


def _of_all(sample: GpuSample, figure: Callable[[DeviceSample], float | None]) -> list[float]:
    """The figure of each device; empty when one has none."""
    figures = [figure(device) for device in sample.devices]
    known = [value for value in figures if value is not None]
    return known if len(known) == len(figures) else []
