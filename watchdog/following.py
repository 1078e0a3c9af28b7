"""What follows a canary's latency, taken up from what was stored where it is not at hand."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from baselines import burst_store, verdict_store
from baselines.baseline import Baseline
from baselines.load import REMEMBERED
from baselines.regression import LatencyWatch
from baselines.scan import KEPT
from baselines.slowdown import alarm_of
from baselines.verdict import Cause, Check
from probes.messages import Burst
from watchdog.target import Target


def follow(connection: Connection, burst: Burst, target: Target, baseline: Baseline | None) -> LatencyWatch:
    """What follows the canary against its active baseline; after a restart or another baseline with what was stored.

    What was measured before the baseline became active is nothing that it can be asked about. The slowdown told
    last, or its end, takes its place among the bursts, so that the rest is judged as it was the first time.
    """
    watch = target.latencies.get(burst.canary)
    if watch is not None and _same(watch.baseline, baseline):
        return watch
    watch = target.latencies[burst.canary] = LatencyWatch(baseline, target.policies.regression)
    if baseline is None:
        return watch
    since = baseline.since or 0.0
    kept = 2 * KEPT if burst.load is None else REMEMBERED  # twice, for some may be such as cannot be compared
    earlier = burst_store.bursts_since(connection, burst.target, burst.canary, since=since, limit=kept)
    worse, over = verdict_store.last_change(connection, burst.target, Check.LATENCY, burst.canary)
    alarm = None if worse is None else alarm_of(worse)
    if worse is None or alarm is None or alarm.since < since:
        _take_all(watch, earlier)
        return watch
    turned = worse.at if over is None else over
    _take_all(watch, [each for each in earlier if each.at <= turned])
    if over is None:
        watch.stand(alarm, Cause.UNKNOWN if "gpu" in worse.evidence else worse.cause)  # devices are asked each time
    else:
        watch.begin_anew()
    _take_all(watch, [each for each in earlier if each.at > turned])
    return watch


def _take_all(watch: LatencyWatch, bursts: Sequence[Burst]) -> None:
    for burst in bursts:
        watch.take(burst)


def _same(one: Baseline | None, other: Baseline | None) -> bool:
    return one is other or (one is not None and other is not None and (one.id, one.since) == (other.id, other.since))
