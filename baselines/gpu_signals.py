"""What can be read from a GPU, as data: what it means, when it is bad, whose fault it is, what helps, and who says so.

The rows stand in order of importance: where several are bad, the verdict is the highest level's first. The rules
themselves are the functions of the same reason in `hardware`; a test holds that the two agree and that every figure of
`probes.gpu.health` has its row; the table in docs/gpu.md is made of these rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from baselines.verdict import Cause, Level, Reason


class Recycle(StrEnum):
    """What a recycle of the worker can do about it."""

    HELPS = "helps"
    NO_USE = "no use"
    FUTILE = "held back"  # no recycle but one for a leak: what looks like the server's fault may be the device's
    IMPOSSIBLE = "blocked"  # none by itself at all: the new worker could not start, and killing may freeze the device


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """figures: names in `probes.gpu.health`, or of what else is looked at. rule: when it is bad, in words.

    advice: what to do next, for the person who was woken; read after "Next: ".
    """

    reason: Reason
    figures: tuple[str, ...]
    meaning: str
    rule: str
    cause: Cause
    level: Level
    recycle: Recycle
    advice: str
    source: str


_NVML = "NVML API reference"
_GPUD = "gpud"
_DCGM = "DCGM health checks"
_XID = "NVIDIA Xid catalogue"

_ROWS: tuple[Signal, ...] = (
    Signal(
        reason=Reason.DRIVER_UNRESPONSIVE,
        figures=("call",),
        meaning="a call into the driver does not return",
        rule="for a minute, in a second child too",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.IMPOSSIBLE,
        advice="look for NVRM in dmesg; kill no process on the GPU by force; drain the machine and reboot it",
        source="gpud #117, dcgm-exporter #84",
    ),
    Signal(
        reason=Reason.GPU_LOST,
        figures=("fault", "xid"),
        meaning="the device fell off the bus or cannot be reached",
        rule="NVML says GPU_IS_LOST, or Xid 79 since the machine started",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.IMPOSSIBLE,
        advice="drain the machine and reboot it; when it happens again, have the GPU, its seat and its power looked at",
        source=f"{_NVML}; {_XID}",
    ),
    Signal(
        reason=Reason.REBOOT_NEEDED,
        figures=("recovery_action", "xid"),
        meaning="the driver asks for a reboot",
        rule="recovery action 2 or 7, or an Xid of that remedy",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.IMPOSSIBLE,
        advice="drain the machine and reboot it",
        source=f"{_NVML}, field 230; {_XID}",
    ),
    Signal(
        reason=Reason.GPU_RESET_NEEDED,
        figures=("recovery_action", "fault", "xid"),
        meaning="the driver asks for a reset of the device, or of what links it",
        rule="recovery action 1, 3, 4, 5 or 6, NVML says RESET_REQUIRED, or an Xid of that remedy",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.IMPOSSIBLE,
        advice="drain all processes from the GPU and reset it: nvidia-smi --gpu-reset -i INDEX",
        source=f"{_NVML}, field 230; {_XID}",
    ),
    Signal(
        reason=Reason.GPU_FAULTY,
        figures=(
            *("row_remap_failed", "memory_unrepairable", "sram_threshold_exceeded"),
            *("rows_remapped_uncorrected", "pages_retired_double_bit", "pages_retired_single_bit", "fault"),
        ),
        meaning="the device has no spare memory left to repair itself with, or is not wired as it must be",
        rule="a failed row remapping, memory that cannot be repaired, the SRAM threshold passed, 512 rows remapped for"
        " uncorrectable errors, or 63 pages retired; NVML says INSUFFICIENT_POWER or IRQ_ISSUE",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.FUTILE,
        advice="drain the GPU, look at its cables, run NVIDIA's field diagnostics, and have it replaced",
        source=f"NVIDIA GPU memory error management; {_DCGM}",
    ),
    Signal(
        reason=Reason.ECC_UNCORRECTED,
        figures=("ecc_volatile_uncorrected",),
        meaning="errors in the device's memory that could not be corrected, since the driver was loaded",
        rule="more than none",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.FUTILE,
        advice="drain the GPU and reset it; answers given meanwhile may be wrong",
        source=f"{_NVML}; NVIDIA GPU memory error management",
    ),
    Signal(
        reason=Reason.MEMORY_REPAIR_PENDING,
        figures=("row_remap_pending", "pages_retirement_pending", "repair_pending"),
        meaning="a repair of the device's memory waits for the next reset",
        rule="one is pending",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.FUTILE,
        advice="drain the GPU and reset it soon: nvidia-smi --gpu-reset -i INDEX",
        source="NVIDIA GPU memory error management",
    ),
    Signal(
        reason=Reason.XID_REPEATED,
        figures=("xid",),
        meaning="an error that is the application's when it comes once, again and again on this GPU and on no other",
        rule="Xid 13 or 31 three times in a day, more than a minute apart, on one device only",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.NO_USE,
        advice="move the model to another GPU; when the error stays behind, have this one tested and replaced",
        source="NVSentinel ADR-014",
    ),
    Signal(
        reason=Reason.NVLINK_DOWN,
        figures=("nvlinks_up", "nvlinks"),
        meaning="an NVLink that was up is down",
        rule="fewer are up than were seen up before",
        cause=Cause.HARDWARE,
        level=Level.PAGE,
        recycle=Recycle.NO_USE,
        advice="nvidia-smi nvlink --status -i INDEX; drain the GPU and reset it, or have its bridge looked at",
        source=f"{_NVML}; {_DCGM}",
    ),
    Signal(
        reason=Reason.CONTEXT_POISONED,
        figures=("xid", "others"),
        meaning="an error after which CUDA is unusable in the process that made it, as long as that lives",
        rule="an Xid of remedy restart_app since the worker started, no other process on the device, and no good answer"
        " since by a worker that is alone",
        cause=Cause.MODEL,
        level=Level.PAGE,
        recycle=Recycle.HELPS,
        advice="recycle the worker; when it comes back with the same request, the code that it runs is at fault",
        source=f"{_XID}, RESTART_APP",
    ),
    Signal(
        reason=Reason.XID_SEEN,
        figures=("xid",),
        meaning="the driver reported an error that asks for nothing certain, or of which it is not known whom it hit",
        rule="in the last hour, unless its remedy is to ignore it",
        cause=Cause.UNKNOWN,
        level=Level.WATCH,
        recycle=Recycle.NO_USE,
        advice="dmesg names the process and what was hit: look for NVRM: Xid",
        source=_XID,
    ),
    Signal(
        reason=Reason.THROTTLED,
        figures=("hw_thermal_s", "power_brake_s", "clock_event_reasons"),
        meaning="the hardware halves its clocks or worse, for heat or because the power supply says so",
        rule="a tenth of the last 10 minutes; where durations are not told, 0.6 sightings a minute over 10 minutes",
        cause=Cause.HARDWARE,
        level=Level.WATCH,
        recycle=Recycle.NO_USE,
        advice="nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i INDEX; look at fans, airflow and power supplies",
        source=f"{_NVML}, fields 270 and 271; {_GPUD} hw-slowdown",
    ),
    Signal(
        reason=Reason.PCIE_DEGRADED,
        figures=("pcie_width", "pcie_width_max", "pcie_generation", "pcie_generation_max"),
        meaning="the PCIe link is narrower or slower than card and slot allow",
        rule="fewer lanes, at any time; a lower generation only under load, since it falls when idle by design",
        cause=Cause.HARDWARE,
        level=Level.WATCH,
        recycle=Recycle.NO_USE,
        advice="nvidia-smi -q -d PERFORMANCE -i INDEX and lspci -vv; have the card seated anew",
        source=_NVML,
    ),
    Signal(
        reason=Reason.PCIE_ERRORS,
        figures=("pcie_replays",),
        meaning="packets on the PCIe link that had to be sent again",
        rule="in the last 10 minutes more a minute than 0.15, 0.3, 0.48, 0.96, 1.92 or 3.84 a lane, by generation",
        cause=Cause.HARDWARE,
        level=Level.WATCH,
        recycle=Recycle.NO_USE,
        advice="have the card seated anew, or its riser or cable replaced",
        source=_DCGM,
    ),
    Signal(
        reason=Reason.NVLINK_ERRORS,
        figures=(
            *("nvlink_errors", "nvlink_crc_errors", "nvlink_replays", "nvlink_recoveries"),
            *("nvlink_crc_flit_errors", "nvlink_crc_data_errors", "xid"),
        ),
        meaning="errors on the links between GPUs",
        rule="a replay or recovery in the last 10 minutes, 100 checksum errors a second, or an Xid of NVLink",
        cause=Cause.HARDWARE,
        level=Level.WATCH,
        recycle=Recycle.NO_USE,
        advice="nvidia-smi nvlink --errorcounters -i INDEX",
        source=f"{_DCGM}; {_XID}",
    ),
    Signal(
        reason=Reason.HOT,
        figures=(
            *("sw_thermal_s", "thermal_s", "temperature_margin_c", "slowdown_offset_c", "temperature_c", "slowdown_c"),
            "clock_event_reasons",
        ),
        meaning="the driver lowers clocks for heat, or is about to",
        rule="a tenth of the last 10 minutes; or all readings of 5 minutes with no more margin than this type's own"
        " slowdown offset, or, where it has none, at its own slowdown temperature",
        cause=Cause.ENVIRONMENT,
        level=Level.INFO,
        recycle=Recycle.NO_USE,
        advice="look at the room, fans and airflow",
        source=f"{_NVML}, fields 75, 194 and 269; {_GPUD} temperature",
    ),
    Signal(
        reason=Reason.POWER_CAPPED,
        figures=("power_limit_w",),
        meaning="the power limit was lowered",
        rule="for a day after it fell by 2 % or more; then it is the new normal",
        cause=Cause.ENVIRONMENT,
        level=Level.INFO,
        recycle=Recycle.NO_USE,
        advice="ask who ran nvidia-smi --power-limit, or take a new baseline",
        source=_NVML,
    ),
    Signal(
        reason=Reason.CLOCKS_LOWERED,
        figures=("sm_clock_mhz",),
        meaning="clocks under load are lower than they were, though nothing throttles: somebody locked them",
        rule="for a day after the highest clock in 10 minutes of load fell by 10 % or more",
        cause=Cause.ENVIRONMENT,
        level=Level.INFO,
        recycle=Recycle.NO_USE,
        advice="nvidia-smi -q -d CLOCK -i INDEX; ask who ran nvidia-smi --lock-gpu-clocks",
        source=_NVML,
    ),
    Signal(
        reason=Reason.NEIGHBOUR,
        figures=("others",),
        meaning="somebody else began to use the device",
        rule="for a day after more processes of others are on it than before, while they are",
        cause=Cause.ENVIRONMENT,
        level=Level.INFO,
        recycle=Recycle.NO_USE,
        advice="nvidia-smi shows who it is",
        source=_NVML,
    ),
)
SIGNALS: Mapping[Reason, Signal] = {row.reason: row for row in _ROWS}

CONTEXT: Mapping[tuple[str, ...], str] = {
    (
        "ecc_volatile_corrected",
        "ecc_aggregate_corrected",
        "ecc_aggregate_uncorrected",
    ): "ECC at work; the aggregates are over the card's life and survive a reset",
    ("rows_remapped_corrected",): "rows remapped as a precaution",
    ("power_cap_s", "power_w", "power_default_limit_w"): "a GPU at its power limit is normal at full load",
    ("utilisation_percent", "performance_state"): '50 % or more is "under load" for the rules above',
    ("sm_clock_max_mhz", "memory_clock_mhz", "memory_clock_max_mhz"): "what the clocks may be",
    ("driver_version", "cuda_version", "vbios_version"): "provenance of every answer: a slowdown after a change has the"
    " cause version_changed, with both values named",
    ("nvml_version", "gsp_version"): "who answered",
}
"""Figures that are never bad by themselves: they are what the rules are read with. Source: the NVML API reference."""


def standing_in_the_way(reasons: frozenset[Reason], *, for_memory: bool) -> Reason | None:
    """Of what is wrong with a target's devices, what holds a recycle back; None when nothing does.

    for_memory: the recycle would answer a leak, which a GPU that waits for a repair does not explain.
    """
    stops = {Recycle.IMPOSSIBLE} if for_memory else {Recycle.IMPOSSIBLE, Recycle.FUTILE}
    return next((reason for reason, row in SIGNALS.items() if reason in reasons and row.recycle in stops), None)
