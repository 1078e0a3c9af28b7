"""One target's part of the GPUs: which devices are its own, and what its workers hold there."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from probes.gpu.attribution import PidView, Share, attribute
from probes.gpu.reader import GpuReader
from probes.gpu.reading import DeviceReading, GpuReading
from probes.host import Host
from probes.messages import Life, MemorySample

_CONTAINER: Mapping[PidView | None, str] = {
    PidView.NO_AMOUNTS: "NVML lists its workers without their memory",
    PidView.FOREIGN_PIDS: "NVML lists pids of another namespace",
    PidView.EMPTY: "NVML lists nobody on a GPU that is in use",
}


class TargetGpu:
    """May be asked from several threads.

    devices: UUIDs or NVML's indices of the target's GPUs or MIG devices; empty: found by the pids of its workers.
    """

    def __init__(self, reader: GpuReader, *, devices: Sequence[str | int] = (), host: Host | None = None) -> None:
        self.reader = reader
        self._configured = tuple(devices)
        self._host = host or Host()
        self._lock = threading.Lock()
        self._devices: frozenset[str] | None = None
        self._view: PidView | None = None
        self._is_used = False
        self._told: set[str] = set()  # lives of which NVML told memory: these are never estimated

    @property
    def view(self) -> PidView | None:
        """What NVML's lists said of the workers when they were last asked about; None: not yet."""
        return self._view

    @property
    def is_used(self) -> bool:
        """Whether a worker was ever seen on a GPU."""
        return self._is_used

    @property
    def names(self) -> tuple[str, ...]:
        """The types of its devices, of all GPUs where none is configured; what was told once is known for good."""
        if not self._configured:
            return self.reader.names
        return tuple(device.name for device in self.reading().devices if device.name is not None)

    @property
    def lost(self) -> bool:
        """None of its devices has a figure, or one that is configured is not there."""
        reading = self.reading()
        return self.missing() != () or all(d.total_bytes is None for d in reading.devices)

    def reading(self) -> GpuReading:
        """What is read of its devices; of all where it is not known which they are."""
        reading = self.reader.read()
        found = attribute(reading, [], configured=self._configured, existing=()).devices if self._configured else None
        mine = found or self._devices
        if mine is None:
            return reading if not self._configured else replace(reading, devices=())
        return replace(reading, devices=tuple(d for d in reading.devices if d.uuid in mine))

    @property
    def knows_devices(self) -> bool:
        """Whether `reading` is of its devices alone."""
        return bool(self._configured) or self._devices is not None

    def missing(self) -> tuple[str | int, ...]:
        """Configured devices that NVML does not tell of; empty while it tells of none."""
        reading = self.reader.read()
        if not reading.devices:
            return ()
        return attribute(reading, [], configured=self._configured, existing=()).missing

    def note(self) -> str | None:
        """Whether a container hides who uses how much, in words; None when it does not."""
        words = _CONTAINER.get(self._view)
        return None if words is None else f"{words} ({self._view}), as in a container; see docs/gpu.md"

    def burst(self) -> AbstractContextManager[None]:
        """While a canary measures the target its devices are not read; all of them where its workers are on none."""
        self.reader.wait_ready()
        found = self._devices if self._view is not PidView.ABSENT else None
        mine = {d.uuid for d in self.reading().devices if d.uuid is not None} if self._configured else found
        return self.reader.burst(frozenset(mine) if mine else None)

    def complete(
        self, samples: Sequence[MemorySample], workers: Mapping[int, Life], helpers: Mapping[Life, Collection[Life]]
    ) -> list[MemorySample]:
        """The samples of these workers, by slot, with what they hold on the GPU. What is not known stays None.

        helpers: of each worker the processes below it; those that NVML lists are its ranks, whose memory is its own.
        A life's memory is either told by NVML or estimated: the two differ, and a step from one to the other would look
        like a leak. Where the worker's own allocator was asked already (reserved_bytes), nothing is estimated.
        """
        self.reader.wait_ready()
        reading = self.reader.read()
        lives = [workers[sample.slot] for sample in samples]
        listed = {pid for device in reading.devices for pid in device.processes or ()}
        found = attribute(
            reading,
            [(life.pid, *self._host.namespace_pids(life.pid)) for life in lives],
            configured=self._configured,
            existing=frozenset(self._host.pids()),
            ranks=[listed & {helper.pid for helper in helpers[life]} for life in lives],
            before=self._devices,
            pids_seen=self._is_used,
        )
        with self._lock:
            self._devices, self._view = found.devices, found.view
            self._is_used = self._is_used or found.view in (PidView.SEEN, PidView.NO_AMOUNTS)
            told = {life.key for life, s in zip(lives, found.shares, strict=True) if s.used_bytes and not s.estimated}
            self._told = {key for key in self._told if key in {life.key for life in lives}} | told
            known = self._told

        def own(sample: MemorySample, life: Life, share: Share) -> MemorySample:
            knows_better = life.key in known or sample.reserved_bytes is not None
            if share.used_bytes is None or (share.estimated and knows_better):
                return sample
            return replace(sample, gpu_used_bytes=share.used_bytes, gpu_ratio=share.ratio, gpu_ranks=share.ranks)

        return [
            replace(
                own(sample, life, share),
                gpu_capacity_bytes=share.capacity_bytes,
                device_used_bytes=share.device_used_bytes,
                gpu_room_bytes=share.room_bytes,
            )
            for sample, life, share in zip(samples, lives, found.shares, strict=True)
        ]


def describe(devices: Sequence[DeviceReading]) -> str:
    """Their types and faults, on one line."""
    return ", ".join(f"{d.name or f'GPU {d.index}'}{f' ({d.fault})' if d.fault else ''}" for d in devices)
