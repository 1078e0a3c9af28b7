"""How slow: bursts of a canary over its baseline, as a verdict, a message and replay show it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from baselines.baseline import Baseline
from baselines.floor import floor_of
from baselines.quantiles import quantile, quantile_ratio
from baselines.seen import Seen, pool
from baselines.verdict import Evidence

_WHOLE, _TAIL = 2 / 3, 1 / 3  # share of the p95's move (in logs) that the floor shared: all requests, or the slowest


def measure(seen: Sequence[Seen], baseline: Baseline) -> Evidence:
    """Ratios over the baseline with the interval of p95's; the same keys whether it is worse or not."""
    groups = tuple(each.latencies for each in seen)
    pooled = pool(groups)
    ratio = quantile_ratio(groups, baseline.bursts, 0.95)
    controls = [each.controls for each in seen if each.controls]
    usual_s, usual_floor_s = baseline.control_median_s, baseline.control_floor_s
    loads = [each.load for each in seen if each.load is not None]
    return {
        "ratio": ratio.estimate,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "floor_ratio": floor_of(groups) / baseline.floor_s,
        "control_floor_ratio": floor_of(controls) / usual_floor_s if controls and usual_floor_s else None,
        "control_ratio": quantile(pool(controls), 0.5) / usual_s if controls and usual_s else None,
        "p95_s": quantile(pooled, 0.95),
        "baseline_p95_s": baseline.p95_s,
        "samples": len(pooled),
        "bursts": len(groups),
        **({"load": float(np.median(loads))} if loads else {}),
        **({"baseline_load": float(np.median(baseline.loads))} if loads and baseline.loads else {}),
    }


def channel_of(seen: Sequence[Seen], baseline: Baseline) -> str:
    """Who got slower: "whole" (every request), "tail" (the slowest) or "mixed"."""
    groups = tuple(each.latencies for each in seen)
    floor = math.log(floor_of(groups) / baseline.floor_s)
    p95 = math.log(quantile(pool(groups), 0.95) / baseline.p95_s)
    if floor >= _WHOLE * p95:
        return "whole"
    return "tail" if floor <= _TAIL * p95 else "mixed"
