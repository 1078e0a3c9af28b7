"""Waits for the driver's Xid events. Runs in the child process, on a thread of its own.

Each is delivered once, to whoever is registered at that moment: what happens while nobody waits is lost.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from probes.gpu.nvml import GpuFault, Nvml
from probes.gpu.reading import Xid

XID = 0x8  # nvmlEventTypeXidCriticalError
SLICE_S = 5.0  # of waiting: so often it is seen whether the call still returns
AGAIN_S = 30.0  # after a failure: a lost device fails the wait for all others of its set


class XidWatch(threading.Thread):
    """on_watched: told the UUIDs of the devices that tell theirs, at each new beginning. on_xid: each event."""

    def __init__(
        self,
        nvml: Nvml,
        count: int,
        *,
        on_watched: Callable[[list[str]], None],
        on_xid: Callable[[Xid], None],
        again_s: float = AGAIN_S,
    ) -> None:
        super().__init__(name="xid", daemon=True)
        self._nvml = nvml
        self._count = count
        self._on_watched = on_watched
        self._on_xid = on_xid
        self._again_s = again_s

    def run(self) -> None:
        while True:
            events, fault = self._nvml.call("nvmlEventSetCreate")
            if fault is GpuFault.NOT_SUPPORTED:
                return
            if fault is None:
                devices = self._register(events)
                self._on_watched(list(devices.values()))
                if devices:
                    self._wait(events, devices)
                self._nvml.call("nvmlEventSetFree", events)
            time.sleep(self._again_s)

    def _register(self, events: Any) -> dict[int, str]:
        """UUIDs by handle: an event names its device by handle, and a lost device no longer tells its UUID."""
        devices = {}
        for index in range(self._count):
            handle, _ = self._nvml.call("nvmlDeviceGetHandleByIndex", index)
            if handle is None:
                continue
            uuid, _ = self._nvml.call("nvmlDeviceGetUUID", handle)
            types, _ = self._nvml.call("nvmlDeviceGetSupportedEventTypes", handle)
            if uuid is None or types is None or not types & XID:
                continue
            _, fault = self._nvml.call("nvmlDeviceRegisterEvents", handle, XID, events)
            if fault is None:
                devices[_address(handle)] = uuid
        return devices

    def _wait(self, events: Any, devices: dict[int, str]) -> None:
        """Until the wait fails."""
        while True:
            event, fault = self._nvml.call("nvmlEventSetWait_v2", events, int(SLICE_S * 1000), wait_s=SLICE_S)
            if fault is None and event.eventType == XID:
                uuid = devices.get(_address(event.device))
                if uuid is not None:
                    self._on_xid(Xid(at=time.time(), device=uuid, xid=int(event.eventData)))
            elif fault is not None and fault is not GpuFault.TIMEOUT:
                return


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
