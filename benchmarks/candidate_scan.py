"""Since when have the bursts been slower than the baseline allows, if at all? Every window that ends now is asked.

A window-limited generalised likelihood ratio scan (Lai 1995) on robust statistics of each burst, in three channels:

- location: the mean shift of the window's bursts over its standard error, in which a slow wander of 3 % is a part that
  no length of window averages out. So +10 % never passes, however long it lasts, and +20 % always can.
- tail: requests above a line, by the Kullback-Leibler divergence of their share from the baseline's.
- shape: the same with the location of the last bursts taken off. Common wander cancels, and a change that only the
  slowest requests feel is left.

Each window must also persist (most of its bursts agree) and pass the gate: more than 5 % of its requests lie above
1.15 times the baseline's p95 (at a threshold of 20 %), which is to say that the pooled p95 itself is up. So one bad
burst, or two, never alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from baselines.quantiles import Floats
from benchmarks.candidate_noise import LEVEL_SPAN, Noise, location

KEPT = 240  # bursts; the longest window
SHORTEST = 3  # bursts
LOCATION_WINDOWS = np.array([SHORTEST, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 90, 120])
TAIL_WINDOWS = np.array([6, 8, 12, 16, 20, 30, 45, 60, 90, 120, 180, 240])
WANDER = 0.03  # standard deviation, in logs, of a shift that is no change
CLIP = 1.35  # of the threshold's rise: what one burst can say at most
GATE = 0.75  # of the threshold
CLEARLY, HALFWAY = 0.7, 0.5  # of the threshold's rise: a burst that agrees
AGREEING = 0.75  # share of the bursts of a longer window
SHORT = 5  # a window below it must agree wholly
MAX_SLOW = 0.2  # of a burst's requests that count in the tail; a stalled burst is one event
MIN_TAIL_BURSTS, TAIL_SHARE = 5, 0.33  # bursts of a window that must show a slow request


class Channel(StrEnum):
    """What moved."""

    LOCATION = "location"
    TAIL = "tail"
    SHAPE = "shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The strongest evidence of a change, in standard deviations. bursts: since when, counted back from the newest.

    In simulations each is an array with one entry for each stream.
    """

    z: dict[Channel, Floats]
    bursts: dict[Channel, npt.NDArray[np.int64]]


class Scan:
    """Takes bursts and scores them. Its state is the last KEPT of them, a few numbers each.

    lanes: shape of the streams that are followed at once: () for one.
    """

    def __init__(self, noise: Noise, *, lanes: tuple[int, ...] = ()) -> None:
        self._noise = noise
        self._lanes = lanes
        self._rise = math.log1p(noise.threshold)
        self._deviation = np.sqrt(np.asarray(noise.variance))
        self._cap = np.maximum(CLIP * self._rise, self._rise + 1.5 * self._deviation)
        # sums over all bursts so far: shift, clearly, halfway; above the gate, requests; slow, odd, bursts with them
        self._sums = np.zeros((2 * KEPT + 1, 9, *lanes), dtype=np.float32)
        self._filled = 0
        self._locations: list[Floats] = []

    @property
    def bursts(self) -> int:
        """How many are remembered."""
        return min(self._filled, KEPT)

    def take(self, latencies_s: Floats) -> None:
        """The next burst; its requests along the last axis, at least one, above 0."""
        logs = np.log(latencies_s)
        noise, rise, count = self._noise, self._rise, logs.shape[-1]
        self._locations = [*self._locations[-(LEVEL_SPAN - 1) :], location(logs)]
        off = self._locations[-1] - noise.center
        level = np.median(np.stack(self._level_of()), axis=0)
        most = max(2, math.ceil(MAX_SLOW * count))
        slow = np.minimum(_above(logs, noise.tail_line), most)
        odd = np.minimum(_above(logs - level[..., None], noise.shape_line), most)
        gate = np.asarray(noise.p95) + math.log1p(GATE * noise.threshold)
        row = (
            np.clip(off, -self._cap, self._cap),
            off > CLEARLY * rise,
            off > HALFWAY * rise,
            _above(logs, gate),
            np.full(np.shape(off), count),
            slow,
            odd,
            slow > 0,
            odd > 0,
        )
        if self._filled == 2 * KEPT:
            self._sums[: KEPT + 1] = self._sums[KEPT:] - self._sums[KEPT]
            self._filled = KEPT
        self._sums[self._filled + 1] = self._sums[self._filled] + np.array(row, dtype=np.float64)
        self._filled += 1

    def _level_of(self) -> list[Floats]:
        missing = LEVEL_SPAN - len(self._locations)
        return [self._locations[0]] * missing + self._locations

    def score(self) -> Score:
        """What the newest windows say; zeros before the shortest is full."""
        z, since = {}, {}
        for channel in Channel:
            windows = LOCATION_WINDOWS if channel is Channel.LOCATION else TAIL_WINDOWS
            full = windows[windows <= self.bursts]
            if not len(full):
                z[channel], since[channel] = np.zeros(self._lanes), np.zeros(self._lanes, dtype=np.int64)
                continue
            sums = self._sums[self._filled] - self._sums[self._filled - full]
            found = self._location(sums, full) if channel is Channel.LOCATION else self._tail(sums, full, channel)
            best = np.argmax(found, axis=0)
            z[channel] = np.take_along_axis(found, best[None], axis=0)[0]
            since[channel] = full[best]
        return Score(z=z, bursts=since)

    def still(self, bursts: int) -> npt.NDArray[np.bool_]:
        """Whether the p95 of so many of the newest bursts is above the gate; of what there is, if there are fewer."""
        newest = self._sums[self._filled] - self._sums[self._filled - min(bursts, self.bursts)]
        return np.asarray(_gate(newest[None])[0])

    def _location(self, sums: Floats, windows: npt.NDArray[np.int64]) -> Floats:
        lengths = windows.reshape(-1, *[1] * (sums.ndim - 2))
        error = np.sqrt(np.asarray(self._noise.variance) / lengths + WANDER**2)
        agree = np.where(lengths < SHORT, sums[:, 1] >= lengths, sums[:, 2] >= AGREEING * lengths)
        return np.where(agree & _gate(sums), sums[:, 0] / lengths / error, 0.0)

    def _tail(self, sums: Floats, windows: npt.NDArray[np.int64], channel: Channel) -> Floats:
        lengths = windows.reshape(-1, *[1] * (sums.ndim - 2))
        noise = self._noise
        slow, bursts, rate, spread = (
            (sums[:, 5], sums[:, 7], noise.tail_rate, noise.tail_spread)
            if channel is Channel.TAIL
            else (sums[:, 6], sums[:, 8], noise.shape_rate, noise.shape_spread)
        )
        requests = sums[:, 4]
        share = np.clip(slow / requests, 1e-9, 1 - 1e-9)
        divergence = share * np.log(share / rate) + (1 - share) * np.log((1 - share) / (1 - np.asarray(rate)))
        agree = (bursts >= np.maximum(MIN_TAIL_BURSTS, TAIL_SHARE * lengths)) & (share > rate)
        return np.where(agree & _gate(sums), np.sqrt(2 * requests * np.maximum(divergence, 0) / spread), 0.0)


def _above(logs: Floats, line: Floats | float) -> Floats:
    return np.asarray((logs > np.asarray(line)[..., None]).sum(axis=-1), dtype=np.float64)


def _gate(sums: Floats) -> npt.NDArray[np.bool_]:
    passed: npt.NDArray[np.bool_] = sums[:, 3] > 0.05 * sums[:, 4]
    return passed
