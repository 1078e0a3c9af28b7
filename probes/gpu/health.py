"""The health of one device as plain figures. Runs in the child that holds the driver: standard library only.

What the device or its driver does not have, what fails, and what cannot be true is None, never zero: broken devices
answer 0 and 2^64-1 without an error. What each figure means is in `baselines.gpu_signals`, which is data.
Newer names of calls are asked before older ones. Field numbers are those of nvml.h from CUDA 12.9 on; 251 to 253 meant
the durations of throttling in the first 570 drivers and mean something else now, so they are not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ctypes import Structure, byref, c_uint, c_ulonglong
from typing import Any

from probes.gpu.nvml import FAULTS, GpuFault, Nvml
from probes.gpu.reading import Figure

Memo = dict[str, Any]
"""What a device answered that will not change: kept by the caller, one for each device, as long as the driver runs."""
ANSWERED = "answered"
"""The calls of a memo that answered once: they hold for the device, whatever handle it has."""

_MOST = 2**63 - 17  # above it are blanks: DCGM's begin at 2^63-16, NVML_VALUE_NOT_AVAILABLE is 2^64-1
_MOST_32 = 2**31 - 17  # the same for values of 32 bits
_SRAM_V1 = 0x1000068  # nvmlEccSramErrorStatus_v1
_GRAVE = (GpuFault.GPU_LOST, GpuFault.RESET_REQUIRED)
_UNKNOWN_FIELD = 2  # NVML_ERROR_INVALID_ARGUMENT of one field: the driver is older than it

# NVML_FI_DEV_*: figure, number, factor.
_FIELDS: tuple[tuple[str, int, float], ...] = (
    ("recovery_action", 230, 1),
    ("power_cap_s", 74, 1e-9),  # PERF_POLICY_POWER, the same as CLOCKS_EVENT_REASON_SW_POWER_CAP; nanoseconds
    ("thermal_s", 75, 1e-9),  # PERF_POLICY_THERMAL: heat, whoever slows down for it
    ("sw_thermal_s", 269, 1e-9),
    ("hw_thermal_s", 270, 1e-9),
    ("power_brake_s", 271, 1e-9),
    ("slowdown_offset_c", 194, 1),
    ("nvlink_count", 91, 1),
    ("pages_retired_single_bit", 29, 1),
    ("pages_retired_double_bit", 30, 1),
    ("pages_retirement_pending", 31, 1),
)
_SIGNED = frozenset({"slowdown_offset_c"})
_FieldKey = tuple[int, int]  # its number, and its scope: which link
_NVLINK_STATE, _NVLINK_REPLAY, _NVLINK_RECOVERY, _NVLINK_CRC = 165, 161, 162, 163  # of one link
_NVLINK_TOTALS = {
    "nvlink_crc_flit_errors": 38,
    "nvlink_crc_data_errors": 45,
    "nvlink_replays": 52,
    "nvlink_recoveries": 59,
}
_NVLINK_MAX = 36  # NVML_NVLINK_MAX_LINKS

# Figure, calls from the newest to the oldest with what follows the handle, least and greatest that can be true, factor.
_Ask = tuple[str, tuple[tuple[Any, ...], ...], float, float, float]
_ASKED: tuple[_Ask, ...] = (
    ("ecc_volatile_uncorrected", (("nvmlDeviceGetTotalEccErrors", 1, 0),), 0, _MOST, 1),
    ("ecc_volatile_corrected", (("nvmlDeviceGetTotalEccErrors", 0, 0),), 0, _MOST, 1),
    ("ecc_aggregate_uncorrected", (("nvmlDeviceGetTotalEccErrors", 1, 1),), 0, _MOST, 1),
    ("ecc_aggregate_corrected", (("nvmlDeviceGetTotalEccErrors", 0, 1),), 0, _MOST, 1),
    ("memory_unrepairable", (("nvmlDeviceGetUnrepairableMemoryFlag_v1",),), 0, 1, 1),
    (
        "clock_event_reasons",
        (("nvmlDeviceGetCurrentClocksEventReasons",), ("nvmlDeviceGetCurrentClocksThrottleReasons",)),
        0,
        0xFFFF,
        1,
    ),
    ("temperature_c", (("nvmlDeviceGetTemperatureV", 0), ("nvmlDeviceGetTemperature", 0)), 1, 200, 1),
    ("temperature_margin_c", (("nvmlDeviceGetMarginTemperature",),), 1, 200, 1),  # 0 and less: not told (gpud, H100)
    ("power_w", (("nvmlDeviceGetPowerUsage",),), 1, 10_000_000, 1e-3),
    ("power_limit_w", (("nvmlDeviceGetEnforcedPowerLimit",),), 1, 10_000_000, 1e-3),
    ("sm_clock_mhz", (("nvmlDeviceGetClockInfo", 1),), 1, 100_000, 1),
    ("memory_clock_mhz", (("nvmlDeviceGetClockInfo", 2),), 1, 100_000, 1),
    ("performance_state", (("nvmlDeviceGetPerformanceState",), ("nvmlDeviceGetPowerState",)), 0, 15, 1),
    ("pcie_width", (("nvmlDeviceGetCurrPcieLinkWidth",),), 1, 64, 1),
    ("pcie_generation", (("nvmlDeviceGetCurrPcieLinkGeneration",),), 1, 16, 1),
    ("pcie_replays", (("nvmlDeviceGetPcieReplayCounter",),), 0, _MOST_32, 1),
)
_CONSTANT: tuple[_Ask, ...] = (
    ("slowdown_c", (("nvmlDeviceGetTemperatureThreshold", 1),), 1, 200, 1),
    ("power_default_limit_w", (("nvmlDeviceGetPowerManagementDefaultLimit",),), 1, 10_000_000, 1e-3),
    ("sm_clock_max_mhz", (("nvmlDeviceGetMaxClockInfo", 1),), 1, 100_000, 1),
    ("memory_clock_max_mhz", (("nvmlDeviceGetMaxClockInfo", 2),), 1, 100_000, 1),
    ("pcie_width_max", (("nvmlDeviceGetMaxPcieLinkWidth",),), 1, 64, 1),
    ("pcie_generation_max", (("nvmlDeviceGetMaxPcieLinkGeneration",),), 1, 16, 1),
)
_TEXTS: tuple[tuple[str, str, bool], ...] = (  # figure, call, whether it is about the device
    ("driver_version", "nvmlSystemGetDriverVersion", False),
    ("nvml_version", "nvmlSystemGetNVMLVersion", False),
    ("vbios_version", "nvmlDeviceGetVbiosVersion", True),
    ("gsp_version", "nvmlDeviceGetGspFirmwareVersion", True),
)
_SRAM_COUNTS = 11  # counters of the struct before the flag that is wanted
_ROWS = ("rows_remapped_corrected", "rows_remapped_uncorrected", "row_remap_pending", "row_remap_failed")


class _SramStatus(Structure):
    """nvmlEccSramErrorStatus_t, version 1."""

    _fields_ = (
        ("version", c_uint),
        *((f"count_{place}", c_ulonglong) for place in range(_SRAM_COUNTS)),
        ("threshold_exceeded", c_uint),
    )


def read_health(nvml: Nvml, handle: Any, memo: Memo | None = None) -> Mapping[str, Figure]:
    """Every figure of the tables above and below, by name; None where it is not told.

    memo: remembered between calls for the same device: what cannot change, and what it does not support. A call that
    answered once is made again, whatever it says later.
    "fault" is what went wrong besides "not supported" and "no permission", a `GpuFault`: that the device is lost or
    needs a reset, else the first thing; None: nothing.
    A call into a wedged driver never returns.
    """
    return _Reading(nvml, handle, {} if memo is None else memo).take()


class _Reading:
    """One reading of one device."""

    def __init__(self, nvml: Nvml, handle: Any, memo: Memo) -> None:
        self._nvml, self._handle, self._memo = nvml, handle, memo
        self._unsupported: set[object] = memo.setdefault("unsupported", set())
        self._answered: set[object] = memo.setdefault(ANSWERED, set())
        self._faults: list[GpuFault] = []

    def take(self) -> dict[str, Figure]:
        figures: dict[str, Figure] = {ask[0]: self._ask(ask) for ask in _ASKED}
        fields = self._fields([(number, 0) for _, number, _ in _FIELDS])
        for (name, _, factor), value in zip(_FIELDS, fields, strict=True):
            figures[name] = self._field(value, factor, signed=name in _SIGNED)
        figures |= self._rows() | self._repair() | self._utilisation() | self._constants()
        figures["sram_threshold_exceeded"] = self._sram()
        figures |= self._links(figures.pop("nvlink_count"))
        figures["fault"] = next(map(str, sorted(self._faults, key=lambda fault: fault not in _GRAVE)), None)
        return figures

    def _call(self, *call: Any, about_device: bool = True) -> Any:
        """The value, or None; a call that never answered and is not supported is not made again."""
        if call in self._unsupported:
            return None
        value, fault = self._nvml.call(call[0], *([self._handle] if about_device else []), *call[1:])
        self._note(call, fault)
        return value

    def _note(self, call: object, fault: GpuFault | None) -> None:
        if fault is None:
            self._answered.add(call)
        elif fault is GpuFault.NOT_SUPPORTED:
            self._unsupported |= {call} - self._answered
        elif fault is not GpuFault.NO_PERMISSION:
            self._faults.append(fault)

    def _ask(self, ask: _Ask) -> Figure:
        _, calls, least, most, factor = ask
        for call in calls:
            value = self._call(*call)
            if value is not None:
                return self._scaled(value, least, most, factor)
        return None

    def _fields(self, wanted: Sequence[_FieldKey]) -> list[Any]:
        """Of each its value if it has one; all in one call, since each call takes the driver's lock."""
        values, fault = self._nvml.call("nvmlDeviceGetFieldValues", self._handle, wanted)
        self._note("fields", fault)
        if values is None:
            return [None] * len(wanted)
        for value in values:
            if value.nvmlReturn not in (0, _UNKNOWN_FIELD):
                self._note(value.fieldId, FAULTS.get(value.nvmlReturn, GpuFault.FAILED))
        return [value if value.nvmlReturn == 0 else None for value in values]

    def _field(self, field: Any, factor: float, *, signed: bool = False) -> Figure:
        if field is None or not 0 <= field.valueType < len(_UNION):
            return None
        member = _UNION[field.valueType]
        value = getattr(field.value, member)
        bits = 32 if member in _OF_32_BITS else 64
        if not signed:
            return self._scaled(value, 0, _MOST_32 if bits == 32 else _MOST, factor)
        if 2 ** (bits - 1) <= value < 2**bits - 1:  # a negative number that is said to be unsigned; all ones is a blank
            value -= 2**bits
        return self._scaled(value, -200, 200, factor)

    def _scaled(self, value: Any, least: float, most: float, factor: float) -> Figure:
        """None for what is no number between the two, both included; a blank that came as a success is a fault."""
        if not isinstance(value, (int, float)):
            return None
        if least <= value <= most:
            return value if factor == 1 else value * factor
        if value > _MOST or _MOST_32 < value < 2**32:
            self._faults.append(GpuFault.IMPLAUSIBLE)
        return None

    def _rows(self) -> dict[str, Figure]:
        told = self._call("nvmlDeviceGetRemappedRows") or (None,) * 4
        return dict(zip(_ROWS, (self._scaled(value, 0, _MOST_32, 1) for value in told), strict=True))

    def _repair(self) -> dict[str, Figure]:
        told = self._call("nvmlDeviceGetRepairStatus")
        return {"repair_pending": None if told is None else int(any(told))}

    def _utilisation(self) -> dict[str, Figure]:
        told = self._call("nvmlDeviceGetUtilizationRates")
        return {"utilisation_percent": None if told is None else self._scaled(told.gpu, 0, 100, 1)}

    def _sram(self) -> Figure:
        if "sram" in self._unsupported:
            return None
        status = _SramStatus(version=_SRAM_V1)
        _, fault = self._nvml.call("nvmlDeviceGetSramEccErrorStatus", self._handle, byref(status))
        self._note("sram", fault)
        return None if fault is not None else self._scaled(status.threshold_exceeded, 0, 1, 1)

    def _constants(self) -> dict[str, Figure]:
        """What cannot change while the driver runs; asked again while it is not known."""
        known: dict[str, Figure] = self._memo.setdefault("constants", {})
        for ask in _CONSTANT:
            if known.get(ask[0]) is None:
                known[ask[0]] = self._ask(ask)
        for name, call, about_device in _TEXTS:
            if known.get(name) is None:
                known[name] = _text(self._call(call, about_device=about_device))
        if known.get("cuda_version") is None:
            known["cuda_version"] = self._cuda()
        return dict(known)

    def _cuda(self) -> str | None:
        for name in ("nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion"):
            value = self._call(name, about_device=False)
            if isinstance(value, int) and value > 0:
                return f"{value // 1000}.{value % 1000 // 10}"
        return None

    def _links(self, count: Figure) -> dict[str, Figure]:
        """Links that are up, of how many, and their errors; all None without NVLink."""
        links = min(int(count), _NVLINK_MAX) if isinstance(count, (int, float)) else 0
        if links == 0:
            return dict.fromkeys(_NVLINK)
        noted = len(self._faults)
        states = [self._field(value, 1) for value in self._fields([(_NVLINK_STATE, link) for link in range(links)])]
        if all(state is None for state in states):
            states = self._states_by_call(links)
        elif len(self._faults) > noted:
            states = []  # a link that cannot be read is not down
        known = [state for state in states if state is not None]
        totals = self._counters([(number, 0) for number in _NVLINK_TOTALS.values()])
        errors = self._sum(totals, ("nvlink_replays", "nvlink_recoveries"), (_NVLINK_REPLAY, _NVLINK_RECOVERY), links)
        crc = self._sum(totals, ("nvlink_crc_flit_errors", "nvlink_crc_data_errors"), (_NVLINK_CRC,), links)
        return {
            "nvlinks": len(known) or None,
            "nvlinks_up": sum(state == 1 for state in known) if known else None,
            "nvlink_errors": errors,
            "nvlink_crc_errors": crc,
            **{name: (totals or {}).get((number, 0)) for name, number in _NVLINK_TOTALS.items()},
        }

    def _states_by_call(self, links: int) -> list[Figure]:
        found: list[Figure] = []
        for link in range(links):
            state = self._call("nvmlDeviceGetNvLinkState", link)
            if state is None:
                break
            found.append(self._scaled(state, 0, 1, 1))
        return found

    def _counters(self, wanted: Sequence[_FieldKey]) -> Mapping[_FieldKey, float] | None:
        """Of those that there are. None while one cannot be read: a sum would fall, and then rise by all of it."""
        noted = len(self._faults)
        values = [self._field(each, 1) for each in self._fields(wanted)]
        told = {key: value for key, value in zip(wanted, values, strict=True) if isinstance(value, (int, float))}
        ever: set[_FieldKey] = self._memo.setdefault("counters", set())
        ever.update(told)
        return told if len(self._faults) == noted and told.keys() == ever.intersection(wanted) else None

    def _sum(
        self, totals: Mapping[_FieldKey, float] | None, names: Iterable[str], of_a_link: Iterable[int], links: int
    ) -> Figure:
        """Of the totals of these names; where the driver has none of them, of each link's own counters."""
        if totals is None:
            return None
        told = [totals[key] for name in names if (key := (_NVLINK_TOTALS[name], 0)) in totals]
        if not told:
            each = self._counters([(number, link) for number in of_a_link for link in range(links)])
            told = list((each or {}).values())
        return sum(told) if told else None


_UNION = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t
_OF_32_BITS = frozenset({"uiVal", "siVal", "usVal"})


def _text(value: Any) -> str | None:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    text = text.strip()[:100] if isinstance(text, str) else ""
    return text if text and text.isprintable() else None


_NVLINK = ("nvlinks", "nvlinks_up", "nvlink_errors", "nvlink_crc_errors", *_NVLINK_TOTALS)
NUMBERS: tuple[str, ...] = (
    *(ask[0] for ask in (*_ASKED, *_CONSTANT)),
    *(name for name, _, _ in _FIELDS if name != "nvlink_count"),
    *_ROWS,
    *("repair_pending", "utilisation_percent", "sram_threshold_exceeded"),
    *_NVLINK,
)
TEXTS: tuple[str, ...] = (*(name for name, _, _ in _TEXTS), "cuda_version", "fault")
"""The names of all figures, for whoever must know them: a test holds that the table of meanings names each."""
