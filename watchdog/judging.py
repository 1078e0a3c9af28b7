"""What each new result is judged on: gathers the evidence, asks the judges. No decision is made here."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from baselines import burst_store, memory_store, slope_store
from baselines.availability import judge_availability
from baselines.leak import LeakWatch
from baselines.limits import join, judge_memory_limit, judge_p95_limit
from baselines.output import judge_output
from baselines.regression import judge_latency
from baselines.slopes import SlopeHistory
from baselines.verdict import Verdict
from probes.messages import Burst, MemorySample
from watchdog.target import Target


def judge_burst(connection: Connection, burst: Burst, target: Target, *, now: float) -> list[Verdict]:
    """Availability, output and latency of one canary after a burst that is not stored yet."""
    policies = target.policies
    target.version = burst.provenance.get("model_version", target.version)
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
            target.leaks[sample.life] = _take_up(connection, sample, target, now=now)
        watch = target.leaks[sample.life]
        watch.take([sample])
        if watch.age_s >= policies.leak.warmup_s and watch.version != version_of(sample, target):
            watch.inherit(_history(connection, sample, target))
        verdicts.append(join(watch.judge(now=now), judge_memory_limit(sample, policies.limits, now=now)))
    return verdicts


def _take_up(connection: Connection, sample: MemorySample, target: Target, *, now: float) -> LeakWatch:
    """A life with what the store knows of it."""
    policy = target.policies.leak
    watch = LeakWatch(policy)
    watch.take(memory_store.memory_since(connection, target.name, sample.life, since=now - policy.lookback_s))
    watch.drain()  # those were stored when they were new
    watch.inherit(_history(connection, sample, target))
    return watch


def _history(connection: Connection, sample: MemorySample, target: Target) -> SlopeHistory:
    version = version_of(sample, target)
    return slope_store.slope_history(connection, target.name, version, subject=f"slot {sample.slot}", life=sample.life)


def version_of(sample: MemorySample, target: Target) -> str | None:
    """What the worker serves, by its own word or else by its answers'."""
    return sample.version or target.version


def follow_memory(samples: Sequence[MemorySample], target: Target) -> None:
    """Have the lives that are followed know of samples that are not judged; of one that they know, nothing is taken."""
    for sample in samples:
        if sample.life in target.leaks:
            target.leaks[sample.life].take([sample])


def store_memory(connection: Connection, samples: Sequence[MemorySample], target: Target, *, now: float) -> None:
    """The samples, and the slopes that have become known with them."""
    memory_store.add_memory(connection, samples)
    for sample in samples:
        watch = target.leaks.get(sample.life)
        if watch is not None and (slopes := watch.drain()):
            slope_store.add_slopes(connection, target.name, watch.version, slopes, at=now)
