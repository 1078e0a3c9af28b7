"""A compact profiler snapshot: per operator the median self time of a step, its spread, and calls per step.

Events are read from `kineto_results.events()`; `key_averages()` costs 50 to 80 us an event in Python. Never take one
while another profiler runs in the process: two at once kill it. CUPTI serves one subscriber a process, so no device
events although CUDA is in use means that the profiler was not available, never that the GPU did nothing.
"""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections import defaultdict
from statistics import median
from typing import Any, Callable, DefaultDict, Dict, Iterable, List, NamedTuple, Sequence, Tuple

from watchdog_agent import wire

DISCARDED_STEPS = 3  # the profiler's own set-up falls into the first steps
MAX_OPS = 40
STEP = "watchdog_step"


class SnapshotError(Exception):
    """The profiler could not see what it was asked for."""


class Event(NamedTuple):
    """start and duration in nanoseconds; thread 0 for device events."""

    name: str
    start: int
    duration: int
    thread: int
    on_device: bool

    @property
    def end(self) -> int:
        return self.start + self.duration


def take_snapshot(
    step: Callable[[], object], *, steps: int, on_cuda: bool, environment: Dict[str, str]
) -> wire.Profiled:
    """Run and profile the step. Raises SnapshotError when the profiler was not available, and what the step raises."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_cuda else [])
    with profile(activities=activities) as profiler:
        for _ in range(DISCARDED_STEPS + steps):
            with record_function(STEP):
                step()
    events = _read_events(profiler.profiler.kineto_results.events())
    del profiler
    gc.collect()  # results of CUDA profiles hold each other (pytorch#193348)
    step_s, ops = tabulate(events, discard=DISCARDED_STEPS)
    if on_cuda and all(op.device_self_s is None for op in ops):
        raise SnapshotError("the profiler saw no work on the GPU; another profiler may hold it")
    return wire.Profiled(steps=len(step_s), step_s=median(step_s), ops=ops[:MAX_OPS], environment=environment)


def tabulate(events: Sequence[Event], *, discard: int) -> Tuple[List[float], List[wire.Op]]:
    """Wall time of each step in seconds, and all operators, the most expensive first. The first steps are left out.

    An operator that is missing from a step counts as 0 there. Raises SnapshotError when no step is left.
    """
    steps = sorted((e for e in events if e.name == STEP and not e.on_device), key=lambda e: e.start)[discard:]
    if not steps:
        raise SnapshotError("the profiler recorded no step")
    starts = [s.start for s in steps]
    own: DefaultDict[Tuple[str, bool], List[int]] = defaultdict(lambda: [0] * len(steps))
    calls: DefaultDict[Tuple[str, bool], int] = defaultdict(int)
    for event, self_time in _with_self_time(events):
        index = bisect_right(starts, event.start) - 1
        if index >= 0 and event.start < steps[index].end and event.name != STEP:
            own[event.name, event.on_device][index] += self_time
            calls[event.name, event.on_device] += 1
    ops = [_op(key, own[key], calls[key] / len(steps)) for key in own]
    ops.sort(key=lambda op: op.self_s + (op.device_self_s or 0.0), reverse=True)
    return [s.duration / 1e9 for s in steps], ops


def _op(key: Tuple[str, bool], own: List[int], calls_per_step: float) -> wire.Op:
    name, on_device = key
    middle = median(own)
    spread = median(abs(x - middle) for x in own)
    return wire.Op(
        name=name,
        calls_per_step=calls_per_step,
        self_s=0.0 if on_device else middle / 1e9,
        self_mad_s=spread / 1e9,
        device_self_s=middle / 1e9 if on_device else None,
    )


def _with_self_time(events: Iterable[Event]) -> Iterable[Tuple[Event, int]]:
    """Each event with its own duration minus that of its direct children, found by a stack for each thread."""
    threads: DefaultDict[int, List[Event]] = defaultdict(list)
    for event in events:
        if event.on_device:
            yield event, event.duration
        else:
            threads[event.thread].append(event)
    for of_thread in threads.values():
        of_thread.sort(key=lambda e: (e.start, -e.duration))
        own = [e.duration for e in of_thread]
        stack: List[int] = []
        for index, event in enumerate(of_thread):
            while stack and of_thread[stack[-1]].end <= event.start:
                stack.pop()
            if stack:
                own[stack[-1]] -= min(event.end, of_thread[stack[-1]].end) - event.start
            stack.append(index)
        yield from zip(of_thread, own)


def _read_events(events: Iterable[Any]) -> List[Event]:
    """Torch's events as plain values; ranges of the user that are mirrored onto the device would count twice."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]

    plain = []
    for event in events:
        on_device = event.device_type() != DeviceType.CPU
        if on_device and (event.name() == STEP or getattr(event, "is_user_annotation", bool)()):
            continue
        in_ns = hasattr(event, "start_ns")  # torch before 2.3 counts in microseconds
        start = event.start_ns() if in_ns else event.start_us() * 1000
        duration = event.duration_ns() if in_ns else event.duration_us() * 1000
        plain.append(Event(event.name(), start, duration, 0 if on_device else event.start_thread_id(), on_device))
    return plain
