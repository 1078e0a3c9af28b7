"""Since when have the bursts been slower than the baseline allows, if at all? Every window that ends now is asked.

A window-limited generalised likelihood ratio scan (Lai 1995) on robust statistics of each burst, in three channels:

- location: the mean shift of the window's bursts over its standard error, in which a slow wander of 3 % is a part that
  no length of window averages out. So +10 % never passes, however long it lasts, and +20 % always can.
- tail: requests above a line, by the Kullback-Leibler divergence of their share from the baseline's.
- shape: the same with the location of the last bursts taken off. Common wander cancels, and a change that only the
  slowest requests feel is left.

Each window must also persist (most of its bursts agree) and pass the gate: more than 5 % of its requests lie above
1.15 times the baseline's p95 (at a threshold of 20 %), which is to say that the pooled p95 itself is up. So one bad
burst, or two, never alarm. A burst of more requests says more, and weighs accordingly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
import numpy.typing as npt

from baselines.noise import LEVEL_SPAN, MAX_SPREAD, Noise, count_slow, location
from baselines.quantiles import Floats

KEPT = 240  # bursts; the longest window
SHORTEST = 3  # bursts; one that is bad, or two, are no change
LONGEST = 120  # bursts, of a window for the location
LOCATION_WINDOWS = np.array([SHORTEST, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 90, LONGEST])
TAIL_WINDOWS = np.array([6, 8, 12, 16, 20, 30, 45, 60, 90, 120, 180, 240])
CENTER = 1.1  # times the variance of a mean: the baseline's own, of which outliers are pulled in
WANDER = 0.03  # standard deviation, in logs, of a shift that is no change
CLIP = 1.35  # of the threshold's rise: what one burst can say at most
GATE = 0.75  # of the threshold
CLEARLY, HALFWAY = 0.8, 0.5  # of the threshold's rise: a burst that agrees
AGREEING = 0.75  # share of the bursts of a longer window
SHORT = 5  # a window below it must agree wholly
FEW_SLOW = 0.1  # of a burst's requests: so many, one at least, make it one of those that agree
TAIL_CAUTION = 1.1  # what a deviation costs here: heavy tails are further from any model than locations are
MIN_TAIL_BURSTS, TAIL_SHARE = 5, 0.33  # bursts of a window that must agree


class Channel(StrEnum):
    """What moved."""

    LOCATION = "location"
    TAIL = "tail"
    SHAPE = "shape"


class _Sum(IntEnum):
    """What is summed over bursts. Requests above a line are weighed by how far they can be taken for independent."""

    WEIGHT = 0  # one over the variance of the burst's location
    SHIFT = 1  # times that weight
    CLEARLY = 2
    HALFWAY = 3
    GATE = 4
    REQUESTS = 5
    SLOW = 6
    SLOW_OF = 7
    SLOW_BURSTS = 8
    ODD = 9
    ODD_OF = 10
    ODD_BURSTS = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The strongest evidence of a change, in standard deviations. bursts: since when, counted back from the newest.

    hint: the same before any window has persisted or passed the gate; what is worth a closer look. Where many streams
    are followed, each is an array with one entry for each.
    """

    z: dict[Channel, Floats]
    bursts: dict[Channel, npt.NDArray[np.int64]]
    hint: Floats


class Scan:
    """Takes bursts and scores them. Its state is the last KEPT of them, a few numbers each.

    lanes: shape of the streams that are followed at once: () for one.
    """

    def __init__(self, noise: Noise, *, lanes: tuple[int, ...] = ()) -> None:
        self._noise = noise
        self._lanes = lanes
        deviation = np.sqrt(noise.variance(noise.size))
        self._cap = np.maximum(CLIP * noise.rise, noise.rise + 1.5 * deviation)
        self._sums = np.zeros((2 * KEPT + 1, len(_Sum), *lanes))  # over all bursts so far
        self._filled = 0
        self._locations: list[Floats] = []

    @property
    def bursts(self) -> int:
        """How many are remembered."""
        return min(self._filled, KEPT)

    def take(self, latencies_s: Floats) -> None:
        """The next burst; its requests along the last axis, at least one, above 0."""
        logs = np.log(latencies_s)
        where = location(logs)
        self._locations = [*self._locations[-(LEVEL_SPAN - 1) :], where]
        missing = LEVEL_SPAN - len(self._locations)
        level = np.median(np.stack([self._locations[0]] * missing + self._locations), axis=0)
        self._add(self._read(logs, where, level))

    def _read(self, logs: Floats, where: Floats, level: Floats) -> Floats:
        """What a burst adds to the sums. level: the location of the last bursts, this one included."""
        noise, rise, count = self._noise, self._noise.rise, logs.shape[-1]
        off = where - noise.center
        few = max(1, round(FEW_SLOW * count))
        slow = count_slow(logs, noise.tail_line)
        odd = count_slow(logs - level[..., None], noise.shape_line)
        gate = np.asarray(noise.p95) + math.log1p(GATE * noise.threshold)
        weight = 1 / noise.variance(count)
        slow_weight = 1 / spread_of(noise.tail_spread, noise.size, count)
        odd_weight = 1 / spread_of(noise.shape_spread, noise.size, count)
        row = np.empty((len(_Sum), *self._lanes))
        row[_Sum.WEIGHT] = weight
        row[_Sum.SHIFT] = weight * np.clip(off, -self._cap, self._cap)
        row[_Sum.CLEARLY] = off > CLEARLY * rise
        row[_Sum.HALFWAY] = off > HALFWAY * rise
        row[_Sum.GATE] = (logs > gate[..., None]).sum(axis=-1)
        row[_Sum.REQUESTS] = count
        row[_Sum.SLOW], row[_Sum.SLOW_OF], row[_Sum.SLOW_BURSTS] = slow * slow_weight, count * slow_weight, slow >= few
        row[_Sum.ODD], row[_Sum.ODD_OF], row[_Sum.ODD_BURSTS] = odd * odd_weight, count * odd_weight, odd >= few
        return row

    def _add(self, row: Floats) -> None:
        if self._filled == 2 * KEPT:
            self._sums[: KEPT + 1] = self._sums[KEPT:] - self._sums[KEPT]
            self._filled = KEPT
        self._sums[self._filled + 1] = self._sums[self._filled] + row
        self._filled += 1

    def score(self) -> Score:
        """What the newest windows say; zeros before the shortest is full."""
        z, since, hints = {}, {}, [np.zeros(self._lanes)]
        for channel in Channel:
            windows = LOCATION_WINDOWS if channel is Channel.LOCATION else TAIL_WINDOWS
            full = windows[windows <= self.bursts]
            if not len(full):
                z[channel], since[channel] = np.zeros(self._lanes), np.zeros(self._lanes, dtype=np.int64)
                continue
            sums = self._sums[self._filled] - self._sums[self._filled - full]
            ask = self._location if channel is Channel.LOCATION else self._tail
            found, agree = ask(sums, full, channel)
            hints.append(found.max(axis=0))
            found = np.where(agree & _gate(sums), found, 0.0)
            best = np.argmax(found, axis=0)
            z[channel] = np.take_along_axis(found, best[None], axis=0)[0]
            since[channel] = full[best]
        return Score(z=z, bursts=since, hint=np.maximum.reduce(hints))

    def still(self, bursts: int) -> npt.NDArray[np.bool_]:
        """Whether the p95 of so many of the newest bursts is above the gate; of what there is, if there are fewer."""
        newest = self._sums[self._filled] - self._sums[self._filled - min(bursts, self.bursts)]
        return np.asarray(_gate(newest[None])[0])

    def _location(
        self, sums: Floats, windows: npt.NDArray[np.int64], _: Channel
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        lengths = windows.reshape(-1, *[1] * (sums.ndim - 2))
        noise = self._noise
        of_center = CENTER * noise.variance(noise.size) / noise.bursts
        error = np.sqrt(1 / sums[:, _Sum.WEIGHT] + of_center + WANDER**2)
        agree = np.where(lengths < SHORT, sums[:, _Sum.CLEARLY] >= lengths, sums[:, _Sum.HALFWAY] >= AGREEING * lengths)
        return sums[:, _Sum.SHIFT] / sums[:, _Sum.WEIGHT] / error, agree

    def _tail(
        self, sums: Floats, windows: npt.NDArray[np.int64], channel: Channel
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        lengths = windows.reshape(-1, *[1] * (sums.ndim - 2))
        slow, of, bursts = (sums[:, index] for index in _COUNTS[channel])
        rate = self._usual_rate(channel)
        share = slow / of
        z = np.where(share > rate, np.sqrt(2 * of * divergence(share, rate)) / TAIL_CAUTION, 0.0)
        return z, bursts >= np.maximum(MIN_TAIL_BURSTS, TAIL_SHARE * lengths)

    def _usual_rate(self, channel: Channel) -> Floats:
        return np.asarray(self._noise.tail_rate if channel is Channel.TAIL else self._noise.shape_rate)

    def began(self, channel: Channel, bursts: int) -> int:
        """How many bursts ago the change began, most likely, the newest counted as 1. For a single stream.

        bursts: the window that told of it; what it shows is taken for what is true since. The likeliest beginning is
        where the sum of log likelihood ratios of all bursts since is largest (Page 1954).
        """
        seen = self.bursts
        sums = self._sums[self._filled] - self._sums[self._filled - np.arange(1, seen + 1)]
        told = sums[min(bursts, seen) - 1]
        if channel is Channel.LOCATION:
            shift = told[_Sum.SHIFT] / told[_Sum.WEIGHT]
            support = sums[:, _Sum.SHIFT] - shift / 2 * sums[:, _Sum.WEIGHT]
        else:
            slow, of, _ = _COUNTS[channel]
            rate = self._usual_rate(channel)
            share = np.clip(told[slow] / told[of], rate + 1e-9, 1 - 1e-9)
            support = sums[:, slow] * np.log(share / rate) + (sums[:, of] - sums[:, slow]) * np.log(
                (1 - share) / (1 - rate)
            )
        return int(np.argmax(support)) + 1


_COUNTS = {
    Channel.TAIL: (_Sum.SLOW, _Sum.SLOW_OF, _Sum.SLOW_BURSTS),
    Channel.SHAPE: (_Sum.ODD, _Sum.ODD_OF, _Sum.ODD_BURSTS),
}


def divergence(share: Floats | float, rate: Floats | float) -> Floats:
    """Of Kullback and Leibler, in nats a request: how far a share of slow ones is from the usual rate."""
    share = np.clip(share, 1e-9, 1 - 1e-9)
    found = share * np.log(share / rate) + (1 - share) * np.log((1 - share) / (1 - np.asarray(rate)))
    return np.asarray(np.maximum(found, 0.0))


def spread_of(spread: Floats | float, size: float, count: int) -> Floats:
    """Variance over mean of the number of slow requests in a burst of `count`, where it is `spread` in one of `size`.

    They come together as if each pair of a burst were correlated alike.
    """
    grown = 1 + (np.asarray(spread) - 1) * (count - 1) / max(size - 1, 1)
    return np.asarray(np.clip(grown, 1.0, MAX_SPREAD * max(1.0, count / size)))


def _gate(sums: Floats) -> npt.NDArray[np.bool_]:
    passed: npt.NDArray[np.bool_] = sums[:, _Sum.GATE] > 0.05 * sums[:, _Sum.REQUESTS]
    return passed
