"""The process that talks to NVML: `python -m probes.gpu.child`, started by `probes.gpu.helper`, heard by its wire.

A call into a wedged driver never returns and its thread cannot be ended, so this is a process that can be left behind.
Three threads: this one hears, beats and notices when the daemon is gone; one reads; one waits for Xids.
It loads the standard library and pynvml alone.
"""

from __future__ import annotations

import os
import queue
import selectors
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

from probes.gpu import wire
from probes.gpu.device import Device
from probes.gpu.nvml import GpuFault, Nvml, UnderWay
from probes.gpu.reading import encode
from probes.gpu.xid import XidWatch

Say = Callable[..., None]
Asked = queue.SimpleQueue[dict[str, Any] | None]


def main() -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service that is stopped signals all; the closed pipe tells enough
    say = _take_stdout()
    nvml = Nvml.load()
    xids = nvml.sibling()
    asked: Asked = queue.SimpleQueue()
    granted = threading.Semaphore(0)

    def may_register() -> None:
        say("registering")
        granted.acquire()

    reading = threading.Thread(
        target=_guarded, args=(lambda: _answer(nvml, xids, asked, say, may_register),), name="nvml", daemon=True
    )
    reading.start()
    _guarded(lambda: _listen(nvml, xids, asked, granted, say))
    asked.put(None)
    reading.join()  # however long its call takes: a client that ends in the middle of one does the driver no good
    os._exit(0)  # the other thread only waits for events


def _take_stdout() -> Say:
    """Standard output for ourselves: whatever a library prints goes to standard error. Lines never mix."""
    out = os.dup(1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(kind: str, **fields: Any) -> None:
        line = wire.encode(kind, **fields)
        with lock:
            while line:
                line = line[os.write(out, line) :]

    return say


def _guarded(work: Callable[[], None]) -> None:
    """A thread's boundary: without one of its threads this process is of no use."""
    try:
        work()
    except BrokenPipeError:
        os._exit(0)  # the daemon is gone
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)


def _listen(nvml: Nvml, xids: Nvml, asked: Asked, granted: threading.Semaphore, say: Say) -> None:
    """Until the daemon closes the pipe, or is gone, which is the same."""
    rest, beat_at = b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            if selector.select(max(0.0, beat_at - time.monotonic())):
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for request in map(wire.decode, lines):
                    if request["kind"] == "register":
                        granted.release()
                    else:
                        asked.put(request)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + wire.BEAT_S
                call = nvml.slowest()
                say(
                    "beat",
                    call=None if call is None else call.name,
                    late_s=_late_s(call),
                    xid_late_s=_late_s(xids.slowest()),
                )


def _answer(nvml: Nvml, xids: Nvml, asked: Asked, say: Say, may_register: Callable[[], None]) -> None:
    nvml.initialise()
    count, why = (0, nvml.why) if nvml.why is not None else nvml.call("nvmlDeviceGetCount")
    if why is None and not count:
        why = GpuFault.NO_DEVICE
    driver, _ = nvml.call("nvmlSystemGetDriverVersion")
    cuda, _ = nvml.first(("nvmlSystemGetCudaDriverVersion_v2",), ("nvmlSystemGetCudaDriverVersion",))
    version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
    say("hello", why=why, driver=driver, cuda=version, devices=count or 0)
    if why is None:
        XidWatch(
            xids,
            count,
            may_register=may_register,
            on_watched=lambda uuids: say("watched", devices=uuids),
            on_xid=lambda xid: say("xid", **asdict(xid)),
        ).start()
    devices = [Device(nvml, index) for index in range(count or 0)]
    while (request := asked.get()) is not None:
        read = devices[request["index"]].read(processes=request["processes"], health=request["health"])
        say("reading", index=request["index"], devices=[encode(device) for device in read])


def _late_s(call: UnderWay | None) -> float:
    return 0.0 if call is None else max(0.0, time.monotonic() - call.since)


if __name__ == "__main__":
    sys.exit(main())
