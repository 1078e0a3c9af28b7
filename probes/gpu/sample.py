"""What leaves this package about the health of a device: plain values, of one device at one moment, and Xid events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from probes.gpu.health import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class XidEvent:
    """A critical error that the driver reported once, about one device. NVML does not say which process it hit."""

    at: float
    uuid: str
    xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One device at one moment, as one target sees it.

    index: NVML's, which nvidia-smi shows; it may change with a reboot. uuid: the device for good; None when not told.
    figures: `health.read_health`; empty when nothing could be read.
    fault: why the device could not be read (a `nvml.GpuFault`); None when it could.
    others: processes on it that are none of the target's; None when it cannot be told who is who.
    """

    index: int
    at: float
    uuid: str | None = None
    name: str | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    fault: str | None = None
    others: int | None = None

    def number(self, name: str) -> float | None:
        """A figure that is a number; None when it is not known."""
        value = self.figures.get(name)
        return value if isinstance(value, (int, float)) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """The devices of a target at one moment.

    fault: why the library or the driver as a whole does not answer; None when it does. call: the call that does not
    return. unresponsive: it is such a call, and no answer came within its deadline.
    xids: reported since the sample before, of all devices of the machine.
    """

    target: str
    at: float
    devices: tuple[DeviceSample, ...] = ()
    fault: str | None = None
    call: str | None = None
    unresponsive: bool = False
    xids: tuple[XidEvent, ...] = ()
