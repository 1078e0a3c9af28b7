"""The floor of a memory figure over one worker's life: the least value of each stretch of time, freed of the load.

The floor is what stays when requests are done: activations in flight lie above it, and so, once a stretch is longer
than a tooth, does a cache that is filled and dropped. What requests in flight need at every moment is taken off by a
regression of the floor on the load, as far as time and load can be told apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from baselines.quantiles import Floats

MIN_MOVED = 0.2  # the load must have moved by this share of its mean to explain anything
MAX_COLLINEAR = 0.6  # r squared of load and time; above it they cannot be told apart: load is given all of the growth
MIN_BUCKETS = 12  # with fewer a regression explains noise


@dataclass(frozen=True, slots=True)
class Bucket:
    """One stretch of time: the index-th since the start of the life, its floor in bytes, its mean load or None."""

    index: int
    floor: float
    load: float | None


class Floors:
    """Buckets of one width, the newest last; of each its index, its floor, its floor freed of the load, and its load.

    kept: how many are remembered.
    """

    def __init__(self, *, kept: int) -> None:
        self.count = 0  # of all there ever were
        self._rows = np.empty((4, kept))
        self._filled = 0
        self._share = LoadShare()

    def append(self, bucket: Bucket) -> None:
        """The next bucket; its index is above all before it."""
        if self._filled == self._rows.shape[1]:
            self._rows[:, :-1] = self._rows[:, 1:].copy()
            self._filled -= 1
        load = math.nan if bucket.load is None else bucket.load
        self._rows[:, self._filled] = (bucket.index, bucket.floor, bucket.floor - self._share.take(bucket), load)
        self._filled += 1
        self.count += 1

    @property
    def knows_load(self) -> bool:
        """Whether the load has ever explained anything."""
        return self._share.used

    @property
    def under_steady_load(self) -> bool:
        """Whether the load is known and has hardly moved in all this life, so that it explains no growth."""
        return self._share.steady

    def tail(self, last: int) -> tuple[Floats, Floats, Floats]:
        """Indices, floors, and floors without load of the last buckets, at most `kept`. Views: they change later."""
        indices, floors, free, _ = self._rows[:, max(0, self._filled - last) : self._filled]
        return indices, floors, free

    def mean_load(self, last: int) -> float:
        """Over the last buckets of which it is known; NaN where it is known of none."""
        loads = self._rows[3, max(0, self._filled - last) : self._filled]
        known = loads[~np.isnan(loads)]
        return float(known.mean()) if known.size else math.nan


class Filling:
    """Gathers samples into buckets of one width."""

    def __init__(self, width_s: float) -> None:
        self._width_s = width_s
        self._index = -1
        self._least, self._load, self._loads = math.inf, 0.0, 0

    def add(self, age_s: float, value: float, load: float | None) -> Bucket | None:
        """Take a sample, age_s seconds after the start of the life; the bucket before it, when it began a new one.

        load: None when not known. A sample older than the newest bucket is left out.
        """
        index, completed = int(age_s // self._width_s), None
        if index > self._index:
            if self._index >= 0:
                completed = Bucket(self._index, self._least, self._load / self._loads if self._loads else None)
            self._index, self._least, self._load, self._loads = index, math.inf, 0.0, 0
        if index == self._index:
            self._least = min(self._least, value)
            if load is not None:
                self._load += load
                self._loads += 1
        return completed


class Doubling:
    """Joins two neighbouring buckets into one of twice the width."""

    def __init__(self) -> None:
        self._first: Bucket | None = None

    def add(self, bucket: Bucket) -> list[Bucket]:
        """The wide buckets that this narrow one completes: none, one, or after a gap two."""
        completed, first = [], self._first
        self._first = None
        if first is not None and first.index // 2 != bucket.index // 2:
            completed.append(Bucket(first.index // 2, first.floor, first.load))
            first = None
        if bucket.index % 2:  # the second half: nothing more can come
            completed.append(_join(first, bucket))
        else:
            self._first = bucket
        return completed


def _join(first: Bucket | None, second: Bucket) -> Bucket:
    if first is None:
        return Bucket(second.index // 2, second.floor, second.load)
    loads = [load for load in (first.load, second.load) if load is not None]
    load = sum(loads) / len(loads) if loads else None
    return Bucket(second.index // 2, min(first.floor, second.floor), load)


class LoadShare:
    """Running regression floor ~ 1 + time + load: how much of a floor the load explains.

    Sums alone; relative to the first floor, so that gigabytes leave digits for megabytes.
    """

    def __init__(self) -> None:
        self.used = False
        self._first: Bucket | None = None
        self._sums = np.zeros(9)

    @property
    def steady(self) -> bool:
        """Whether the load is known and has hardly moved."""
        n, _, loads, _, _, squares, *_ = map(float, self._sums)
        return n >= MIN_BUCKETS and _has_hardly_moved(loads / n, squares / n - (loads / n) ** 2)

    def take(self, bucket: Bucket) -> float:
        """Bytes of this floor that are the load's, never negative; 0 while load is not known or has hardly moved."""
        if bucket.load is None:
            return 0.0
        self._first = self._first or bucket
        t, e, load = bucket.index - self._first.index, bucket.floor - self._first.floor, bucket.load
        self._sums += (1.0, t, load, e, t * t, load * load, t * load, t * e, load * e)
        coefficient = max(0.0, self._coefficient())
        self.used = self.used or coefficient > 0.0
        return coefficient * load

    def _coefficient(self) -> float:
        n = float(self._sums[0])
        t, load, e, tt, ll, tl, te, le = (float(total) / n for total in self._sums[1:])
        ctt, cll, ctl, cte, cle = tt - t * t, ll - load * load, tl - t * load, te - t * e, le - load * e
        if n < MIN_BUCKETS or ctt <= 0.0 or _has_hardly_moved(load, cll):
            return 0.0
        if ctl * ctl > MAX_COLLINEAR * ctt * cll:
            return cle / cll
        return (cle * ctt - cte * ctl) / (ctt * cll - ctl * ctl)


def _has_hardly_moved(mean: float, variance: float) -> bool:
    return variance <= (MIN_MOVED * max(mean, 1e-9)) ** 2
