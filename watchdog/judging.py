"""What each new result is judged on: gathers the evidence, asks the judges. No decision is made here."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from baselines import burst_store, memory_store
from baselines.availability import judge_availability
from baselines.leak import LeakWatch
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
    """Memory of each worker after samples that are not stored yet, at most one of each.

    A life that is not followed yet, after a restart, is read from the store first.
    """
    policies, verdicts = target.policies, []
    for ended in target.leaks.keys() - {sample.life for sample in samples}:
        del target.leaks[ended]
    for sample in samples:
        if sample.life not in target.leaks:
            watch = LeakWatch(policies.leak)
            since = now - policies.leak.lookback_s
            watch.take(memory_store.memory_since(connection, target.name, sample.life, since=since))
            target.leaks[sample.life] = watch
        follow_memory([sample], target)
        memory = target.leaks[sample.life].judge(now=now)
        verdicts.append(join(memory, judge_memory_limit(sample, policies.limits, now=now)))
    return verdicts


def follow_memory(samples: Sequence[MemorySample], target: Target) -> None:
    """Have the lives that are followed know of samples that are not judged; of one that they know, nothing is taken."""
    for sample in samples:
        if sample.life in target.leaks:
            target.leaks[sample.life].take([sample])
