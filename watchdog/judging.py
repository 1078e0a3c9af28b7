"""What each new result is judged on: gathers the evidence, asks the judges. No decision is made here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from sqlalchemy import Connection

from baselines import burst_store, memory_store
from baselines.availability import judge_availability
from baselines.leak import judge_memory
from baselines.limits import join, judge_memory_limit, judge_p95_limit
from baselines.output import judge_output
from baselines.regression import judge_latency
from baselines.verdict import Verdict
from probes.messages import Burst, MemorySample
from watchdog.target import Target


def judge_burst(connection: Connection, burst: Burst, target: Target, *, now: float) -> list[Verdict]:
    """Availability, output and latency of one canary after a burst that is not stored yet."""
    policies = target.policies
    baseline = target.load_baseline(connection, burst.canary)
    earlier = burst_store.bursts_since(connection, burst.target, burst.canary, limit=policies.regression.window - 1)
    last_good_at = burst_store.last_good_at(connection, burst.target, burst.canary)
    first_burst_at = burst_store.first_burst_at(connection, burst.target, burst.canary)
    window = [*earlier, burst]
    latency = judge_latency(window, baseline, policies.regression, now=now)
    return [
        judge_availability(
            burst, last_good_at=last_good_at, first_burst_at=first_burst_at, policy=policies.availability, now=now
        ),
        judge_output(burst, baseline=baseline, now=now),
        join(latency, judge_p95_limit(window, policies.limits, now=now)),
    ]


def judge_memory_samples(
    connection: Connection, samples: Sequence[MemorySample], target: Target, *, now: float
) -> list[Verdict]:
    """Memory of each worker after samples that are not stored yet."""
    policies = target.policies
    verdicts = []
    since = now - policies.leak.lookback_s
    for life, newest in groupby(samples, key=lambda s: s.life):
        points = [*memory_store.memory_since(connection, target.name, life, since=since), *newest]
        memory = judge_memory(points, policies.leak, now=now)
        verdicts.append(join(memory, judge_memory_limit(points[-1], policies.limits, now=now)))
    return verdicts
