"""The rules of the trade for memory that grows, as others use them: what our detector is measured against.

Each takes a series in megabytes, a sample every half minute, and answers with the minute of its first alarm, or None.
They look every five minutes and want three alarms in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from baselines.quantiles import inflation
from benchmarks.leak_series import LIMIT_MB, STEP_MIN, Series

EVERY = int(5 / STEP_MIN)
IN_A_ROW = 3


def almost_full(memory: Series) -> float | None:
    """More than 90 % of the limit: what monit, uWSGI and circus are told."""
    looks = memory[::EVERY]
    return _first(looks > 0.9 * LIMIT_MB, np.arange(len(looks)) * 5.0)


def grows_10_mb_an_hour(memory: Series) -> float | None:
    """The slope of the last hour above 10 MB an hour: the default of a well-known observability product."""
    ends, slopes, _, _ = _regressions(memory, 60)
    return _first(slopes * 60 > 10, ends)


def backward_regression(memory: Series) -> float | None:
    """A good straight fit (R2 at least 0.8) over any window that reaches the limit within 7 days (Precog, 2021)."""
    alarms = []
    for window in (60, 120, 240, 480, 960, 1440):
        ends, slopes, fit, last = _regressions(memory, window)
        left = np.where(slopes > 0, (LIMIT_MB - last) / np.maximum(slopes, 1e-9), np.inf)
        alarms.append(_first((fit > 0.8) & (left < 7 * 1440), ends))
    return min((at for at in alarms if at is not None), default=None)


def mann_kendall(memory: Series) -> float | None:
    """Mann-Kendall over six hours of five-minute means, Z above 3.29, allowing for autocorrelation."""
    size, window = EVERY, 72
    means = memory[: len(memory) // size * size].reshape(-1, size).mean(axis=1)
    if len(means) < window:
        return None
    first, second = np.triu_indices(window, 1)
    hits = []
    for end in range(window, len(means) + 1):
        values = means[end - window : end]
        rises = values[second] - values[first]
        slope = float(np.median(rises / (second - first)))
        score = float(np.sign(rises).sum())
        swell = inflation(values - slope * np.arange(window))
        z = (score - np.sign(score)) / np.sqrt(swell * window * (window - 1) * (2 * window + 5) / 18)
        hits.append(z > 3.29 and slope > 0)
    return _first(np.array(hits), np.arange(window, len(means) + 1) * 5.0)


RULES: Mapping[str, Callable[[Series], float | None]] = {
    "used > 90 %": almost_full,
    "> 10 MB/h": grows_10_mb_an_hour,
    "regression, R2 > 0.8": backward_regression,
    "Mann-Kendall, 6 h": mann_kendall,
}


def _regressions(memory: Series, window_min: float) -> tuple[Series, Series, Series, Series]:
    """End, slope a minute, R2 and last value of every window that ends at a look."""
    count = int(window_min / STEP_MIN)
    if len(memory) < count:
        nothing = np.zeros(0)
        return nothing, nothing, nothing, nothing
    windows = np.lib.stride_tricks.sliding_window_view(memory, count)[::EVERY]
    times = np.arange(count) * STEP_MIN
    times -= times.mean()
    spread = float((times**2).sum())
    slopes = windows @ times / spread
    total = ((windows - windows.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    fit = slopes**2 * spread / np.maximum(total, 1e-9)
    return (np.arange(len(slopes)) * EVERY + count) * STEP_MIN, slopes, fit, windows[:, -1]


def _first(alarms: np.ndarray, ends: Series) -> float | None:
    if len(alarms) < IN_A_ROW:
        return None
    runs = np.convolve(alarms.astype(int), np.ones(IN_A_ROW, dtype=int))[: len(alarms)]
    found = np.flatnonzero(runs >= IN_A_ROW)
    return float(ends[found[0]]) if len(found) else None
