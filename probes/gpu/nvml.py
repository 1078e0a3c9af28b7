"""The NVIDIA management library. The only file that imports pynvml, and only when it is opened.

NVML fails in many ways and none of them may stop the watchdog: every call ends in a value or in a named fault, or does
not end at all. So it is opened in a process of its own (`probes.gpu.child`), and what is under way can be asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any


class GpuFault(StrEnum):
    """Why a figure is missing. The value is the word in a message."""

    DRIVER_UNRESPONSIVE = "driver_unresponsive"  # a call does not return
    NO_LIBRARY = "no_library"  # pynvml or libnvidia-ml.so.1 is not installed
    NO_DRIVER = "no_driver"  # the kernel module is not loaded
    NO_DEVICE = "no_device"
    VERSION_MISMATCH = "version_mismatch"  # the driver was upgraded under a running kernel module; lasts until a reboot
    NO_PERMISSION = "no_permission"  # a cgroup that hides the device too
    NOT_SUPPORTED = "not_supported"  # by this device or this driver: not worth asking again
    NOT_FOUND = "not_found"
    NOT_READY = "not_ready"
    NO_DATA = "no_data"
    IN_USE = "in_use"
    GPU_LOST = "gpu_lost"  # fell off the bus
    RESET_REQUIRED = "reset_required"
    POWER_CABLE = "power_cable"  # one is missing
    INTERRUPTS = "interrupts"  # the kernel found that the device's do not come
    CORRUPTED_INFOROM = "corrupted_inforom"
    TIMEOUT = "timeout"
    IMPLAUSIBLE = "implausible"  # a success that cannot be true: nothing, everything, or more than there is
    FAILED = "failed"


FUNCTION_NOT_FOUND = 13

FAULTS: Mapping[int, GpuFault] = {
    1: GpuFault.FAILED,  # uninitialized: a mistake of ours
    2: GpuFault.FAILED,  # invalid argument: the same, or a device that is no longer counted
    3: GpuFault.NOT_SUPPORTED,
    4: GpuFault.NO_PERMISSION,
    5: GpuFault.FAILED,  # already initialized: deprecated, no call answers it
    6: GpuFault.NOT_FOUND,
    7: GpuFault.FAILED,  # insufficient size: a list grew between asking for its size and for itself
    8: GpuFault.POWER_CABLE,
    9: GpuFault.NO_DRIVER,
    10: GpuFault.TIMEOUT,
    11: GpuFault.INTERRUPTS,
    12: GpuFault.NO_LIBRARY,
    FUNCTION_NOT_FOUND: GpuFault.NOT_SUPPORTED,  # the driver is older than the call
    14: GpuFault.CORRUPTED_INFOROM,
    15: GpuFault.GPU_LOST,
    16: GpuFault.RESET_REQUIRED,
    17: GpuFault.NO_PERMISSION,  # "blocked by the operating system/cgroups"
    18: GpuFault.VERSION_MISMATCH,
    19: GpuFault.IN_USE,
    20: GpuFault.FAILED,  # out of host memory
    21: GpuFault.NO_DATA,
    22: GpuFault.NOT_SUPPORTED,  # not with ECC on a virtual GPU
    23: GpuFault.FAILED,  # out of some other resource
    24: GpuFault.NOT_SUPPORTED,  # this frequency
    25: GpuFault.NOT_SUPPORTED,  # argument version mismatch: the driver is older than the struct
    26: GpuFault.NOT_SUPPORTED,  # deprecated: the driver is newer than the call
    27: GpuFault.NOT_READY,
    28: GpuFault.NO_DEVICE,
    29: GpuFault.FAILED,  # invalid state
    30: GpuFault.NOT_SUPPORTED,  # this type of reset
    999: GpuFault.FAILED,
}
"""By NVML's return codes (nvmlReturn_t of nvml.h); one that came later is FAILED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """A call that has not returned. since: on the monotonic clock, from when on it should have."""

    name: str
    since: float


class Nvml:
    """The library, initialised once (doing so for every reading leaks file descriptors). Build it with `open`.

    why: what is missing when it cannot be used; None when it can. Any thread may call it.
    """

    def __init__(self, why: GpuFault | None = GpuFault.NO_LIBRARY, module: ModuleType | None = None) -> None:
        self.why = why
        self._module = module
        self._under_way: dict[int, UnderWay] = {}  # by thread
        self._absent: set[tuple[Any, ...]] = set()

    @classmethod
    def load(cls) -> Nvml:
        """pynvml, not initialised; without it a library that answers nothing and says why."""
        try:
            import pynvml as module  # noqa: PLC0415  # a machine without a GPU need not pay for it
        except ImportError:
            return cls()
        return cls(None, module)

    @classmethod
    def open(cls) -> Nvml:
        """The library, initialised; on a machine without library or driver one that answers nothing and says why."""
        nvml = cls.load()
        nvml.initialise()
        return nvml

    def sibling(self) -> Nvml:
        """The same library for another thread, whose calls are told apart."""
        return Nvml(self.why, self._module)

    def initialise(self) -> None:
        """Takes seconds where no process keeps the driver awake (persistence mode is off)."""
        _, self.why = self.call("nvmlInit")

    def call(self, name: str, *args: Any, wait_s: float = 0.0) -> tuple[Any, GpuFault | None]:
        """The value of a call, or None and why there is none. A call into a wedged driver never returns.

        wait_s: how long it may take because it was asked to wait. What the library lacks is looked for only once.
        """
        if self._module is None:
            return None, self.why
        asked = (name, *(a for a in args if isinstance(a, int)))  # the version of a struct chooses the function too
        if asked in self._absent:
            return None, GpuFault.NOT_SUPPORTED
        thread = threading.get_ident()
        self._under_way[thread] = UnderWay(name=name, since=time.monotonic() + wait_s)
        try:
            return getattr(self._module, name)(*args), None
        except self._module.NVMLError as error:
            code = getattr(error, "value", 0)
            if code == FUNCTION_NOT_FOUND:
                self._absent.add(asked)
            return None, FAULTS.get(code, GpuFault.FAILED)
        except (self._module.NVMLLibraryMismatchError, AttributeError):  # no NVMLError; an older pynvml
            self._absent.add(asked)
            return None, GpuFault.NOT_SUPPORTED
        except (UnicodeDecodeError, OSError):  # pynvml decodes names, which a broken device may fill with anything
            return None, GpuFault.FAILED
        finally:
            del self._under_way[thread]

    def first(self, *calls: tuple[Any, ...]) -> tuple[Any, GpuFault | None]:
        """The first of these calls, each (name, argument, ...), that is supported: name the newest first."""
        value: Any = None
        fault: GpuFault | None = GpuFault.NOT_SUPPORTED
        for call in calls:
            value, fault = self.call(*call)
            if fault is not GpuFault.NOT_SUPPORTED:
                break
        return value, fault

    def slowest(self) -> UnderWay | None:
        """The call that should have returned first and has not; None when none is under way."""
        return min(list(self._under_way.values()), key=lambda call: call.since, default=None)

    def close(self) -> None:
        """Safe to call twice."""
        self.call("nvmlShutdown")
        self._module = None
