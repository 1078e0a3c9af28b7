"""The shipped detector on streams of bursts, as the daemon runs it: closer looks, floors, causes, recoveries.

Streams are natural logarithms of shape (bursts, requests), with TIMES times as many requests as a burst has: a closer
look uses them all, an ordinary burst the first ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baselines.baseline import Baseline
from baselines.closer_look import TIMES
from baselines.noise import noise_of, side_by_side
from baselines.regression import LatencyWatch
from baselines.scan import Channel, Scan
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Cause
from benchmarks.detection_streams import BASELINE, Array
from probes.messages import Burst, Identity, Outcome, Sample

BLAMING = (Cause.MODEL, Cause.UNKNOWN)  # a verdict that blames load or the machine wakes nobody
IDENTITY = Identity(input_hash="simulated")
MINUTE_S = 60.0
POLICY = RegressionPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """told: after each burst, whether it is WORSE by the model's fault or nobody's. since: for the last time that it
    was, the estimated beginning in bursts; None without. requests: asked in all."""

    told: npt.NDArray[np.bool_]
    since: float | None
    requests: int


def baseline_of(logs: Array, controls: Array | None, size: int) -> Baseline:
    """Of the first BASELINE bursts."""
    return Baseline(
        target="simulated",
        canary="default",
        taken_at=0.0,
        identity=IDENTITY,
        provenance={},
        bursts=_groups(logs[:BASELINE, :size]),
        controls=() if controls is None else _groups(controls[:BASELINE, :size]),
    )


def follow(
    logs: Array,
    *,
    size: int,
    controls: Array | None = None,
    stop_after: int | None = None,
    policy: RegressionPolicy = POLICY,
) -> Followed:
    """One stream. stop_after: ends with the first telling burst from that one on."""
    watch = LatencyWatch(baseline_of(logs, controls, size), policy)
    told, since, requests = np.zeros(len(logs), dtype=bool), None, 0
    closer = logs.shape[1] >= TIMES * size
    for t in range(BASELINE, len(logs)):
        count = size * watch.times if closer else size
        requests += count
        watch.take(_burst(t, logs[t, :count], None if controls is None else controls[t, :count]))
        told[t] = watch.slower and watch.cause in BLAMING
        if told[t] and watch.alarm is not None:
            since = watch.alarm.since / MINUTE_S
            if stop_after is not None and t >= stop_after:
                break
    return Followed(told=told, since=since, requests=requests)


def scan_scores(logs: Array) -> npt.NDArray[np.float64]:
    """The strongest evidence of any channel after each burst, of many lanes at once: (bursts, lanes, requests)."""
    lanes = logs.shape[1]
    noises = [noise_of(_groups(logs[:BASELINE, lane]), threshold=POLICY.threshold) for lane in range(lanes)]
    scan, scores = Scan(side_by_side(noises), lanes=(lanes,)), np.zeros(logs.shape[:2])
    for t, latencies in enumerate(np.exp(logs[BASELINE:]), BASELINE):
        scan.take(latencies)
        z = scan.score().z
        scores[t] = np.max([z[channel] for channel in Channel], axis=0)
    return scores


def _groups(logs: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(burst) for burst in np.exp(logs).tolist())


def _burst(t: int, logs: Array, controls: Array | None) -> Burst:
    at = MINUTE_S * t
    beside = [None] * len(logs) if controls is None else np.exp(controls).tolist()
    return Burst(
        target="simulated",
        canary="default",
        at=at,
        identity=IDENTITY,
        samples=tuple(
            Sample(at=at, outcome=Outcome.GOOD, latency_s=latency, control_s=control)
            for latency, control in zip(np.exp(logs).tolist(), beside, strict=True)
        ),
    )
