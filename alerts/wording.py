"""Numbers and reasons in the words of a person who was woken up: units, clock times, causes, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from alerts.episode import GateReason, Outcome
from baselines.verdict import Cause, Check, Reason

CAUSES: Mapping[Cause, str] = {
    Cause.MODEL: "the model or its server",
    Cause.LOAD: "load: it is busier than at baseline, the model itself is not slower",
    Cause.ENVIRONMENT: "the machine around it, not the model",
    Cause.HARDWARE: "the GPU, its driver or other hardware",
    Cause.VERSION_CHANGED: "a version that changed since the baseline",
    Cause.UNKNOWN: "not known",
}

TROUBLES: Mapping[Reason, str] = {
    Reason.TIMEOUT: "does not answer in time",
    Reason.REFUSED: "refuses connections",
    Reason.CONNECTION_FAILED: "cannot be reached",
    Reason.SERVER_ERROR: "answers with server errors",
    Reason.CLIENT_ERROR: "rejects the canary's request",
    Reason.SATURATED: "has been too busy to give one good answer",
    Reason.WORKER_FAILED: "lost its worker process",
    Reason.CUDA_FAULT: "reports a CUDA fault",
    Reason.NOT_READABLE: "gives an answer that cannot be read",
    Reason.WRONG_TEXT: "gives another text than expected",
    Reason.WRONG_SHAPE: "gives an answer of the wrong shape",
    Reason.NOT_FINITE: "answers with NaN or infinity",
    Reason.DRIFTED: "answers differently from its golden output",
    Reason.WRONG_TOP_K: "ranks other answers first than its golden output",
    Reason.REGRESSED: "is slower than its baseline",
    Reason.SLOWER_THAN_PEERS: "is slower than its peers",
    Reason.LEAKING: "leaks memory",
    Reason.LIMIT_EXCEEDED: "is over its limit",
    Reason.DRIVER_UNRESPONSIVE: "has a GPU driver that does not answer",
    Reason.GPU_LOST: "has lost its GPU",
    Reason.REBOOT_NEEDED: "is on a machine whose GPU driver asks for a reboot",
    Reason.GPU_RESET_NEEDED: "is on a GPU that needs a reset",
    Reason.GPU_FAULTY: "is on a GPU that has to be replaced",
    Reason.ECC_UNCORRECTED: "is on a GPU with uncorrectable memory errors",
    Reason.MEMORY_REPAIR_PENDING: "is on a GPU whose memory waits for a repair",
    Reason.XID_REPEATED: "is on a GPU that fails again and again",
    Reason.CONTEXT_POISONED: "can no longer use its GPU in this process",
    Reason.XID_SEEN: "is on a GPU whose driver reported an error",
    Reason.THROTTLED: "is on a GPU that the hardware slows down",
    Reason.PCIE_DEGRADED: "is on a GPU with a degraded PCIe link",
    Reason.PCIE_ERRORS: "is on a GPU with PCIe errors",
    Reason.NVLINK_DOWN: "is on a GPU that lost an NVLink",
    Reason.NVLINK_ERRORS: "is on a GPU with NVLink errors",
    Reason.HOT: "is on a GPU that is too hot",
    Reason.POWER_CAPPED: "is on a GPU whose power limit was lowered",
    Reason.CLOCKS_LOWERED: "is on a GPU whose clocks were lowered",
    Reason.NEIGHBOUR: "shares its GPU with somebody new",
}
"""Predicates: each is read after the name of the target."""

RECOVERIES: Mapping[Check, str] = {
    Check.AVAILABILITY: "answers again",
    Check.OUTPUT: "gives the right answer again",
    Check.LATENCY: "is back within its baseline",
    Check.MEMORY: "no longer grows",
    Check.GPU: "has a healthy GPU again",
}

RECOVERED_FROM: Mapping[Reason, str] = {Reason.SLOWER_THAN_PEERS: "is no longer slower than its peers"}
"""Where the check alone does not say it."""

REFUSALS: Mapping[GateReason, str] = {
    GateReason.ALLOWED: "it was allowed",
    GateReason.NO_RECYCLER: "no [target.recycle] is configured",
    GateReason.INCIDENT_OVER: "the incident was over by then",
    GateReason.CAUSE_NOT_MODEL: "only a fault of the model or its server is recycled",
    GateReason.HARDWARE: "its GPU needs what a recycle cannot give",
    GateReason.LEVEL_TOO_LOW: "only page and urgent are acted on",
    GateReason.EVIDENCE_MISSING: "a signal that should be there is missing",
    GateReason.WORKER_GONE: "no worker is running",
    GateReason.BREAKER_OPEN: "the breaker is open until a person resets it",
    GateReason.RECOVERING: "it has answered well since",
    GateReason.EVIDENCE_STALE: "the evidence is too old; it waits for a fresh verdict",
    GateReason.REQUEST_STALE: "it was asked for too long ago; ask again",
    GateReason.JUST_RECYCLED: "it was recycled since this was asked for",
    GateReason.IN_FLIGHT: "another recycle is under way",
    GateReason.GROUP_BUSY: "too many of its group are being recycled",
    GateReason.SILENCED: "it is silenced",
    GateReason.TOO_YOUNG: "the worker has only just started",
    GateReason.COOLING_DOWN: "the last recycle was too short a time ago",
    GateReason.BUDGET_SPENT: "it was recycled too often already",
    GateReason.MODE: 'would recycle, but mode is not "act"',
}

ENDINGS: Mapping[Outcome, str] = {
    Outcome.VERIFIED: "was recycled and is well again",
    Outcome.TRIMMED: "gave its memory back and was not recycled",
    Outcome.NOT_HELPED: "was recycled and it did not help",
    Outcome.ACT_FAILED: "could not be recycled",
    Outcome.NOT_READY: "was recycled and did not come back",
    Outcome.INTERRUPTED: "was being recycled when the watchdog stopped",
    Outcome.BLOCKED: "was not recycled",
}


def say_duration(seconds: float) -> str:
    """ "131 ms", "4.2 s", "12 min", "3 h 20 min", "5 d 3 h". A negative one keeps its sign."""
    if seconds < 0:
        return f"-{say_duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


COUNTED: Mapping[str, str] = {"fds": "file descriptors", "threads": "threads"}
"""What leaks and is no memory, by the name of its figure."""


def say_size(size_bytes: float) -> str:
    """Like 512 MB, 1.25 GB: three digits, decimal units. Keeps the sign."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size_bytes) >= 0.9995 * factor:
            scaled = size_bytes / factor
            return f"{scaled:.0f} {unit}" if abs(scaled) >= 99.5 else f"{scaled:.3g} {unit}"
    return f"{size_bytes:.0f} B"


def say_count(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def say_clock(at: float, now: float) -> str:
    """ "03:12 UTC, 12 min ago"; with the date when it was another day in UTC."""
    moment, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    clock = moment.strftime("%H:%M UTC") if moment.date() == today.date() else moment.strftime("%-d %b %H:%M UTC")
    return f"{clock}, {say_duration(now - at)} ago" if now - at >= 1 else f"{clock}, just now"


def say_fact(key: str, value: float | int | str) -> str:
    """One figure of the evidence; its unit is the suffix of its key. A part after a dot names what it is about."""
    key, _, about = key.partition(".")
    return f"{_say_figure(key, value)} ({about})" if about else _say_figure(key, value)


def _say_figure(key: str, value: float | int | str) -> str:
    if isinstance(value, str):
        return f"{key.replace('_', ' ')}: {value}"
    if key.startswith("seconds_"):
        return f"time {key.removeprefix('seconds_').replace('_', ' ')} {say_duration(value)}"
    for suffix, say in _UNITS:
        if key.endswith(suffix):
            return f"{key.removesuffix(suffix).replace('_', ' ')} {say(value)}".strip()
    return f"{key.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"


_UNITS: tuple[tuple[str, Callable[[float], str]], ...] = (  # the first that fits, so longer suffixes come first
    ("_bytes_per_hour", lambda value: f"{say_size(value)}/h"),
    ("_bytes", say_size),
    ("_s", say_duration),
    ("_at", lambda at: f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"),
    ("_ratio", lambda value: f"ratio {value:.2f}"),
    ("_cpu", lambda value: f"CPU {value:.0%} of a core"),
)
