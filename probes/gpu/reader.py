"""The GPUs of this machine. They are read by a child process at a rhythm of its own (`probes.gpu.rounds`): nobody who
asks here ever waits for a driver, which may never answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from probes.gpu.known import LOST, Known
from probes.gpu.nvml import GpuFault
from probes.gpu.reading import GpuReading
from probes.gpu.rhythm import Rhythm
from probes.gpu.rounds import Rounds
from probes.gpu.window import CanaryWindow


class GpuReader:
    """What the GPUs say. It begins to read when it is first asked for anything. Any thread may ask.

    withheld: variables of our environment that the child does not get: those that hold secrets.
    """

    def __init__(
        self,
        *,
        rhythm: Rhythm | None = None,
        withheld: frozenset[str] = frozenset(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rhythm = rhythm or Rhythm()
        self._monotonic = monotonic
        self._window = CanaryWindow()
        self._known = Known(stale_s=self._rhythm.stale_s)
        self._rounds = Rounds(self._known, self._window, rhythm=self._rhythm, withheld=withheld, monotonic=monotonic)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._began_at = 0.0

    @property
    def why(self) -> GpuFault | None:
        """What is missing when not `available`."""
        self._begin()
        return self._known.why

    @property
    def available(self) -> bool:
        """Whether NVML can be used. Waits for the first answer (`wait_ready`)."""
        self.wait_ready()
        return self._known.why is None

    @property
    def lost(self) -> bool:
        """No device has a figure."""
        devices = self.read().devices
        return bool(devices) and all(device.total_bytes is None for device in devices)

    @property
    def names(self) -> tuple[str, ...]:
        """The types of the GPUs; what was told once is known for good."""
        return self._known.names

    @property
    def driver_version(self) -> str | None:
        return self._known.driver_version

    @property
    def cuda_version(self) -> str | None:
        """Of the driver, the newest that it runs: "13.0"."""
        return self._known.cuda_version

    def read(self) -> GpuReading:
        """The newest readings, with their ages; a device whose reading is too old has no figures. Never waits."""
        self._begin()
        return self._known.reading(self._monotonic())

    def burst(self, devices: frozenset[str] | None) -> AbstractContextManager[None]:
        """While a canary measures a target on these devices (None: not known which), they are not read."""
        self.wait_ready()
        return self._window.burst(devices)

    def wait_ready(self) -> None:
        """Until each GPU was read once or it is known why not; at most until `ready_s` after the first question."""
        self._begin()
        left_s = self._began_at + self._rhythm.ready_s - self._monotonic()
        self._rounds.ready.wait(max(0.0, left_s))

    def refresh(self, timeout_s: float = 5.0) -> None:
        """Have everything read anew; until it is, or cannot be, at most so long."""
        self.wait_ready()
        asked = self._monotonic()
        self._known.expire(asked)
        while not self._known.listed_since(asked) and self._known.why is None and self._monotonic() < asked + timeout_s:
            time.sleep(0.05)

    def note(self) -> str | None:
        """What a person should know, in words for /healthz; None when there is nothing."""
        reading = self.read()
        if reading.stuck_s is not None:
            return f"{reading.fault}: {reading.call} has not returned for {reading.stuck_s:.0f} s; see docs/gpu.md"
        lost = [f"{d.uuid or f'GPU {d.index}'} ({d.fault})" for d in reading.devices if d.fault in LOST]
        return f"not read: {', '.join(lost)}" if lost else None

    def close(self) -> None:
        """Let the child end. Safe to call twice."""
        with self._lock:
            self._rounds.stop()
            thread = self._thread
        if thread is not None:
            thread.join(2.0)
            self._rounds.let_go()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._began_at = self._monotonic()
                self._thread = threading.Thread(target=self._rounds.run, name="gpu", daemon=True)
                self._thread.start()
