"""What is normal for a canary's latency, as its baseline shows it: where a burst lies, how much bursts differ, and how
often a request is slow.

All on natural logarithms, so that a threshold is a ratio and no unit matters. Every field is a number, or, where many
streams are followed at once, an array with one for each (their number of bursts and requests is then the same).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from baselines.quantiles import Floats, Groups

TRIM_LOW, TRIM_HIGH = 0.1, 0.2  # of a burst: a request in ten may be too fast, two may be stalls
MIN_SD = 0.010  # no host repeats itself better than to a percent
WINSOR = 2.5  # deviations; a bad burst in a baseline makes no detector blind
OUTLIER, OUTLIER_RISE, MAX_OUTLIERS = 5.0, 0.2, 0.05  # deviations, at least this far in logs; share of the bursts
MAX_SLOW = 0.2  # of a burst's requests that count in the tail; a stalled burst is one event
LEVEL_SPAN = 7  # bursts whose median location is taken off for the shape
DRIFT = math.log(1.06)  # the tail's tolerance: a wander of 6 % is no change
LINE = 0.75  # of the threshold's rise: where a request counts as slow
MIN_RATE = 0.006
MAX_SPREAD = 4.0

Number = float | Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What was known of the noise before: the standard deviation of burst locations, and how many bursts that is worth.

    The noise is the machine's and outlives a version of the model; its level does not, and is never carried on.
    """

    sd: float
    bursts: float


USUAL = Prior(sd=0.04, bursts=4.0)  # a quiet machine, where nothing else is known
CARRIED, MOST_CARRIED = 0.5, 60.0  # of the bursts of former baselines: noise changes too


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """threshold: the rise of p95 that is looked for, as a fraction. bursts: of the baseline. size: requests of a burst.

    center: of the burst locations. within, between: the two parts of their variance: what more requests in a burst
    would lower, and what they would not; the latter is raised for neighbours that resemble each other. p95: of all
    requests. tail_rate: share of requests above `tail_line` at most, a drift allowed for; tail_spread: variance over
    mean of their number in a burst of `size`, 1 to MAX_SPREAD. shape_*: the same of what is left when the location of
    the last LEVEL_SPAN bursts is taken off, without a drift to allow for.
    """

    threshold: float
    bursts: int
    size: float
    center: Number
    within: Number
    between: Number
    p95: Number
    tail_line: Number
    tail_rate: Number
    tail_spread: Number
    shape_line: Number
    shape_rate: Number
    shape_spread: Number

    @property
    def rise(self) -> float:
        """The logarithm of the ratio that is looked for."""
        return math.log1p(self.threshold)

    def variance(self, size: float) -> Floats:
        """Of the location of a burst of so many requests."""
        return np.asarray(self.between + np.asarray(self.within) * (self.size / size))


def location(logs: Floats) -> Floats:
    """The mean of each burst without its fastest tenth and its slowest fifth; the last axis is the burst."""
    count = logs.shape[-1]
    low = int(TRIM_LOW * count)
    ordered = np.sort(logs, axis=-1)
    return np.asarray(ordered[..., low : max(low + 1, count - round(TRIM_HIGH * count))].mean(axis=-1))


def carry(bursts: Groups, prior: Prior | None) -> Prior:
    """What the next baseline may know of the noise from this one (latencies in seconds) and from those before it."""
    locations = np.array([float(location(np.log(burst))) for burst in bursts])
    _, total = _spread_of(locations, prior or USUAL)
    known = len(locations) + (prior.bursts if prior else 0.0)
    return Prior(sd=math.sqrt(total), bursts=min(CARRIED * known, MOST_CARRIED))


def noise_of(bursts: Groups, *, threshold: float, prior: Prior | None = None) -> Noise:
    """Of a baseline's latencies in seconds, one non-empty tuple per burst, at least one; threshold as a fraction.

    prior: from former baselines; None takes a quiet machine's.
    """
    logs = [np.log(burst) for burst in bursts]
    locations = np.array([float(location(burst)) for burst in logs])
    within, between, center = _variances(logs, locations, prior or USUAL)
    normal = _without_outliers(locations, center)
    logs, locations = [logs[i] for i in normal], locations[normal]
    pooled = np.sort(np.concatenate(logs))
    rise = math.log1p(threshold)
    p95 = _nearest_p95(pooled)
    tail_line = p95 + LINE * rise
    rests = [burst - level for burst, level in zip(logs, levels(locations), strict=True)]
    shape_line = _nearest_p95(np.sort(np.concatenate(rests))) + LINE * rise
    return Noise(
        threshold=threshold,
        bursts=len(bursts),
        size=len(pooled) / len(bursts),
        center=center,
        within=within,
        between=between,
        p95=p95,
        tail_line=tail_line,
        tail_rate=_rate(logs, tail_line - DRIFT),
        tail_spread=_spread(logs, tail_line - DRIFT),
        shape_line=shape_line,
        shape_rate=_rate(rests, shape_line),
        shape_spread=_spread(rests, shape_line),
    )


def side_by_side(noises: Sequence[Noise]) -> Noise:
    """Those of many streams as one with arrays; at least one, all of the same threshold and number of bursts."""
    shared = {"threshold", "bursts", "size"}
    own: dict[str, Any] = {
        field.name: np.array([getattr(noise, field.name) for noise in noises])
        for field in fields(Noise)
        if field.name not in shared
    }
    return replace(noises[0], **own)


def levels(locations: Floats) -> Floats:
    """For each burst the median location of the last LEVEL_SPAN, itself included; along the first axis."""
    padded = np.concatenate([np.repeat(locations[:1], LEVEL_SPAN - 1, axis=0), locations])
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, LEVEL_SPAN, axis=0), axis=-1))


def _nearest_p95(ordered: Floats) -> float:
    return float(ordered[math.ceil(0.95 * len(ordered)) - 1])


def _variances(logs: Sequence[Floats], locations: Floats, prior: Prior) -> tuple[float, float, float]:
    """(within, between, center) of burst locations, winsorised.

    What lies within is told by the two halves of each burst, every other request: half their difference varies as the
    whole's location does. Neighbours that resemble each other (phi, their correlation less what chance gives) make a
    mean of many less certain than it looks.
    """
    count = len(locations)
    off, total = _spread_of(locations, prior)
    center = float(np.median(locations) + off.mean())
    off = off - off.mean()
    power = float(off @ off)
    together = float(off[1:] @ off[:-1]) / power if power > 0 else 0.0
    phi = min(max(together - 1 / math.sqrt(count), 0.0), 0.6)
    halves = [float(location(burst[::2]) - location(burst[1::2])) for burst in logs if len(burst) > 1]
    apart = _winsorise(np.array(halves)) if halves else np.zeros(1)
    within = min(float(apart @ apart) / len(apart) / 4, 0.9 * total)
    return within, (total - within) + total * 2 * phi / (1 - phi), center


def _spread_of(locations: Floats, prior: Prior) -> tuple[Floats, float]:
    """(deviations from the median, winsorised; the variance). A few bursts tell little of it: the prior is mixed in."""
    count = len(locations)
    off = _winsorise(locations - np.median(locations))
    power = float(((off - off.mean()) ** 2).sum())
    total = (1.04 * power + prior.bursts * prior.sd**2) / (count - 1 + prior.bursts)
    return off, max(total, MIN_SD**2) * (1 + 1.3 / math.sqrt(2 * count))


def _without_outliers(locations: Floats, center: float) -> list[int]:
    """The bursts that tell what is normal: without those far above the others, MAX_OUTLIERS of them at most.

    One bad burst of 60 holds more than 1 % of all requests, and would set p95 and the usual share of slow requests.
    """
    off = locations - center
    far = max(OUTLIER * 1.4826 * float(np.median(np.abs(off))), OUTLIER_RISE)
    worst = np.argsort(off)[len(off) - int(MAX_OUTLIERS * len(off)) :]
    return [i for i in range(len(off)) if off[i] <= far or i not in worst]


def _winsorise(off: Floats) -> Floats:
    limit = WINSOR * 1.4826 * float(np.median(np.abs(off)))
    return np.asarray(np.clip(off, -limit, limit)) if limit > 0 else off


def count_slow(logs: Floats, line: Number) -> Floats:
    """Requests of a burst, its last axis, above a line, those beyond MAX_SLOW of it not counted."""
    most = max(2, math.ceil(MAX_SLOW * logs.shape[-1]))
    return np.asarray(np.minimum((logs > np.asarray(line)[..., None]).sum(axis=-1), float(most)))


def _rate(bursts: Sequence[Floats], line: float) -> float:
    """An upper guess of the share of requests above a line: one more, and 0.7 deviations, than were seen."""
    above = sum(float(count_slow(burst, line)) for burst in bursts) + 1.0
    return max((above + 0.7 * math.sqrt(above)) / (sum(map(len, bursts)) + 2.0), MIN_RATE)


def _spread(bursts: Sequence[Floats], line: float) -> float:
    counts = np.array([count_slow(burst, line) for burst in bursts], dtype=np.float64)
    least = 1.0 / sum(map(len, bursts))
    return float(np.clip(counts.var() / max(float(counts.mean()), least), 1.0, MAX_SPREAD))
