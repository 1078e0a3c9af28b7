"""The rules of `gpu_signals` about what slows a device down: heat, power, clocks, neighbours, links."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from baselines.gpu_faults import XID_SEEN_S
from baselines.gpu_view import WINDOW_S, Finding, View, said
from baselines.verdict import Reason
from baselines.xid import NVLINK, Remedy
from probes.gpu.sample import DeviceSample

MIN_SPAN_S = 120.0  # less is no rate; DCGM's slow checks want 30 s
THROTTLED_SHARE = 0.1  # of the time; twice what p95 feels
SIGHTINGS_PER_MINUTE = 0.6  # gpud, hw-slowdown
HOT_S = 300.0
CRC_PER_S = 100.0  # DCGM
REPLAYS_PER_LANE = {1: 0.15, 2: 0.3, 3: 0.48, 4: 0.96, 5: 1.92, 6: 3.84}  # a minute, DCGM
_HW_BITS, _SW_THERMAL_BIT = 0x08 | 0x40 | 0x80, 0x20  # slowdown, thermal, power brake; nvml.h

# --- clocks, heat, power ----------------------------------------------------------------------------------------------


def _throttled(view: View) -> Finding | None:
    return _held_down(view, Reason.THROTTLED, ("hw_thermal_s", "power_brake_s"), _HW_BITS, "the hardware slows it down")


def _hot(view: View) -> Finding | None:
    counter = "thermal_s" if view.number("sw_thermal_s") is None else "sw_thermal_s"
    slowed = _held_down(view, Reason.HOT, (counter,), _SW_THERMAL_BIT, "it is slowed down for heat")
    if slowed is not None:
        return slowed
    since = _near_slowdown_since(view)
    if since is None:
        return None
    temperature = view.number("temperature_c")
    told = f" at {temperature:.0f} degrees" if temperature is not None else ""
    return Finding(reason=Reason.HOT, since=since, detail=f"it is about to slow itself down for heat{told}")


def _held_down(view: View, reason: Reason, counters: tuple[str, ...], bits: int, words: str) -> Finding | None:
    """By durations; by sightings only where the device tells no duration, since a sample sees little."""
    risen = view.increase(*counters)
    if risen is not None:
        total_s, span_s, since = risen
        share = min(1.0, total_s / span_s)
        if span_s < MIN_SPAN_S or share < THROTTLED_SHARE:
            return None
        detail = f"{words}: {share:.0%} of the last {span_s / 60:.0f} min"
        return Finding(reason=reason, since=since, detail=detail, evidence={"throttled_ratio": share})
    recent = [s for s in view.samples if s.at >= view.newest.at - 1.1 * WINDOW_S]
    seen = [s.at for s in recent if int(s.number("clock_event_reasons") or 0) & bits]
    span_s = recent[-1].at - recent[0].at
    if span_s < 0.98 * WINDOW_S or len(seen) / (span_s / 60) < SIGHTINGS_PER_MINUTE:
        return None
    detail = f"{words}: seen {len(seen)} times in {span_s / 60:.0f} min"
    return Finding(reason=reason, since=seen[0], detail=detail, evidence={"sightings": len(seen)})


def _near_slowdown_since(view: View) -> float | None:
    recent = [s for s in view.samples if s.at >= view.now - HOT_S]
    if len(recent) < 3 or recent[-1].at - recent[0].at < 0.9 * HOT_S or not all(_is_near(s) for s in recent):
        return None
    return recent[0].at


def _is_near(sample: DeviceSample) -> bool:
    """By this type's own figures: no temperature means the same on two types of GPU."""
    margin, offset = sample.number("temperature_margin_c"), sample.number("slowdown_offset_c")
    if margin is not None and offset is not None:
        return margin <= abs(offset)
    temperature, slowdown = sample.number("temperature_c"), sample.number("slowdown_c")
    return margin is None and temperature is not None and slowdown is not None and temperature >= slowdown


def _moved(view: View, reason: Reason, name: str, words: str) -> Finding | None:
    """words: with places for `old` and `new`."""
    if name not in view.moved:
        return None
    old, new, since = view.moved[name]
    evidence = {f"{name}_before": old, f"{name}_now": new}
    return Finding(reason=reason, since=since, detail=words.format(old=old, new=new), evidence=evidence)


def _capped(view: View) -> Finding | None:
    return _moved(view, Reason.POWER_CAPPED, "power_limit_w", "the power limit fell from {old:.0f} W to {new:.0f} W")


def _clocks(view: View) -> Finding | None:
    return _moved(
        view, Reason.CLOCKS_LOWERED, "sm_clock_mhz", "under load its SM clock is {new:.0f} MHz, it was {old:.0f}"
    )


def _neighbour(view: View) -> Finding | None:
    return _moved(view, Reason.NEIGHBOUR, "others", "{new:.0f} processes of others are on it, before {old:.0f}")


# --- links ------------------------------------------------------------------------------------------------------------


def _pcie(view: View) -> Finding | None:
    width, widest = view.number("pcie_width"), view.number("pcie_width_max")
    if width is not None and widest is not None and width < widest:
        return said(view, Reason.PCIE_DEGRADED, f"its PCIe link has {width:.0f} lanes of {widest:.0f}")
    loaded = view.loaded()
    fastest = view.number("pcie_generation_max")
    known = [value for s in loaded if (value := s.number("pcie_generation")) is not None]
    if fastest is None or len(known) < 3 or max(known) >= fastest:
        return None
    detail = f"under load its PCIe link runs at generation {max(known):.0f} of {fastest:.0f}"
    return Finding(reason=Reason.PCIE_DEGRADED, since=loaded[0].at, detail=detail)


def _replays(view: View) -> Finding | None:
    risen = view.increase("pcie_replays")
    lanes, generation = view.number("pcie_width_max"), view.number("pcie_generation_max")
    if risen is None or lanes is None or generation is None or risen[1] < MIN_SPAN_S:
        return None
    a_minute = risen[0] / (risen[1] / 60)
    limit = -(-REPLAYS_PER_LANE.get(int(generation), REPLAYS_PER_LANE[6]) * lanes // 1)  # rounded up
    if a_minute <= limit:
        return None
    detail = f"{a_minute:.0f} PCIe replays a minute, the limit for this link is {limit:.0f}"
    return Finding(reason=Reason.PCIE_ERRORS, since=risen[2], detail=detail)


def _links_down(view: View) -> Finding | None:
    return _moved(view, Reason.NVLINK_DOWN, "nvlinks_up", "{new:.0f} NVLinks are up, {old:.0f} were")


def _link_errors(view: View) -> Finding | None:
    errors, crc = view.increase("nvlink_errors", over_gaps=True), view.increase("nvlink_crc_errors")
    if errors is not None and errors[0] >= 1:
        return Finding(
            reason=Reason.NVLINK_ERRORS, since=errors[2], detail=f"{errors[0]:.0f} NVLink replays or recoveries"
        )
    if crc is not None and crc[1] >= MIN_SPAN_S and crc[0] / crc[1] >= CRC_PER_S:
        detail = f"{crc[0] / crc[1]:.0f} NVLink checksum errors a second"
        return Finding(reason=Reason.NVLINK_ERRORS, since=crc[2], detail=detail)
    for xid, at in view.standing():
        if xid.code in NVLINK and xid.remedy is Remedy.WORKFLOW and at >= view.now - XID_SEEN_S:
            return Finding(
                reason=Reason.NVLINK_ERRORS, since=at, detail=f"{xid} was reported", evidence={"xid": xid.code}
            )
    return None


SLOWING: Mapping[Reason, Callable[[View], Finding | None]] = {
    Reason.THROTTLED: _throttled,
    Reason.PCIE_DEGRADED: _pcie,
    Reason.PCIE_ERRORS: _replays,
    Reason.NVLINK_DOWN: _links_down,
    Reason.NVLINK_ERRORS: _link_errors,
    Reason.HOT: _hot,
    Reason.POWER_CAPPED: _capped,
    Reason.CLOCKS_LOWERED: _clocks,
    Reason.NEIGHBOUR: _neighbour,
}
"""Each can make a model slow, and says since when."""
