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
AGAIN_MAX_S = 300.0  # it doubles up to this while none can be waited for


class XidWatch(threading.Thread):
    """may_register: returns when devices may be asked about, before each beginning. on_watched: told that this is done,
    with the UUIDs of the devices that tell theirs; that there are none while nobody waits. on_xid: each event.

    It ends where no device tells any: asking again would only disturb what is measured on them.
    """

    def __init__(
        self,
        nvml: Nvml,
        count: int,
        *,
        may_register: Callable[[], None],
        on_watched: Callable[[list[str]], None],
        on_xid: Callable[[Xid], None],
        again_s: float = AGAIN_S,
    ) -> None:
        super().__init__(name="xid", daemon=True)
        self._nvml = nvml
        self._count = count
        self._may_register = may_register
        self._on_watched = on_watched
        self._on_xid = on_xid
        self._again_s = again_s

    def run(self) -> None:
        again_s, events = self._again_s, None
        while True:
            self._may_register()
            if events is not None:
                self._nvml.call("nvmlEventSetFree", events)
            events, fault = self._nvml.call("nvmlEventSetCreate")
            devices, mute = self._register(events) if fault is None else ({}, 0)
            is_over = fault is GpuFault.NOT_SUPPORTED or mute == self._count
            if is_over and events is not None:
                self._nvml.call("nvmlEventSetFree", events)
            self._on_watched(list(devices.values()))
            if is_over:
                return
            if devices:
                again_s = self._again_s
                self._wait(events, devices)
                self._on_watched([])
            time.sleep(again_s)
            again_s = min(2 * again_s, AGAIN_MAX_S)

    def _register(self, events: Any) -> tuple[dict[int, str], int]:
        """UUIDs by handle: an event names its device by handle, and a lost device no longer tells its UUID. And how
        many devices tell no Xids."""
        devices: dict[int, str] = {}
        mute = 0
        for index in range(self._count):
            handle, _ = self._nvml.call("nvmlDeviceGetHandleByIndex", index)
            if handle is None:
                continue
            uuid, _ = self._nvml.call("nvmlDeviceGetUUID", handle)
            types, fault = self._nvml.call("nvmlDeviceGetSupportedEventTypes", handle)
            if fault is GpuFault.NOT_SUPPORTED or (types is not None and not types & XID):
                mute += 1
                continue
            if uuid is None or types is None:
                continue
            _, fault = self._nvml.call("nvmlDeviceRegisterEvents", handle, XID, events)
            if fault is None:
                devices[_address(handle)] = uuid
        return devices, mute

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
