"""How much: the evidence of each detector as one clause with its interval, to be read after "Latency of chat: "."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from alerts.wording import COUNTED, say_count, say_duration, say_size
from baselines.verdict import Check, Evidence, Reason

SAID = frozenset(
    {
        *(
            "detail",
            "changed",
            "gpu",
            "channel",
            "ratio",
            "ratio_low",
            "ratio_high",
            "p95_s",
            "baseline_p95_s",
            "limit_s",
        ),
        *("slope_bytes_per_hour", "slope_low", "slope_high", "used_bytes", "capacity_bytes", "memory_ratio"),
        *("slope_per_hour", "slope_per_hour_low", "slope_per_hour_high", "used", "capacity"),
        *("peers_p95_s", "replica", "replicas", "peers", "gpu_type"),
        *("limit_ratio", "seconds_to_capacity", "seconds_to_capacity_low", "seconds_to_capacity_high"),
        "others_slope_bytes_per_hour",
        *("seconds_quiet", "sweeps"),
    }
)
"""Keys of the evidence that a message says in a clause of its own and need not list again."""

_CHANNELS: Mapping[str, str] = {
    "whole": "every request is slower",
    "tail": "only the slowest requests are slower",
    "mixed": "all are slower, the slowest the most",
    "host_anon_bytes": "host memory",
    "gpu_used_bytes": "GPU memory",
    "allocated_bytes": "torch's allocator",
    "reserved_bytes": "what torch's allocator reserves",
    "outside_torch_bytes": "GPU memory outside torch",
    **COUNTED,
}


def say_magnitude(check: Check, reason: Reason, strikes: tuple[int, ...], evidence: Evidence) -> str:
    """The clause; empty when the evidence holds none of the numbers."""
    if reason is Reason.LIMIT_EXCEEDED:
        return _say_limit(evidence)
    if reason is Reason.SLOWER_THAN_PEERS:
        return _say_beside(evidence)
    if check is Check.LATENCY:
        return _say_ratio(evidence)
    if check is Check.MEMORY:
        return _say_slope(evidence)
    if check in (Check.AVAILABILITY, Check.OUTPUT) and len(strikes) > 1:
        return f"{sum(s > 0 for s in strikes)} of the last {len(strikes)} bursts were bad"
    return ""


def number(evidence: Mapping[str, object], key: str) -> float | None:
    """A finite number of the evidence; None when it is missing, not a number, NaN or infinite."""
    value = evidence.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _say_ratio(evidence: Evidence) -> str:
    ratio, low, high = (number(evidence, key) for key in ("ratio", "ratio_low", "ratio_high"))
    p95_s, baseline_s = number(evidence, "p95_s"), number(evidence, "baseline_p95_s")
    said = []
    if ratio is not None:
        interval = f" (interval {low:.2f} to {high:.2f})" if low is not None and high is not None else ""
        said.append(f"p95 is {ratio:.2f} x its baseline{interval}")
    if p95_s is not None and baseline_s is not None:
        said.append(f"{say_duration(p95_s)} against {say_duration(baseline_s)}")
    return ", ".join([*said, *say_channel(evidence)])


def _say_beside(evidence: Evidence) -> str:
    """Of a replica among the others: "replica 3 of 4 is 24 % slower than its 3 peers on the same GPU type ..."."""
    ratio, low, high = (number(evidence, key) for key in ("ratio", "ratio_low", "ratio_high"))
    place, count, peers = (number(evidence, key) for key in ("replica", "replicas", "peers"))
    if ratio is None or place is None or count is None or peers is None:
        return ""
    gpu = evidence.get("gpu_type")
    on = f" on the same GPU type, {gpu}" if gpu else ""
    said = [f"replica {place:.0f} of {count:.0f} is {ratio - 1:.0%} slower than its {peers:.0f} peers{on}"]
    if low is not None and high is not None:
        said = [f"{said[0]} (interval {low - 1:.0%} to {high - 1:.0%})"]
    p95_s, peers_s = number(evidence, "p95_s"), number(evidence, "peers_p95_s")
    if p95_s is not None and peers_s is not None:
        said.append(f"p95 {say_duration(p95_s)} against {say_duration(peers_s)}")
    return ", ".join(said)


def _say_slope(evidence: Evidence) -> str:
    say: Callable[[float], str] = say_size
    slope, low, high = (number(evidence, key) for key in ("slope_bytes_per_hour", "slope_low", "slope_high"))
    used, capacity = number(evidence, "used_bytes"), number(evidence, "capacity_bytes")
    if slope is None:  # a figure that is counted
        say = say_count
        slope, low, high = (number(evidence, f"slope_per_hour{x}") for x in ("", "_low", "_high"))
        used, capacity = number(evidence, "used"), number(evidence, "capacity")
    if slope is None:
        return ""
    interval = f" (interval {say(low)} to {say(high)})" if low is not None and high is not None else ""
    said = [f"grows by {say(slope)}/h{interval}", *say_channel(evidence)]
    if used is not None:
        said.append(f"{say(used)}{f' of {say(capacity)}' if capacity is not None else ''} used")
    if (sweeps := number(evidence, "sweeps")) is not None:
        said.insert(1, f"by what its last {sweeps:.0f} sweeps left")
    if (quiet_s := number(evidence, "seconds_quiet")) is not None:
        said.insert(1, f"as seen until {say_duration(quiet_s)} ago: the load is too low since")
    if (others := number(evidence, "others_slope_bytes_per_hour")) is not None:
        said.append(f"what others have of that grows by {say_size(others)}/h")
    if left := say_left(evidence):
        said.append(left)
    return ", ".join(said)


def say_left(evidence: Mapping[str, object]) -> str:
    """When memory is full: "full in 3 h (2 h 10 min to 5 h)"; "(2 h 10 min or later)" where no end can be told, "at
    this rate" where nothing can. Empty when no date is known."""
    left_s, soonest_s, latest_s = (number(evidence, f"seconds_to_capacity{x}") for x in ("", "_low", "_high"))
    if left_s is None:
        return ""
    if soonest_s is None:
        return f"full in {say_duration(left_s)} at this rate"
    until = "or later" if latest_s is None else f"to {say_duration(latest_s)}"
    return f"full in {say_duration(left_s)} ({say_duration(soonest_s)} {until})"


def _say_limit(evidence: Evidence) -> str:
    p95_s, limit_s = number(evidence, "p95_s"), number(evidence, "limit_s")
    share, limit_share = number(evidence, "memory_ratio"), number(evidence, "limit_ratio")
    if p95_s is not None and limit_s is not None:
        return f"p95 is {say_duration(p95_s)}, the limit is {say_duration(limit_s)}"
    if share is not None and limit_share is not None:
        said = f"{share:.0%} of what it can have is used, the limit is {limit_share:.0%}"
        return ", ".join([said, *say_channel(evidence)])
    return ""


def say_channel(evidence: Evidence) -> list[str]:
    """Which figure it is about; nothing where that is not known."""
    channel = _CHANNELS.get(str(evidence.get("channel")))
    return [channel] if channel else []
