"""What is normal for a canary's latency, as its baseline shows it: where a burst lies, how much bursts differ, and how
often a request is slow.

All on natural logarithms, so that a threshold is a ratio and no unit matters. Every field is a number, or in
simulations an array with one for each of many streams.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from baselines.quantiles import Floats, Groups

TRIM_LOW, TRIM_HIGH = 0.1, 0.2  # of a burst: a request in ten may be too fast, two may be stalls
MIN_SD = 0.010  # no host repeats itself better than to a percent
WINSOR = 2.5  # deviations; a bad burst in a baseline makes no detector blind
LEVEL_SPAN = 7  # bursts whose median location is taken off for the shape
DRIFT = math.log(1.06)  # the tail's tolerance: a wander of 6 % is no change
LINE = 0.75  # of the threshold: where a request counts as slow
MIN_RATE = 0.006

Number = float | Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """threshold: of the change looked for. center, variance: of the burst locations. p95: of all requests.

    tail_rate: share of requests that is above `tail_line` at most, a drift allowed for; tail_spread: variance over mean
    of their number in a burst, 1 to 4. shape_*: the same of what is left when the location of the last LEVEL_SPAN
    bursts is taken off, without a drift to allow for.
    """

    threshold: float
    center: Number
    variance: Number
    p95: Number
    tail_line: Number
    tail_rate: Number
    tail_spread: Number
    shape_line: Number
    shape_rate: Number
    shape_spread: Number


def location(logs: Floats) -> Floats:
    """The mean of each burst without its fastest tenth and its slowest fifth; the last axis is the burst."""
    count = logs.shape[-1]
    low = int(TRIM_LOW * count)
    ordered = np.sort(logs, axis=-1)
    return np.asarray(ordered[..., low : max(low + 1, count - round(TRIM_HIGH * count))].mean(axis=-1))


def noise_of(bursts: Groups, *, threshold: float) -> Noise:
    """Of a baseline's latencies in seconds, one non-empty tuple per burst, at least one; threshold as a fraction."""
    logs = [np.log(burst) for burst in bursts]
    rise, count = math.log1p(threshold), len(bursts)
    locations = np.array([float(location(burst)) for burst in logs])
    center = float(np.median(locations))
    pooled = np.sort(np.concatenate(logs))
    p95 = float(pooled[math.ceil(0.95 * len(pooled)) - 1])
    tail_line = p95 + LINE * rise
    rests = [burst - level for burst, level in zip(logs, levels(locations), strict=True)]
    rest = np.sort(np.concatenate(rests))
    shape_line = float(rest[math.ceil(0.95 * len(rest)) - 1]) + LINE * rise
    return Noise(
        threshold=threshold,
        center=center,
        variance=_variance(locations - center, count),
        p95=p95,
        tail_line=tail_line,
        tail_rate=_rate(logs, tail_line - DRIFT),
        tail_spread=_spread(logs, tail_line - DRIFT),
        shape_line=shape_line,
        shape_rate=_rate(rests, shape_line),
        shape_spread=_spread(rests, shape_line),
    )


def levels(locations: Floats) -> Floats:
    """For each burst the median location of the last LEVEL_SPAN, itself included; along the first axis."""
    padded = np.concatenate([np.repeat(locations[:1], LEVEL_SPAN - 1, axis=0), locations])
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, LEVEL_SPAN, axis=0), axis=-1))


def _variance(off: Floats, count: int) -> float:
    """Of burst locations: winsorised, raised for a small sample and for neighbours that resemble each other."""
    limit = WINSOR * 1.4826 * float(np.median(np.abs(off)))
    off = np.clip(off, -limit, limit)
    power = float(off @ off)
    together = float(off[1:] @ off[:-1]) / power if power > 0 else 0.0
    phi = min(max(together - 1 / math.sqrt(count), 0.0), 0.6)
    variance = max(1.04 * power / count, MIN_SD**2)
    return variance * (1 + 1.3 / math.sqrt(2 * count)) * (1 + phi) / (1 - phi)


def _rate(bursts: Sequence[Floats], line: float) -> float:
    """An upper guess of the share of requests above a line: one more, and 0.7 deviations, than were seen."""
    above = sum(int(np.count_nonzero(burst > line)) for burst in bursts) + 1.0
    return max((above + 0.7 * math.sqrt(above)) / (sum(map(len, bursts)) + 2.0), MIN_RATE)


def _spread(bursts: Sequence[Floats], line: float) -> float:
    counts = np.array([np.count_nonzero(burst > line) for burst in bursts], dtype=np.float64)
    least = 1.0 / sum(map(len, bursts))
    return float(np.clip(counts.var() / max(float(counts.mean()), least), 1.0, 4.0))
