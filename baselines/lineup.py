"""The bursts of a replica beside those of its peers of the same moments, so that what all of them share cancels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
import numpy.typing as npt

from baselines.floor import floor_of
from baselines.pace import Pace
from baselines.quantiles import Floats, inflation, quantile

_SE_OF_MEDIAN = 1.2533 * 1.4826  # times MAD / sqrt(n): the standard error of the median of Gaussian figures

Paces = Sequence[Pace]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    """own: bursts of the replica, oldest first. peers: all bursts of those that it is compared with.

    chosen: which of them belong to the moment of each of its own, shape (bursts, peers), -1: none. logs: the locations
    of those, NaN where there is none. differences: its own locations over the peers' median, in logs.
    """

    own: Paces
    peers: Sequence[Paces]
    chosen: npt.NDArray[np.int64]
    logs: Floats
    differences: Floats

    @property
    def bursts(self) -> int:
        return len(self.own)

    def last(self, bursts: int) -> Lineup:
        """Of its newest bursts alone."""
        cut = slice(max(0, len(self.own) - bursts), None)
        return Lineup(
            own=self.own[cut],
            peers=self.peers,
            chosen=self.chosen[cut],
            logs=self.logs[cut],
            differences=self.differences[cut],
        )

    @property
    def behind(self) -> float:
        """How much slower it is, in logs: the median of the differences."""
        return float(np.median(self.differences))

    @property
    def doubt(self) -> float:
        """The standard error of that, widened for differences that hang together (`quantiles.inflation`)."""
        mad = float(np.median(np.abs(self.differences - np.median(self.differences))))
        return _SE_OF_MEDIAN * mad * math.sqrt(inflation(self.differences) / self.bursts)

    def began(self) -> float:
        """Where a change of size `behind` fits best, Unix seconds."""
        sums = np.concatenate(([0.0], np.cumsum(self.differences - self.behind / 2)))
        return self.own[int(np.argmin(sums[:-1]))].at

    def as_slow(self) -> int:
        """How many peers are nearer to it than to the median of the peers."""
        medians = np.array([p.log_s for p in self.own]) - self.differences
        gaps = (self.logs - medians[:, None]).T
        return sum(float(np.median(gap[~np.isnan(gap)])) > self.behind / 2 for gap in gaps if not np.isnan(gap).all())

    def p95_s(self) -> tuple[float, float]:
        """Pooled p95 of its own, and the median of the peers', seconds."""
        return _p95_s(self._latencies()), float(np.median([_p95_s(peer) for peer in self._peers_latencies()]))

    def floor_ratio(self) -> float:
        """Its floor (`baseline.floor_of`) over the median of the peers'."""
        return floor_of(self._latencies()) / float(np.median([floor_of(peer) for peer in self._peers_latencies()]))

    def _latencies(self) -> list[tuple[float, ...]]:
        return [pace.latencies_s for pace in self.own]

    def _peers_latencies(self) -> list[list[tuple[float, ...]]]:
        """Of each peer that has a burst in it, those bursts, each once."""
        found = [np.unique(column[column >= 0]) for column in self.chosen.T]
        return [[peer[i].latencies_s for i in at] for peer, at in zip(self.peers, found, strict=True) if len(at)]


def line_up(own: Paces, peers: Sequence[Paces], *, least: int, lately: int) -> Lineup | None:
    """The bursts of `own` that have at least `least` peers beside them, at least 1.

    Peers that are beside less than half of the newest `lately` bursts are left out, as dead ones are. None when fewer
    than `least` are left, or never so many at once, or of one burst. All ascend in time.
    """
    if len(own) < 2:
        return None
    apart_s = _apart_s(own)
    found = [(peer, pair(own, peer, apart_s=apart_s)) for peer in peers if len(peer) >= 2]
    heard = [(peer, at) for peer, at in found if np.mean(at[-lately:] >= 0) >= 0.5]
    if len(heard) < least:
        return None
    table = np.stack([at for _, at in heard], axis=1)
    rows = np.flatnonzero(np.count_nonzero(table >= 0, axis=1) >= least)
    if not len(rows):
        return None
    chosen, kept = table[rows], [own[int(row)] for row in rows]
    known = [np.array([pace.log_s for pace in peer]) for peer, _ in heard]
    logs = np.stack([np.where(i >= 0, log_s[i], np.nan) for log_s, i in zip(known, chosen.T, strict=True)], axis=1)
    differences = np.array([p.log_s for p in kept]) - _median_of_known(logs)
    return Lineup(own=kept, peers=[peer for peer, _ in heard], chosen=chosen, logs=logs, differences=differences)


def pair(own: Paces, other: Paces, *, apart_s: float) -> npt.NDArray[np.int64]:
    """For each of `own` the index of the burst of `other` that is nearest in time; -1 when none belongs to its moment.

    That is within the time from burst to burst of the slower of both. apart_s: that of `own`. At least two of `other`.
    """
    mine, theirs = np.array([p.at for p in own]), np.array([p.at for p in other])
    reach_s = max(apart_s, _apart_s(other))
    after = np.clip(np.searchsorted(theirs, mine), 1, len(theirs) - 1)
    nearest = np.where(mine - theirs[after - 1] <= theirs[after] - mine, after - 1, after)
    return np.where(np.abs(theirs[nearest] - mine) <= reach_s, nearest, -1)


def _apart_s(paces: Paces) -> float:
    return median(after.at - before.at for before, after in pairwise(paces))


def _median_of_known(values: Floats) -> Floats:
    """The median of each row without its NaN; each row holds a number."""
    ordered = np.sort(values, axis=1)  # NaN comes last
    known = np.count_nonzero(~np.isnan(ordered), axis=1)
    rows = np.arange(len(ordered))
    return np.asarray((ordered[rows, (known - 1) // 2] + ordered[rows, known // 2]) / 2)


def _p95_s(bursts: Sequence[tuple[float, ...]]) -> float:
    return quantile([latency for burst in bursts for latency in burst], 0.95)
