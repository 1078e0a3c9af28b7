"""Reads one GPU and its MIG devices by NVML. Runs in the child process: any call may never return."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from probes.gpu.health import ANSWERED, Memo, read_health
from probes.gpu.nvml import GpuFault, Nvml
from probes.gpu.reading import DeviceReading

_MEMORY_V2 = 0x02000028  # nvmlMemory_v2 of nvml.h: version 2 in the high byte, the size of the struct
_NOT_AVAILABLE = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE; broken devices also answer it as an amount of memory
_LISTS = ("Compute", "MPSCompute", "Graphics")  # under MPS a client stands in the second; a desktop in the third
_OF_THE_CALL = {GpuFault.NOT_SUPPORTED, GpuFault.NO_PERMISSION, GpuFault.IMPLAUSIBLE}
_LOST = {GpuFault.GPU_LOST, GpuFault.RESET_REQUIRED}
_NO_SLICE = {GpuFault.NOT_FOUND, *_OF_THE_CALL}  # NOT_FOUND: an empty slot


class Device:
    """One GPU by its index. A handle that failed is thrown away: a GPU that comes back has another one."""

    def __init__(self, nvml: Nvml, index: int) -> None:
        self._nvml = nvml
        self._index = index
        self._handle: Any = None
        self._whole = _Part(nvml, DeviceReading(index=index))
        self._slices: dict[str | None, _Part] = {}  # by UUID
        self._lost: GpuFault | None = None
        self._memo: Memo = {}

    def read(self, *, processes: bool, health: bool) -> list[DeviceReading]:
        """The GPU, then each of its slices.

        processes: their lists too, and which slices there are: this takes the driver's lock for milliseconds.
        health: the figures of `probes.gpu.health` too.
        """
        began = time.monotonic()
        if self._handle is None:
            fault = self._open()
            if fault is not None:
                return self._emptied(fault, "nvmlDeviceGetHandleByIndex")
        elif processes:
            self._find_slices()
        whole = self._whole.read(processes=processes and not self._whole.known.sliced)
        figures = (
            read_health(self._nvml, self._handle, self._memo) if health and whole.fault is not GpuFault.GPU_LOST else {}
        )
        if whole.fault is not None and whole.fault not in _OF_THE_CALL:
            self._handle = None
            self._lost = whole.fault if whole.fault in _LOST else None
        if self._lost is not None:
            whole, *slices = self._emptied(self._lost, whole.call)
        else:
            slices = [part.read(processes=processes) for part in self._slices.values()]
        return [replace(whole, figures=figures, took_s=time.monotonic() - began), *slices]

    def _emptied(self, fault: GpuFault, call: str | None) -> list[DeviceReading]:
        return [part.known.emptied(fault, call) for part in (self._whole, *self._slices.values())]

    def _open(self) -> GpuFault | None:
        """What is in the way; None when the device can be asked. One that was lost is lost until it is found again."""
        handle, fault = self._nvml.call("nvmlDeviceGetHandleByIndex", self._index)
        if handle is None:
            return self._lost or fault
        self._handle, self._lost = handle, None
        self._memo = {ANSWERED: self._memo.get(ANSWERED, set())}
        self._whole.open(handle)
        self._find_slices()
        return None

    def _find_slices(self) -> None:
        """Which there are may change at any time. What was learned of one that stays is kept; a question that failed is
        no answer that there is none."""
        mode, fault = self._nvml.call("nvmlDeviceGetMigMode", self._handle)
        if fault is not None and fault not in _NO_SLICE:
            return
        is_on = mode is not None and mode[0] == 1
        self._whole.known = replace(self._whole.known, sliced=is_on)
        most, fault = self._nvml.call("nvmlDeviceGetMaxMigDeviceCount", self._handle) if is_on else (0, None)
        found = dict(self._slices) if most is None and fault not in _NO_SLICE else {}
        for slot in range(most or 0):
            handle, fault = self._nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", self._handle, slot)
            if handle is None:
                found = found if fault in _NO_SLICE else self._slices | found
                continue
            part = _Part(self._nvml, DeviceReading(index=self._index, parent=self._whole.known.uuid))
            part.open(handle)
            if (before := self._slices.get(part.known.uuid)) is not None:
                part.version = before.version
            found[part.known.uuid] = part
        self._slices = found


class _Part:
    """What has memory and processes of its own: a GPU, or a slice of one."""

    def __init__(self, nvml: Nvml, known: DeviceReading) -> None:
        self._nvml = nvml
        self._handle: Any = None
        self.known = known
        self.version: Literal["v1", "v2"] | None = None  # the one that answered; the two are never mixed

    def open(self, handle: Any) -> None:
        uuid, _ = self._nvml.call("nvmlDeviceGetUUID", handle)
        name, _ = self._nvml.call("nvmlDeviceGetName", handle)
        self._handle = handle
        self.known = replace(self.known, uuid=uuid or self.known.uuid, name=name or self.known.name)

    def read(self, *, processes: bool) -> DeviceReading:
        reading = self._read_memory()
        if not processes or reading.fault in _LOST:
            return reading
        used, fault, call = self._read_processes(reading.total_bytes)
        if reading.fault is None and fault is not None:
            reading = replace(reading, fault=fault, call=call)
        return replace(reading, processes=used, processes_age_s=0.0)

    def _read_memory(self) -> DeviceReading:
        """v2 first: v1's `used` moves with the driver's reserve. (On WSL v2 fails with an unknown error.)"""
        version: Literal["v1", "v2"] = self.version or "v2"
        memory, fault = self._ask_memory(version)
        if fault is not None and self.version is None and fault not in _LOST:
            version = "v1"
            memory, fault = self._ask_memory(version)
        if memory is None:
            return replace(self.known, fault=fault, call="nvmlDeviceGetMemoryInfo")
        total, used = int(memory.total), int(memory.used)
        if not 0 < total < _NOT_AVAILABLE or used > total:
            return replace(self.known, fault=GpuFault.IMPLAUSIBLE, call="nvmlDeviceGetMemoryInfo")
        self.version = version
        return replace(self.known, total_bytes=total, used_bytes=used, memory_version=version)

    def _ask_memory(self, version: Literal["v1", "v2"]) -> tuple[Any, GpuFault | None]:
        extra = (_MEMORY_V2,) if version == "v2" else ()
        return self._nvml.call("nvmlDeviceGetMemoryInfo", self._handle, *extra)

    def _read_processes(self, total: int | None) -> tuple[Mapping[int, int | None] | None, GpuFault | None, str | None]:
        """Used bytes by pid; what went wrong, and in which call. The list of compute processes is the one that counts:
        without it there is none."""
        found: dict[int, int | None] | None = None
        fault: GpuFault | None = None
        for kind in _LISTS:
            name = f"nvmlDeviceGet{kind}RunningProcesses"
            rows, problem = self._ask_processes(name)
            if rows is not None:
                listed, problem = _by_pid(rows, total)
                found = listed if found is None else _merged(found, listed)
            if problem is not None and fault is None and (kind == _LISTS[0] or problem is not GpuFault.NOT_SUPPORTED):
                fault, call = problem, name
            if kind == _LISTS[0] and rows is None:
                return None, fault, name
        return found, fault, call if fault is not None else None

    def _ask_processes(self, name: str) -> tuple[Any, GpuFault | None]:
        """The versioned calls are asked by name: the other one hides what went wrong."""
        return self._nvml.first((f"{name}_v3", self._handle), (f"{name}_v2", self._handle))


def _by_pid(rows: Any, total: int | None) -> tuple[dict[int, int | None], GpuFault | None]:
    """A pid comes twice when it works on two slices. More than the device has is refused: some shift columns."""
    found: dict[int, int | None] = {}
    fault = None
    for row in rows:
        used = row.usedGpuMemory
        if used is not None and used >= _NOT_AVAILABLE:
            used = None
        if row.pid in found:
            before = found[row.pid]
            used = None if before is None or used is None else before + used
        if used is not None and total is not None and used > total:
            used, fault = None, GpuFault.IMPLAUSIBLE
        found[row.pid] = used
    return found, fault


def _merged(found: Mapping[int, int | None], more: Mapping[int, int | None]) -> dict[int, int | None]:
    """One process in two lists is one process, and each list tells all that it uses."""
    both = {pid: [u for u in (found.get(pid), more.get(pid)) if u is not None] for pid in found.keys() | more.keys()}
    return {pid: max(used, default=None) for pid, used in both.items()}
