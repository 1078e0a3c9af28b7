"""What is read of GPUs at one moment: plain values, also on their way from the child to the daemon. Unknown is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from probes.gpu.nvml import GpuFault

Figure = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One GPU, or one MIG device: a slice of a GPU with memory and processes of its own.

    index: NVML's, of the GPU. parent: the UUID of the GPU of which this is a slice; None for a GPU. sliced: MIG is on:
    work runs on the slices and their lists of processes count.
    total_bytes, used_bytes: `memory_version` says what "used" means: NVML's v1 counts the driver's own reserve, v2 does
    not. processes: used bytes by pid (None: not told); None when the list could not be had.
    fault: the first thing that went wrong, and the call it was; other figures may still be there.
    figures: health of a GPU by the name of the figure (`probes.gpu.health`); empty for a slice.
    took_s: how long the driver was asked. age_s, processes_age_s: how old the reading is, and its list of processes.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    parent: str | None = None
    sliced: bool = False
    total_bytes: int | None = None
    used_bytes: int | None = None
    memory_version: Literal["v1", "v2"] | None = None
    processes: Mapping[int, int | None] | None = None
    fault: GpuFault | None = None
    call: str | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    took_s: float | None = None
    age_s: float = 0.0
    processes_age_s: float | None = None

    @property
    def lists_failed(self) -> bool:
        """The fault is that of a list of processes, and not of the GPU."""
        ours = self.call is not None and self.call.endswith("RunningProcesses")
        return ours and self.fault not in (GpuFault.GPU_LOST, GpuFault.RESET_REQUIRED)

    def emptied(self, fault: GpuFault, call: str | None = None) -> DeviceReading:
        """The device without figures, and why."""
        return DeviceReading(
            index=self.index,
            uuid=self.uuid,
            name=self.name,
            parent=self.parent,
            sliced=self.sliced,
            fault=fault,
            call=call,
            age_s=self.age_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """An error event of the driver. at: Unix seconds, when it was delivered. device: UUID. xid: NVIDIA's number."""

    at: float
    device: str
    xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """All GPUs and their MIG devices at one moment.

    devices: each GPU is followed by its slices. Empty when NVML cannot be used, `fault` says why.
    fault: what stands in the way of all devices, or DRIVER_UNRESPONSIVE while a call does not return; `call` names it
    and `stuck_s` says for how long. A fault of one device alone stands with that device.
    xids: the last ones, oldest first; xid_counts: all since the reader started, by (UUID, number). A repeat of the same
    number is an event of its own. xid_watched: UUIDs of the devices that tell their Xids; for others, no news is none.
    """

    devices: tuple[DeviceReading, ...] = ()
    fault: GpuFault | None = None
    call: str | None = None
    stuck_s: float | None = None
    xids: tuple[Xid, ...] = ()
    xid_counts: Mapping[tuple[str, int], int] = field(default_factory=dict)
    xid_watched: frozenset[str] = frozenset()


def encode(reading: DeviceReading) -> dict[str, Any]:
    """For JSON, which has no numbers as keys."""
    plain = asdict(reading)
    if reading.processes is not None:
        plain["processes"] = list(reading.processes.items())
    return plain


def decode(plain: Mapping[str, Any]) -> DeviceReading:
    """The reading again. Raises KeyError, TypeError or ValueError for anything else."""
    listed, fault = plain["processes"], plain["fault"]
    return replace(
        DeviceReading(**plain),
        fault=None if fault is None else GpuFault(fault),
        processes=None if listed is None else {int(pid): used for pid, used in listed},
    )
