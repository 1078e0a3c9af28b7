"""What asking the driver takes: each call by its name, and whole readings by the daemon's own child."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from benchmarks.watched import wait_until
from probes.gpu.device import Device
from probes.gpu.helper import Helper
from probes.gpu.nvml import GpuFault, Nvml

ANSWER_S = 30.0
LISTS_EVERY = 3  # by default every third reading has lists and health too


class TimedNvml(Nvml):
    """took_s: of each call so far, by its name, in seconds."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.took_s: dict[str, list[float]] = {}

    def call(self, name: str, *args: Any, wait_s: float = 0.0) -> tuple[Any, GpuFault | None]:
        began = time.perf_counter()
        try:
            return super().call(name, *args, wait_s=wait_s)
        finally:
            self.took_s.setdefault(name, []).append(time.perf_counter() - began)


def time_calls(readings: int) -> tuple[dict[str, list[float]], list[float], list[float]]:
    """Seconds of each call by its name; of each reading of the first device without lists; and of each with all.

    The first reading is left out: it opens the device, and asks for what will not be asked again.
    """
    nvml = TimedNvml.load()
    assert isinstance(nvml, TimedNvml)
    nvml.initialise()
    device = Device(nvml, 0)
    device.read(processes=True, health=True)
    nvml.took_s.clear()
    memory, whole = list[float](), list[float]()
    for took, is_whole in ((memory, False), (whole, True)):
        for _ in range(readings):
            began = time.perf_counter()
            device.read(processes=is_whole, health=is_whole)
            took.append(time.perf_counter() - began)
    calls = dict(nvml.took_s)
    nvml.close()
    return calls, memory, whole


class Driver:
    """The child of a daemon, which has every device read when it is told to. Ends with the `with` block.

    devices: how many there are. Raises RuntimeError when the driver cannot be asked.
    """

    def __init__(self) -> None:
        self._helper = Helper()
        self._rounds = 0
        hello = self._hear("hello")
        self.devices = int(hello["devices"])
        if hello["why"] is not None:
            self._helper.let_go()
            raise RuntimeError(f"NVML cannot be used: {hello['why']}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._helper.let_go()
        self._helper.wait(ANSWER_S)

    def read(self) -> None:
        """All devices, once, as the daemon does; returns when all have answered."""
        whole = self._rounds % LISTS_EVERY == 0
        self._rounds += 1
        for index in range(self.devices):
            self._helper.ask("read", index=index, processes=whole, health=whole)
            self._hear("reading")

    def _hear(self, kind: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            return next((said for said in self._helper.hear(1.0) if said["kind"] == kind), None)

        return wait_until(look, f"the driver answers with a {kind}", ANSWER_S)
