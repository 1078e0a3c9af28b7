"""Devices and what their drivers say, for tests of the rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builders import NOW

from baselines.device import DeviceWatch
from baselines.gpu_view import Around
from baselines.verdict import Verdict
from probes.gpu.reading import Xid as XidEvent
from probes.gpu.sample import DeviceSample

UUID, OTHER = "GPU-0", "GPU-1"
HEALTHY: dict[str, Any] = {
    "recovery_action": 0,
    "ecc_volatile_uncorrected": 0,
    "row_remap_pending": 0,
    "row_remap_failed": 0,
    "rows_remapped_uncorrected": 0,
    "hw_thermal_s": 100.0,
    "power_brake_s": 0.0,
    "sw_thermal_s": 5.0,
    "clock_event_reasons": 0x4,
    "temperature_c": 60,
    "temperature_margin_c": 25,
    "slowdown_offset_c": -2,
    "power_w": 400.0,
    "power_limit_w": 700.0,
    "sm_clock_mhz": 1755,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_generation": 5,
    "pcie_generation_max": 5,
    "pcie_replays": 7,
    "utilisation_percent": 90,
    "nvlinks_up": 18,
    "nvlinks": 18,
    "nvlink_errors": 3,
    "nvlink_crc_errors": 1000,
}
STEP_S = 15.0


def sample(at: float = NOW, *, fault: str | None = None, others: int | None = 0, **figures: Any) -> DeviceSample:
    """A healthy device, but for what is said; a figure that is None is not told."""
    told = {name: value for name, value in {**HEALTHY, **figures}.items() if value is not None}
    return DeviceSample(
        index=0, at=at, uuid=UUID, name="H100", figures=told if fault is None else {}, fault=fault, others=others
    )


def xid(code: int, at: float = NOW, device: str = UUID) -> XidEvent:
    return XidEvent(at=at, device=device, xid=code)


def judge(
    samples: Sequence[DeviceSample],
    *xids: XidEvent,
    around: Around | None = None,
    watch: DeviceWatch | None = None,
    now: float | None = None,
) -> Verdict:
    """The verdict after these samples."""
    watch = watch or DeviceWatch("chat")
    for each in samples:
        watch.take(each)
    verdict = watch.judge(xids, around or Around(), now=samples[-1].at if now is None else now)
    assert verdict is not None
    return verdict


def over(minutes: float, step_s: float = STEP_S, since: float = NOW, **figures: Any) -> list[DeviceSample]:
    """So many minutes of samples; a figure given as a function is one of the seconds since the beginning."""
    return [
        sample(since + i * step_s, **{name: f(i * step_s) if callable(f) else f for name, f in figures.items()})
        for i in range(round(minutes * 60 / step_s) + 1)
    ]
