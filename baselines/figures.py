"""What of a worker may leak: each figure with where it is read and what it fills. One table of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from probes.messages import MemorySample

MIN_FDS = 48.0  # over a window: two an hour at the default; pools and keep-alive connections move by tens
MIN_THREADS = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """capacity: what can be had at most; others: what somebody else has of it now, below 0 where the figure counts
    more than there is in use: what processes share since a fork, what is swapped. The figure's unit. spread: whether it
    is of several devices, of which the first that is full is the end."""

    capacity: float
    others: float = 0.0
    spread: bool = False

    @property
    def left_for(self) -> float:
        return self.capacity - self.others


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """of: its value in a sample, None when not known. room: what it can grow to, None when not known.

    place: where the room is; figures of one place hold parts of each other. min_gain: the least rise over a window that
    counts, where the policy's, in bytes, does not fit.
    """

    name: str
    place: str
    of: Callable[[MemorySample], float | None]
    room: Callable[[MemorySample], Room | None]
    min_gain: float | None = None

    @property
    def is_memory(self) -> bool:
        """Whether its unit is bytes."""
        return self.min_gain is None


def host_room(s: MemorySample) -> Room | None:
    """A cgroup is full when all in it together reach the limit; the machine, when it has nothing left to give."""
    if s.capacity_bytes is None:
        return None
    used = s.host_anon_bytes or 0
    held = used if s.cgroup_bytes is None else s.cgroup_bytes
    left = s.capacity_bytes - held
    left = left if s.available_bytes is None else min(left, s.available_bytes)
    return Room(capacity=float(s.capacity_bytes), others=float(s.capacity_bytes - used - left))


def _device(s: MemorySample) -> Room | None:
    """Of several devices: until the first one is full, whatever is free on the others then."""
    if s.gpu_capacity_bytes is None:
        return None
    known = s.device_used_bytes is not None and s.gpu_used_bytes is not None
    others = (s.device_used_bytes or 0) - (s.gpu_used_bytes or 0) if known else 0
    beyond = _out_of_reach(s)
    return Room(capacity=float(s.gpu_capacity_bytes - beyond), others=float(max(0, others)), spread=beyond > 0)


def _out_of_reach(s: MemorySample) -> int:
    """What is free on its other devices when the one with the least is full; 0 for a worker on one device."""
    if s.gpu_capacity_bytes is None or s.device_used_bytes is None or s.gpu_room_bytes is None:
        return 0
    return max(0, s.gpu_capacity_bytes - s.device_used_bytes - s.gpu_room_bytes)


def _beyond_torch(s: MemorySample) -> float | None:
    """What is not the allocator's of which an agent tells: that of the worker's own process."""
    if s.gpu_used_bytes is None or s.reserved_bytes is None:
        return None
    return float(max(0, s.gpu_used_bytes - s.reserved_bytes))


def _outside_torch(s: MemorySample) -> float | None:
    """The context, what libraries hold for themselves, and raw allocations.

    0 while ranks are in the driver's figure: no agent says how much of it is their torch's, so nothing is known to lie
    outside. Not None: ranks may come after the first sample, and a figure that stops coming is missing.
    """
    return 0.0 if s.gpu_ranks and s.reserved_bytes is not None else _beyond_torch(s)


def _not_for_tensors(s: MemorySample) -> float:
    """Cached blocks can be given out again, so live tensors may take all that is reserved: but on their own device."""
    cached = (s.reserved_bytes or 0) - (s.allocated_bytes or 0) if _out_of_reach(s) else 0
    return (_beyond_torch(s) or 0.0) + cached


def _beside(part: Callable[[MemorySample], float | None]) -> Callable[[MemorySample], Room | None]:
    """The device, less what other processes have of it, and less this part of the process itself."""

    def room(s: MemorySample) -> Room | None:
        device = _device(s)
        return None if device is None else replace(device, others=device.others + (part(s) or 0))

    return room


FIGURES = (
    Figure(name="allocated_bytes", place="device", of=lambda s: s.allocated_bytes, room=_beside(_not_for_tensors)),
    Figure(name="host_anon_bytes", place="host", of=lambda s: s.host_anon_bytes, room=host_room),
    Figure(name="outside_torch_bytes", place="device", of=_outside_torch, room=_beside(lambda s: s.reserved_bytes)),
    Figure(name="reserved_bytes", place="device", of=lambda s: s.reserved_bytes, room=_beside(_beyond_torch)),
    Figure(name="gpu_used_bytes", place="device", of=lambda s: s.gpu_used_bytes, room=_device),  # the sum of these
    Figure(
        name="fds",
        place="descriptors",
        of=lambda s: s.fds,
        room=lambda s: None if s.fd_limit is None else Room(capacity=float(s.fd_limit)),
        min_gain=MIN_FDS,
    ),
    Figure(name="threads", place="threads", of=lambda s: s.threads, room=lambda _: None, min_gain=MIN_THREADS),
)
"""In the order of trust: of two of one place that leak with the same urgency, the first is told."""
