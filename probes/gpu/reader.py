"""Memory on NVIDIA GPUs, by NVML: a value, None where the device does not have such a figure, or a named fault.

A call into a wedged driver may never return; whoever reads must be able to wait without harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from probes.gpu.nvml import GpuFault, Nvml

_MEMORY_V2 = 0x02000028  # nvmlMemory_v2 of nvml.h: version 2 in the high byte, the size of the struct
_NOT_AVAILABLE = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE; broken devices also answer it as an amount of memory


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One GPU at one moment.

    total_bytes, used_bytes: None when unknown; `memory_version` says what "used" means: NVML's v1 counts the driver's
    own reserve, v2 does not. processes: used bytes by pid (None: not told); None when the list could not be had.
    fault: the first thing that went wrong; other figures may still be there.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    total_bytes: int | None = None
    used_bytes: int | None = None
    memory_version: Literal["v1", "v2"] | None = None
    processes: Mapping[int, int | None] | None = None
    fault: GpuFault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """All GPUs at one moment, and what that says about one process. Unknown is None."""

    devices: tuple[DeviceReading, ...] = ()

    def used_by(self, pid: int) -> int | None:
        """Bytes of the process on all its devices; None when no device lists it or one does not tell how much.

        In a container NVML may list host pids only, or none: None then does not mean that nothing is used.
        """
        lists = [device.processes for device in self.devices if device.processes is not None]
        return _sum([listed[pid] for listed in lists if pid in listed])

    def capacity_for(self, pid: int) -> int | None:
        """Memory of the process's devices."""
        return _sum([device.total_bytes for device in self._devices_of(pid)])

    def device_used_for(self, pid: int) -> int | None:
        """What everybody uses on the process's devices."""
        return _sum([device.used_bytes for device in self._devices_of(pid)])

    def _devices_of(self, pid: int) -> list[DeviceReading]:
        """Those that list it; the only one there is where none does."""
        found = [device for device in self.devices if pid in (device.processes or ())]
        return found or (list(self.devices) if len(self.devices) == 1 else [])


@dataclass(slots=True, kw_only=True)
class _Device:
    index: int
    handle: Any = None
    uuid: str | None = None
    name: str | None = None
    fault: GpuFault | None = None


@dataclass(slots=True)
class GpuReader:
    """What the devices of this machine say. Build it with `open`.

    why: what is missing when not `available`. lost: the last reading had no figure of any device.
    driver_version, cuda_version ("13.0"): None when not told.
    """

    why: GpuFault | None = GpuFault.NO_LIBRARY
    driver_version: str | None = None
    cuda_version: str | None = None
    lost: bool = False
    _nvml: Nvml = field(default_factory=Nvml)
    _devices: list[_Device] = field(default_factory=list)

    @classmethod
    def open(cls) -> GpuReader:
        """A reader; on a machine without library, driver or GPU one that is not `available` and reads nothing."""
        nvml = Nvml.open()
        reader = cls(why=nvml.why, _nvml=nvml)
        if reader.why is not None:
            return reader
        reader.driver_version, _ = nvml.call("nvmlSystemGetDriverVersion")
        cuda, _ = nvml.call("nvmlSystemGetCudaDriverVersion")
        reader.cuda_version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        count, reader.why = nvml.call("nvmlDeviceGetCount")
        reader._devices = [reader._open_device(index) for index in range(count or 0)]
        if reader.why is None and not reader._devices:
            reader.why = GpuFault.NO_DEVICE
        return reader

    @property
    def names(self) -> tuple[str, ...]:
        """The types of the devices that told theirs, in NVML's order."""
        return tuple(device.name for device in self._devices if device.name is not None)

    @property
    def available(self) -> bool:
        return self.why is None

    def read(self) -> GpuReading:
        """Memory of every device and the processes on it; no devices when not `available`.

        The list of processes takes the driver's lock for milliseconds: ask every 15 s, not every second.
        """
        reading = GpuReading(devices=tuple(self._read_device(device) for device in self._devices))
        self.lost = bool(reading.devices) and all(device.total_bytes is None for device in reading.devices)
        return reading

    def close(self) -> None:
        """Safe to call twice."""
        self._nvml.close()
        self._devices = []

    def _open_device(self, index: int) -> _Device:
        """A device that cannot be opened keeps its place and hides no other."""
        handle, fault = self._nvml.call("nvmlDeviceGetHandleByIndex", index)
        if handle is None:
            return _Device(index=index, fault=fault)
        uuid, _ = self._nvml.call("nvmlDeviceGetUUID", handle)
        name, _ = self._nvml.call("nvmlDeviceGetName", handle)
        return _Device(index=index, handle=handle, uuid=uuid, name=name)

    def _read_device(self, device: _Device) -> DeviceReading:
        if device.handle is None:
            return DeviceReading(index=device.index, fault=device.fault)
        total, used, version, memory_fault = self._read_memory(device.handle)
        processes, process_fault = self._read_processes(device.handle, total)
        return DeviceReading(
            index=device.index,
            uuid=device.uuid,
            name=device.name,
            total_bytes=total,
            used_bytes=used,
            memory_version=version,
            processes=processes,
            fault=memory_fault or process_fault,
        )

    def _read_memory(self, handle: Any) -> tuple[int | None, int | None, Literal["v1", "v2"] | None, GpuFault | None]:
        """Total, used, version, fault. v2 first: v1's `used` moves with the driver's reserve."""
        version: Literal["v1", "v2"] = "v2"
        memory, fault = self._nvml.call("nvmlDeviceGetMemoryInfo", handle, _MEMORY_V2)
        if fault is not None:
            version = "v1"
            memory, fault = self._nvml.call("nvmlDeviceGetMemoryInfo", handle)
        if memory is None:
            return None, None, None, fault
        total, used = int(memory.total), int(memory.used)
        if not 0 < total < _NOT_AVAILABLE or used > total:
            return None, None, None, GpuFault.IMPLAUSIBLE
        return total, used, version, None

    def _read_processes(
        self, handle: Any, total: int | None
    ) -> tuple[Mapping[int, int | None] | None, GpuFault | None]:
        """Used bytes by pid. The versioned calls are asked by name: the other one hides what went wrong."""
        listed, fault = self._nvml.call("nvmlDeviceGetComputeRunningProcesses_v3", handle)
        if fault is GpuFault.NOT_SUPPORTED:
            listed, fault = self._nvml.call("nvmlDeviceGetComputeRunningProcesses_v2", handle)
        if listed is None:
            return None, fault
        used: Counter[int] = Counter()
        untold: set[int] = set()
        for process in listed:  # a pid comes twice when it works on two slices of the device
            amount = process.usedGpuMemory
            if amount is None or amount >= _NOT_AVAILABLE:
                untold.add(process.pid)
            elif total is not None and amount > total:
                untold.add(process.pid)
                fault = GpuFault.IMPLAUSIBLE
            else:
                used[process.pid] += amount
        return {pid: None if pid in untold else used[pid] for pid in used.keys() | untold}, fault


def _sum(amounts: list[int | None]) -> int | None:
    """None when empty or when one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known and len(known) == len(amounts) else None
