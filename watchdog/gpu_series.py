"""The counters of GPUs: a device's own counters may begin again with the driver, ours only go up."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prometheus_client import Counter

from baselines.xid import Remedy, look_up
from probes.gpu.reading import Xid as XidEvent
from probes.gpu.sample import GpuSample
from watchdog.series import Series, begin, end

THROTTLES = {
    "hw_thermal": "hw_thermal_s",
    "power_brake": "power_brake_s",
    "sw_thermal": "sw_thermal_s",
    "power_cap": "power_cap_s",
}
"""kind: figure of `probes.gpu.health`."""


class GpuSeries:
    """Adds what is new in a sample to the counters.

    A device is its index. Its lines begin at zero when it is first seen: one that begins at 1 hides its first increase
    from PromQL. Errors that were reported before the daemon started are not counted; nobody delivers them twice.
    """

    def __init__(self, xids: Counter, throttled: Counter) -> None:
        self._xids, self._throttled = xids, throttled
        self._begun: dict[str, set[str]] = {}
        self._last: dict[tuple[str, str, str], float] = {}
        self._counted: dict[str, frozenset[XidEvent]] = {}

    def observe(self, sample: GpuSample) -> None:
        """Count what happened since the sample before."""
        for device in sample.devices:
            index = str(device.index)
            if index not in self._begun.setdefault(sample.target, set()):
                self._begun[sample.target].add(index)
                begin(self._lines(sample.target, index))
            for kind, figure in THROTTLES.items():
                value = device.number(figure)
                if value is not None:
                    self._add_seconds(sample.target, index, kind, value)
        indices = {device.uuid: str(device.index) for device in sample.devices}
        counted = self._counted.get(sample.target, frozenset())
        for event in sample.xids:
            if event not in counted and event.device in indices:
                remedy = look_up(event.xid, {}).remedy
                self._xids.labels(sample.target, indices[event.device], remedy).inc()
        self._counted[sample.target] = frozenset(sample.xids)

    def end(self, target: str) -> None:
        """Have no more lines of it."""
        for index in self._begun.pop(target, ()):
            end(self._lines(target, index))
        self._last = {key: value for key, value in self._last.items() if key[0] != target}
        self._counted.pop(target, None)

    def _add_seconds(self, target: str, index: str, kind: str, value: float) -> None:
        """The first reading is where counting begins; a smaller one says that the device's counter began again."""
        key = (target, index, kind)
        before = self._last.get(key)
        self._last[key] = value
        if before is not None:
            self._throttled.labels(*key).inc(value - before if value >= before else value)

    def _lines(self, target: str, index: str) -> Iterable[Series]:
        kinds: Collection[str] = THROTTLES
        yield from ((self._xids, (target, index, remedy)) for remedy in Remedy)
        yield from ((self._throttled, (target, index, kind)) for kind in kinds)
