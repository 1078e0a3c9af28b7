"""What of a worker may leak: each figure with where it is read and what it fills. One table of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from probes.messages import MemorySample

MIN_FDS = 48.0  # over a window: two an hour at the default; pools and keep-alive connections move by tens
MIN_THREADS = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """capacity: what can be had at most; others: what somebody else has of it now. The figure's unit."""

    capacity: float
    others: float = 0.0

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


def _host(s: MemorySample) -> Room | None:
    """A cgroup is full when all in it together reach the limit; the machine, when it has nothing left to give."""
    if s.capacity_bytes is None:
        return None
    used = s.host_anon_bytes or 0
    in_the_cgroup = (s.cgroup_bytes or 0) - used
    on_the_machine = 0 if s.available_bytes is None else s.capacity_bytes - s.available_bytes - used
    return Room(capacity=float(s.capacity_bytes), others=float(max(0, in_the_cgroup, on_the_machine)))


def _device(s: MemorySample) -> Room | None:
    if s.gpu_capacity_bytes is None:
        return None
    known = s.device_used_bytes is not None and s.gpu_used_bytes is not None
    others = (s.device_used_bytes or 0) - (s.gpu_used_bytes or 0) if known else 0
    return Room(capacity=float(s.gpu_capacity_bytes), others=float(max(0, others)))


def _outside_torch(s: MemorySample) -> float | None:
    """The context, what libraries hold for themselves, and raw allocations."""
    if s.gpu_used_bytes is None or s.reserved_bytes is None:
        return None
    return float(max(0, s.gpu_used_bytes - s.reserved_bytes))


def _beside(part: Callable[[MemorySample], float | None]) -> Callable[[MemorySample], Room | None]:
    """The device, less what other processes have of it, and less this part of the process itself."""

    def room(s: MemorySample) -> Room | None:
        device = _device(s)
        return None if device is None else Room(capacity=device.capacity, others=device.others + (part(s) or 0))

    return room


# Cached blocks can be given out again, so live tensors may take all that is reserved.
_torch = _beside(_outside_torch)

FIGURES = (
    Figure(name="allocated_bytes", place="device", of=lambda s: s.allocated_bytes, room=_torch),
    Figure(name="host_anon_bytes", place="host", of=lambda s: s.host_anon_bytes, room=_host),
    Figure(name="outside_torch_bytes", place="device", of=_outside_torch, room=_beside(lambda s: s.reserved_bytes)),
    Figure(name="reserved_bytes", place="device", of=lambda s: s.reserved_bytes, room=_torch),
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
