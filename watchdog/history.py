"""The long view: how many requests, how many failed and how long they took, by the hour or the day, for a year."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection

from baselines import rollup_store
from baselines.rollup import HOUR_S, MemoryRollup, Rollup, Span, begin_of, regroup

MAX_STEPS = 400  # a year and a month by the day, two weeks by the hour
MAX_WORKER_HOURS = 20_000  # two years of one worker, two months of a dozen


class By(StrEnum):
    """How long a step is. A day begins at midnight UTC."""

    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        return {By.HOUR: HOUR_S, By.DAY: 24 * HOUR_S}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStep:
    """The requests of one canary in one step that begins at `begin`, Unix seconds.

    outcomes: requests by how they ended; failed: those that were not good. p50_s to p99_s: of the good answers that
    the watchdog did not hold up itself, within 1.1 % (see baselines.histogram); None without any.
    """

    target: str
    canary: str
    begin: int
    requests: int
    failed: int
    outcomes: Mapping[str, int]
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStep:
    """The memory of the workers in one slot in one step. lives: how many there were, one after the other.

    Bytes; None when it was never known. last: when the step ended, or the newest.
    """

    target: str
    slot: int
    begin: int
    lives: int
    host_anon_bytes: Span | None
    gpu_used_bytes: Span | None


def read_canaries(
    connection: Connection, target: str, canaries: Iterable[str], *, by: By, since: float = 0.0
) -> list[CanaryStep]:
    """Of each canary the last MAX_STEPS steps that ended after `since`, oldest first; the present one is among them."""
    begin, limit = begin_of(since, by.seconds), MAX_STEPS * by.seconds // HOUR_S
    hours = [
        hour
        for canary in canaries
        for hour in rollup_store.rollups_since(connection, target, canary, since=begin, limit=limit)
    ]
    return [_canary_step(step) for step in regroup(hours, by.seconds)]


def read_workers(connection: Connection, target: str, *, by: By, since: float) -> list[WorkerStep]:
    """The steps of a target's workers that ended after `since`, oldest first; empty where they are not watched."""
    begin = begin_of(since, by.seconds)
    groups: dict[tuple[int, int], list[MemoryRollup]] = {}
    hours = rollup_store.memory_rollups_since(connection, target, since=begin, limit=MAX_WORKER_HOURS)
    for hour in hours:
        groups.setdefault((begin_of(hour.begin, by.seconds), hour.slot), []).append(hour)
    return [_worker_step(at, slot, group) for (at, slot), group in groups.items()]


def _canary_step(step: Rollup) -> CanaryStep:
    return CanaryStep(
        target=step.target,
        canary=step.canary,
        begin=step.begin,
        requests=step.total,
        failed=step.failed,
        outcomes={str(outcome): count for outcome, count in sorted(step.requests.items())},
        p50_s=step.latencies.quantile_s(0.5),
        p95_s=step.latencies.quantile_s(0.95),
        p99_s=step.latencies.quantile_s(0.99),
    )


def _worker_step(begin: int, slot: int, hours: list[MemoryRollup]) -> WorkerStep:
    return WorkerStep(
        target=hours[0].target,
        slot=slot,
        begin=begin,
        lives=len({hour.life for hour in hours}),
        host_anon_bytes=_spanned(hour.host_anon_bytes for hour in hours),
        gpu_used_bytes=_spanned(hour.gpu_used_bytes for hour in hours),
    )


def _spanned(spans: Iterable[Span | None]) -> Span | None:
    known = [span for span in spans if span is not None]
    if not known:
        return None
    return Span(low=min(s.low for s in known), high=max(s.high for s in known), last=known[-1].last)
