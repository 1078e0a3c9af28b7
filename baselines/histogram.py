"""Latencies as counts in fixed logarithmic buckets, which can be added up over hours and weeks; quantiles cannot.

Bucket i holds latencies above 2**((i - 1) / 32) and up to 2**(i / 32) seconds: 32 to a doubling, the buckets of a
Prometheus native histogram of schema 5. A quantile comes back as the harmonic mean of its bucket's bounds l and u,
which no value in the bucket differs from by more than (u - l) / (u + l) of itself: 1.1 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PER_DOUBLING = 32
SHORTEST_S, LONGEST_S = 1e-6, 1e5  # a microsecond to a day: so there are at most 1,170 buckets, whatever is measured
GROWTH = 2 ** (1 / PER_DOUBLING)
MAX_ERROR = (GROWTH - 1) / (GROWTH + 1)
"""The most by which a quantile may be off, as a fraction of the true one: 0.0108."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """counts: latencies by bucket, ascending; buckets without any are left out."""

    counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many latencies it holds."""
        return sum(self.counts.values())

    def quantile_s(self, q: float) -> float | None:
        """The nearest-rank quantile, 0 < q <= 1, within MAX_ERROR of that of the latencies themselves; None if empty.

        Latencies outside SHORTEST_S to LONGEST_S count as those.
        """
        rank = max(1, math.ceil(q * self.count - 1e-9))  # as quantiles.quantile
        passed = 0
        for bucket, count in self.counts.items():
            passed += count
            if passed >= rank:
                return _middle_s(bucket)
        return None


def histogram_of(latencies_s: Iterable[float]) -> Histogram:
    """The histogram of these latencies; NaN is not accepted."""
    return Histogram(counts=_ascending(Counter(_bucket(latency_s) for latency_s in latencies_s)))


def add_up(histograms: Iterable[Histogram]) -> Histogram:
    """The histogram of all their latencies together, exactly as if they had been counted at once."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        total.update(histogram.counts)
    return Histogram(counts=_ascending(total))


def _bucket(latency_s: float) -> int:
    return math.ceil(math.log2(min(max(latency_s, SHORTEST_S), LONGEST_S)) * PER_DOUBLING)


def _middle_s(bucket: int) -> float:
    upper_s: float = 2.0 ** (bucket / PER_DOUBLING)
    return upper_s * 2 / (1 + GROWTH)  # 2 l u / (l + u) with l = u / GROWTH


def _ascending(counts: Mapping[int, int]) -> dict[int, int]:
    return dict(sorted(counts.items()))
