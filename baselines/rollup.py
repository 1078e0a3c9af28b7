"""What is left of history after its details are gone: an hour of a canary, an hour of a worker's memory.

Only what can be added up without loss: counts, histograms, least and greatest. Never means, which hide what matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from baselines.baseline import latencies_of
from baselines.histogram import Histogram, add_up, histogram_of
from probes.messages import Burst, Outcome

HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollup:
    """The requests of one canary from `begin` (Unix seconds) on, for an hour or for the step it was regrouped to.

    requests: by outcome, tainted ones included; outcomes that never came are left out.
    latencies: of the good, untainted ones.
    """

    target: str
    canary: str
    begin: int
    requests: Mapping[Outcome, int]
    latencies: Histogram

    @property
    def total(self) -> int:
        """How many requests were sent."""
        return sum(self.requests.values())

    @property
    def failed(self) -> int:
        """How many of them got no good answer, for whatever reason."""
        return self.total - self.requests.get(Outcome.GOOD, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The least, the greatest and the last of some figures, in bytes."""

    low: int
    high: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRollup:
    """The memory of one worker life from `begin` (Unix seconds) on. None: never known in that time."""

    target: str
    slot: int
    life: str
    begin: int
    host_anon_bytes: Span | None
    gpu_used_bytes: Span | None


def roll_up(bursts: Iterable[Burst]) -> list[Rollup]:
    """The hours that hold these bursts and nothing else; an hour begins at a whole multiple of 3600 s (UTC)."""
    groups: dict[tuple[str, str, int], list[Burst]] = {}
    for burst in bursts:
        groups.setdefault((burst.target, burst.canary, begin_of(burst.at, HOUR_S)), []).append(burst)
    return [
        Rollup(
            target=target,
            canary=canary,
            begin=begin,
            requests=Counter([s.outcome for burst in group for s in burst.samples]),
            latencies=histogram_of(x for burst in group for x in latencies_of(burst.judged)),
        )
        for (target, canary, begin), group in groups.items()
    ]


def regroup(rollups: Iterable[Rollup], step_s: int) -> list[Rollup]:
    """The same requests in steps of a whole number of hours, oldest first, each canary apart; empty steps left out."""
    groups: dict[tuple[str, str, int], list[Rollup]] = {}
    for rollup in rollups:
        key = (rollup.target, rollup.canary, begin_of(rollup.begin, step_s))
        groups.setdefault(key, []).append(rollup)
    return [_merged(group, key[2]) for key, group in sorted(groups.items(), key=lambda g: (g[0][2], g[0]))]


def begin_of(at: float, step_s: int) -> int:
    """When the step began that `at` lies in."""
    return int(at // step_s) * step_s


def _merged(group: list[Rollup], begin: int) -> Rollup:
    requests: Counter[Outcome] = Counter()
    for rollup in group:
        requests.update(rollup.requests)
    return replace(group[0], begin=begin, requests=requests, latencies=add_up(r.latencies for r in group))
