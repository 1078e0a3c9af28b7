"""What is known of the GPUs at any moment, between the thread that reads them and those who ask."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from probes.gpu.nvml import GpuFault
from probes.gpu.reading import DeviceReading, GpuReading, Xid

LOST = (GpuFault.GPU_LOST, GpuFault.RESET_REQUIRED)
_XIDS_KEPT = 1000


@dataclass(slots=True, kw_only=True)
class Place:
    """The GPU with one index, and its slices as they were read last; `listed`: when their lists were read last, too.
    Times are monotonic; None: never. due: for the next reading."""

    index: int
    devices: tuple[DeviceReading, ...] = ()
    listed: tuple[DeviceReading, ...] = ()
    read_at: float | None = None
    listed_at: float | None = None
    due: float = 0.0

    @property
    def uuids(self) -> frozenset[str] | None:
        """Of the GPU and its slices; None while not known."""
        return frozenset(d.uuid for d in self.devices if d.uuid is not None) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A call that does not return. index: of the GPU it is about; None when it is about none, or nobody knows."""

    call: str
    index: int | None
    since: float


class Known:
    """Any thread may call it. stale_s: from this age on a reading is none."""

    def __init__(self, *, stale_s: float) -> None:
        self._stale_s = stale_s
        self._lock = threading.Lock()
        self._why: GpuFault | None = None
        self._places: list[Place] = []
        self._gpus: dict[str, DeviceReading] = {}  # every one that was ever seen, by UUID
        self._stuck: Stuck | None = None
        self._xids: deque[Xid] = deque(maxlen=_XIDS_KEPT)
        self._xid_counts: Counter[tuple[str, int]] = Counter()
        self._xid_watched: frozenset[str] = frozenset()
        self.driver_version: str | None = None
        self.cuda_version: str | None = None

    @property
    def why(self) -> GpuFault | None:
        return GpuFault.DRIVER_UNRESPONSIVE if self._stuck is not None else self._why

    @property
    def stuck(self) -> Stuck | None:
        return self._stuck

    @property
    def names(self) -> tuple[str, ...]:
        """The types of all GPUs that were ever seen."""
        with self._lock:
            return tuple(gpu.name for gpu in self._gpus.values() if gpu.name is not None)

    @property
    def complete(self) -> bool:
        """Whether every GPU was read at least once."""
        with self._lock:
            return all(place.read_at is not None for place in self._places)

    def waiting(self, now: float) -> list[Place]:
        """Places that are due, the longest wait first."""
        with self._lock:
            return sorted((p for p in self._places if p.due <= now), key=lambda p: p.due)

    def next_due(self) -> float:
        """When the next reading is due; for ever where there is no GPU."""
        with self._lock:
            return min((place.due for place in self._places), default=math.inf)

    def open(self, count: int, driver: str | None, cuda: str | None) -> None:
        """NVML was opened and counts so many GPUs; a GPU that is counted no more leaves its place to the next one, and
        nobody will be asked again where a call hung on it."""
        with self._lock:
            if self._stuck is not None and self._stuck.index is not None and self._stuck.index >= count:
                self._stuck = None
            self._why = None
            self.driver_version, self.cuda_version = driver, cuda
            before = {place.index: place for place in self._places}
            self._places = [before.get(index, Place(index=index)) for index in range(count)]

    def shut(self, why: GpuFault) -> None:
        """NVML cannot be used."""
        with self._lock:
            self._why = why

    def expire(self, now: float) -> None:
        """Everything is due now, the lists too."""
        with self._lock:
            for place in self._places:
                place.due, place.listed_at = min(place.due, now), None

    def listed_since(self, at: float) -> bool:
        with self._lock:
            return all(place.listed_at is not None and place.listed_at >= at for place in self._places)

    def suspect(self, place: Place, *, until: float) -> None:
        """Leave it alone until then, for the sake of the others; where there are none it may as well be asked."""
        with self._lock:
            place.due = until if len(self._places) > 1 else place.due

    def take(self, place: Place, devices: Sequence[DeviceReading], *, lists: bool, now: float, due: float) -> bool:
        """A reading. True when the driver was stuck and with this is no more. lists: processes and health came too."""
        with self._lock:
            lost = {d.uuid for d in devices if d.fault in LOST}
            place.listed = tuple(devices) if lists else tuple(d for d in place.listed if d.uuid not in lost)
            place.devices = tuple(_with_lists(d, place.listed) for d in devices)
            place.read_at, place.due = now, due
            place.listed_at = now if lists else place.listed_at
            self._gpus |= {d.uuid: self._numbered(d) for d in devices if d.uuid is not None and d.parent is None}
            if self._stuck is None or self._stuck.index not in (None, place.index):
                return False
            self._stuck = None
            return True

    def hang(self, stuck: Stuck) -> None:
        with self._lock:
            self._stuck = stuck

    def take_xid(self, xid: Xid) -> None:
        with self._lock:
            self._xids.append(xid)
            self._xid_counts[xid.device, xid.xid] += 1

    def watch_xids(self, uuids: Iterable[str]) -> None:
        with self._lock:
            self._xid_watched = frozenset(uuids)

    def reading(self, now: float) -> GpuReading:
        with self._lock:
            devices = [d for place in self._places for d in self._shown(place, now)]
            told = {d.uuid for d in devices}
            gone = [d.emptied(GpuFault.GPU_LOST) for uuid, d in self._gpus.items() if uuid not in told]
            if gone:
                devices = [self._numbered(d) for d in devices]
            return GpuReading(
                devices=tuple(devices + gone),
                fault=self.why,
                call=None if self._stuck is None else self._stuck.call,
                stuck_s=None if self._stuck is None else now - self._stuck.since,
                xids=tuple(self._xids),
                xid_counts=dict(self._xid_counts),
                xid_watched=self._xid_watched,
            )

    def _numbered(self, device: DeviceReading) -> DeviceReading:
        """While a GPU is counted no more, the others keep the numbers that they had: each is one GPU's."""
        before = self._gpus.get(device.parent or device.uuid or "")
        told = {d.uuid for place in self._places for d in place.devices}
        return device if before is None or self._gpus.keys() <= told else replace(device, index=before.index)

    def _shown(self, place: Place, now: float) -> tuple[DeviceReading, ...]:
        """With their ages; without figures when they are too old, when a call about them hangs, or without NVML."""
        if place.read_at is None:
            return (DeviceReading(index=place.index, fault=self.why or GpuFault.NOT_READY),)
        age_s = now - place.read_at
        stuck = self._stuck if self._stuck is not None and self._stuck.index in (None, place.index) else None
        if stuck is not None or self._why is not None or age_s > self._stale_s:
            fault, call = self.why or GpuFault.TIMEOUT, None if stuck is None else stuck.call
            return tuple(replace(d.emptied(fault, call), age_s=age_s) for d in place.devices)
        listed_s = None if place.listed_at is None else now - place.listed_at
        return tuple(
            replace(d, age_s=age_s, processes_age_s=None if d.processes is None else listed_s) for d in place.devices
        )


def _with_lists(device: DeviceReading, listed: Sequence[DeviceReading]) -> DeviceReading:
    """With the processes and the health that were read last, and with what was wrong with them: they are asked for more
    rarely than memory is. A GPU that was lost since has none."""
    last = next((d for d in listed if d.uuid == device.uuid), None)
    if last is None or device.fault in LOST:
        return device
    device = replace(device, processes=last.processes, figures=last.figures)
    if device.fault is None and last.lists_failed:
        return replace(device, fault=last.fault, call=last.call)
    return device
