"""The health of a target's devices: what of a reading of all GPUs is about one target, as plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from probes.gpu.nvml import GpuFault
from probes.gpu.reading import DeviceReading, Figure, GpuReading, Xid


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One GPU at one moment, as one target sees it.

    index: NVML's, which nvidia-smi shows; it may change with a reboot. uuid: the device for good; None when not told.
    at: when its health was read. figures: `health.read_health`; empty when nothing could be read.
    fault: why the device could not be read; None when it could. others: processes on it, or on the target's slices of
    it, that are none of the target's; None when it cannot be told who is who. canaries: those of them that the watchdog
    started itself, to run models apart from their servers.
    """

    index: int
    at: float
    uuid: str | None = None
    name: str | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    fault: str | None = None
    others: int | None = None
    canaries: int = 0

    @property
    def failed(self) -> str | None:
        """What went wrong when it was read, wholly or in part; None when nothing did."""
        why = self.fault or self.figures.get("fault")
        return None if why is None else str(why)

    @property
    def told(self) -> frozenset[str]:
        """The names of the figures that are numbers."""
        return frozenset(name for name in self.figures if self.number(name) is not None)

    def number(self, name: str) -> float | None:
        """A figure that is a number; None when it is not known."""
        value = self.figures.get(name)
        return value if isinstance(value, (int, float)) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """The devices of a target at one moment.

    fault: why the library, or the driver, does not answer as far as this target is concerned; None when it does.
    call: the call that does not return. stuck_s: for how long it has not, when it is that.
    xids: the last ones of all devices of the machine, oldest first; those of the sample before may be among them.
    """

    target: str
    at: float
    devices: tuple[DeviceSample, ...] = ()
    fault: str | None = None
    call: str | None = None
    stuck_s: float | None = None
    xids: tuple[Xid, ...] = ()


def sample_of(
    reading: GpuReading,
    *,
    target: str,
    pids: frozenset[int],
    all_its_own: bool,
    now: float,
    started: Collection[int] = (),
) -> GpuSample:
    """What a reading says about a target.

    pids: of its workers. started: pids of our own children. all_its_own: the devices of the reading are known
    to be the target's; else only one that is the only GPU of the machine is taken for it. A call that hangs on somebody
    else's device does not concern it.
    """
    gpus = [d for d in reading.devices if d.parent is None]
    parts = {gpu.index: [d for d in reading.devices if d.index == gpu.index] for gpu in gpus}
    used = gpus if all_its_own or len(gpus) == 1 else []
    fault, call, stuck_s = reading.fault, reading.call, reading.stuck_s
    if stuck_s is not None and used and not any(gpu.fault is GpuFault.DRIVER_UNRESPONSIVE for gpu in used):
        fault, call, stuck_s = None, None, None
    return GpuSample(
        target=target,
        at=now,
        devices=tuple(_device(gpu, parts[gpu.index], pids, started, now) for gpu in used),
        fault=fault,
        call=call,
        stuck_s=stuck_s,
        xids=reading.xids,
    )


def _device(
    gpu: DeviceReading, parts: Sequence[DeviceReading], pids: frozenset[int], started: Collection[int], now: float
) -> DeviceSample:
    listed = [set(d.processes) for d in parts if d.processes is not None and pids & set(d.processes)]
    age_s = gpu.processes_age_s if gpu.figures and gpu.processes_age_s is not None else gpu.age_s
    return DeviceSample(
        index=gpu.index,
        at=now - age_s if gpu.figures else now,
        uuid=gpu.uuid,
        name=gpu.name,
        figures=gpu.figures,
        fault=gpu.fault if not gpu.figures else None,
        others=sum(len(each - pids) for each in listed) if listed else None,
        canaries=sum(len(each & set(started)) for each in listed),
    )


def vbios_of(reading: GpuReading) -> str | None:
    """The VBIOS versions of the GPUs, each once; None while one that answers does not tell its own."""
    told = [d.figures.get("vbios_version") for d in reading.devices if d.parent is None and d.fault is None]
    return ", ".join(sorted({str(version) for version in told})) if told and None not in told else None
