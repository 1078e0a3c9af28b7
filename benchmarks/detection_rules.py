"""What others do about a slower canary, as scores over streams of bursts; and a genie who knows everything.

Each takes logarithms of shape (bursts, lanes, requests), the first BASELINE bursts of which are the baseline, and gives
a score for each burst and lane; the rule alarms where it reaches its usual line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.detection_streams import BASELINE, NOISE, SLOW_SHARE, THRESHOLD, Array, slow_path


@dataclass(frozen=True, slots=True)
class Rule:
    """line: the score from which it alarms as it is usually shipped."""

    score: Callable[[Array], Array]
    line: float


def _sums(values: Array, length: int) -> Array:
    """Of the last `length` bursts; NaN before there are so many."""
    total = np.cumsum(values, axis=0, dtype=np.float64)
    out = np.full(total.shape, np.nan)
    out[length - 1 :] = total[length - 1 :]
    out[length:] -= total[:-length]
    return out


def _quantile(logs: Array, length: int) -> Array:
    """The pooled p95 (nearest rank) of the last `length` bursts."""
    bursts, lanes, size = logs.shape
    out = np.full((bursts, lanes), -np.inf)
    count = length * size
    rank, step = math.ceil(0.95 * count) - 1, max(1, 4_000_000 // (lanes * count))
    windows = np.lib.stride_tricks.sliding_window_view(logs, length, axis=0)
    for at in range(0, len(windows), step):
        block = windows[at : at + step].reshape(-1, count)
        found = np.partition(block, rank, axis=1)[:, rank].reshape(-1, lanes)
        out[at + length - 1 : at + length - 1 + len(found)] = found
    return out


def naive(length: int) -> Rule:
    """p95 of the last bursts over the baseline's."""

    def score(logs: Array) -> Array:
        ratio = np.exp(_quantile(logs, length) - np.quantile(logs[:BASELINE], 0.95, axis=(0, 2), method="inverted_cdf"))
        ratio[:BASELINE] = 0
        return np.asarray(ratio)

    return Rule(score, 1 + THRESHOLD)


def medians_in_a_row(count: int) -> Rule:
    """The least of so many burst medians, over the baseline's."""

    def score(logs: Array) -> Array:
        medians = np.median(logs, axis=-1)
        over = medians - np.median(medians[:BASELINE], axis=0)
        least = over.copy()
        for back in range(1, count):
            least[back:] = np.minimum(least[back:], over[:-back])
        least[: BASELINE + count] = -np.inf
        return np.asarray(np.exp(least))

    return Rule(score, 1 + 0.7 * THRESHOLD)


def mann_whitney(length: int) -> Rule:
    """As Kayenta judges a canary: ranks against the baseline, and a mean that is 10 % up."""

    def score(logs: Array) -> Array:
        _, lanes, size = logs.shape
        base = np.sort(logs[:BASELINE].transpose(1, 0, 2).reshape(lanes, -1), axis=1)
        held = base.shape[1]
        ranks = np.stack(
            [
                (np.searchsorted(base[i], logs[:, i], "left") + np.searchsorted(base[i], logs[:, i], "right"))
                / 2
                / held
                for i in range(lanes)
            ],
            axis=1,
        )
        count = length * size
        z = (_sums(ranks.mean(-1), length) / length - 0.5) / math.sqrt((held + count + 1) / (12 * held * count))
        mean = np.exp(np.minimum(logs, 3)).mean(-1)
        ratio = _sums(mean, length) / length / mean[:BASELINE].mean(0)
        z = np.where(ratio >= 1.10, z, -np.inf)
        z[: BASELINE + length] = -np.inf
        return np.asarray(np.nan_to_num(z, nan=-np.inf))

    return Rule(score, 2.33)


def page_hinkley() -> Rule:
    """On the mean of the three slowest requests of a burst; its reference follows."""

    def score(logs: Array) -> Array:
        tops = np.sort(logs, axis=-1)[..., -3:].mean(-1)
        mean, total, out = tops[:BASELINE].mean(0), np.zeros(tops.shape[1]), np.zeros_like(tops)
        for t in range(BASELINE, len(tops)):
            mean = mean + (tops[t] - mean) / (t + 1)
            total = np.maximum(0, 0.9999 * total + tops[t] - mean - 0.09)
            out[t] = total
        return np.asarray(out)

    return Rule(score, 50.0)


def adwin() -> Rule:
    """ADWIN's cut in two windows, on the second slowest request, against at most a day; its bound as z."""

    def score(logs: Array) -> Array:
        values = np.clip(np.sort(logs, axis=-1)[..., -2], -1, 1.5)
        one, two = (np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(v, axis=0)]) for v in (values, values**2))
        out = np.full(values.shape, -np.inf)
        for length in (5, 10, 20, 40, 80):
            ends = np.arange(BASELINE + length, len(values)) + 1
            cut, first = ends - length, np.maximum(0, ends - length - 1440)
            older = (cut - first)[:, None]
            new_mean, old_mean = (one[ends] - one[cut]) / length, (one[cut] - one[first]) / older
            variance = (two[cut] - two[first]) / older - old_mean**2
            z = (new_mean - old_mean) / np.sqrt(np.maximum(variance, 1e-9) * (1 / length + 1 / older))
            out[ends - 1] = np.maximum(out[ends - 1], z)
        return out

    return Rule(score, 5.0)


def e_detector() -> Rule:
    """Betting on requests above 1.10 times the upper bound of the baseline's p95 (Shin, Ramdas and Rinaldo 2022).

    Alarms less often than once in 30 days whatever the noise, if bursts do not hang together.
    """

    def score(logs: Array) -> Array:
        base = np.sort(logs[:BASELINE].transpose(1, 0, 2).reshape(logs.shape[1], -1), axis=1)
        held = base.shape[1]
        rank = min(held - 1, math.ceil(0.95 * held + 1.645 * math.sqrt(held * 0.95 * 0.05)))
        share = (logs > (base[:, rank] + math.log(1.10))[None, :, None]).mean(-1)
        bets = np.array([0.5, 1, 2, 4, 8, 15])[:, None]
        wealth, out = np.zeros((len(bets), logs.shape[1])), np.zeros(share.shape)
        for t in range(BASELINE, len(logs)):
            wealth = np.minimum((1 + wealth) * (1 + bets * (share[t] - 0.05)), 1e30)
            out[t] = np.log(wealth.mean(0))
        return out

    return Rule(score, math.log(30 * 1440))


def river_adwin() -> Rule:
    """river's ADWIN as it is shipped, on the second slowest request: a drift upwards, when it is seen."""

    def score(logs: Array) -> Array:
        drift = import_module("river.drift")  # an extra of the benchmarks

        values = np.sort(logs, axis=-1)[..., -2]
        out = np.zeros(values.shape)
        for lane in range(values.shape[1]):
            detector: Any = drift.ADWIN()
            for t, value in enumerate(values[:, lane].tolist()):
                before = detector.estimation
                detector.update(value)
                out[t, lane] = float(detector.drift_detected and t >= BASELINE and detector.estimation > before)
        return out

    return Rule(score, 1.0)


RULES: Mapping[str, Rule] = {
    "p95 of 5 > 1.2 x": naive(5),
    "p95 of 30 > 1.2 x": naive(30),
    "5 medians > 1.14 x": medians_in_a_row(5),
    "Mann-Whitney, 15": mann_whitney(15),
    "Page-Hinkley": page_hinkley(),
    "ADWIN": adwin(),
    "e-detector": e_detector(),
}


LIBRARY_RULES: Mapping[str, Rule] = {"river's ADWIN": river_adwin()}
"""Those that need a library of the benchmarks' own."""


def genie(kind: str, logs: Array, common: Array, what: str) -> npt.NDArray[np.float64]:
    """CUSUM of the true likelihood ratio, the common part of each burst known. For normal requests alone it is exact.

    Its line is log(30 days): one false alarm a month at most (Lorden 1971).
    """
    sd, own = NOISE[kind], logs - common[..., None]

    def density(x: Array) -> Array:
        return np.asarray(-0.5 * (x / sd) ** 2)

    if what.startswith("+"):
        ratio = density(own - math.log1p(float(what[1:-2]) / 100)) - density(own)
    else:
        body = math.log(1.08) if what.startswith("mixed") else 0.0
        slow = slow_path(own[:BASELINE], math.log1p(THRESHOLD) - body)
        changed = np.logaddexp(
            math.log(1 - SLOW_SHARE) + density(own - body), math.log(SLOW_SHARE) + density(own - slow - body)
        )
        ratio = changed - density(own)
    steps, total = ratio.sum(-1), np.zeros(logs.shape[1])
    out = np.zeros(steps.shape)
    for t in range(BASELINE, len(steps)):
        total = np.maximum(0, total + steps[t])
        out[t] = total
    return out
