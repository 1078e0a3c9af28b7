"""The NVIDIA management library. The only file that imports pynvml, and only when it is opened.

NVML fails in many ways and none of them may stop the watchdog: every call ends in a value or in a named fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import ModuleType
from typing import Any


class GpuFault(StrEnum):
    """Why a figure is missing. The value is the word in a message."""

    NO_LIBRARY = "no_library"  # pynvml or libnvidia-ml.so.1 is not installed
    NO_DRIVER = "no_driver"
    NO_DEVICE = "no_device"
    VERSION_MISMATCH = "version_mismatch"  # the driver was upgraded under a running kernel module
    NO_PERMISSION = "no_permission"
    NOT_SUPPORTED = "not_supported"
    GPU_LOST = "gpu_lost"
    RESET_REQUIRED = "reset_required"
    TIMEOUT = "timeout"
    IMPLAUSIBLE = "implausible"  # a success that cannot be true: nothing, everything, or more than there is
    FAILED = "failed"


# By NVML's return codes (nvml.h, nvmlReturn_t); what is not named here is FAILED.
_FAULTS: Mapping[int, GpuFault] = {
    3: GpuFault.NOT_SUPPORTED,
    4: GpuFault.NO_PERMISSION,
    9: GpuFault.NO_DRIVER,
    10: GpuFault.TIMEOUT,
    12: GpuFault.NO_LIBRARY,
    13: GpuFault.NOT_SUPPORTED,  # function not found: the driver is older than the call
    15: GpuFault.GPU_LOST,
    16: GpuFault.RESET_REQUIRED,
    18: GpuFault.VERSION_MISMATCH,
    25: GpuFault.NOT_SUPPORTED,  # argument version mismatch: the driver is older than the struct
}


class Nvml:
    """The library, initialised once (doing so for every reading leaks file descriptors). Build it with `open`.

    why: what is missing when it cannot be used; None when it can.
    """

    def __init__(self, why: GpuFault | None = GpuFault.NO_LIBRARY, module: ModuleType | None = None) -> None:
        self.why = why
        self._module = module

    @classmethod
    def open(cls) -> Nvml:
        """The library, initialised; on a machine without library or driver one that answers nothing and says why."""
        try:
            import pynvml as module  # noqa: PLC0415  # a machine without a GPU need not pay for it
        except ImportError:
            return cls()
        nvml = cls(None, module)
        _, nvml.why = nvml.call("nvmlInit")
        return nvml

    def call(self, name: str, *args: Any) -> tuple[Any, GpuFault | None]:
        """The value of a call, or None and why there is none. A call into a wedged driver never returns."""
        if self._module is None:
            return None, self.why
        try:
            return getattr(self._module, name)(*args), None
        except self._module.NVMLError as error:
            return None, _FAULTS.get(getattr(error, "value", 0), GpuFault.FAILED)
        except (self._module.NVMLLibraryMismatchError, AttributeError):  # no NVMLError; an older pynvml
            return None, GpuFault.NOT_SUPPORTED
        except (UnicodeDecodeError, OSError):  # pynvml decodes names, which a broken device may fill with anything
            return None, GpuFault.FAILED

    def close(self) -> None:
        """Safe to call twice."""
        self.call("nvmlShutdown")
        self._module = None
