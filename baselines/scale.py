"""Windows of one width over one memory figure of one life."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from baselines.floors import Bucket, Floors
from baselines.growth import HALF, LOOKBACK, WINDOW, Rise, Trend, slope_of
from baselines.quantiles import Slope


class Scale:
    """width_s: of its buckets, WINDOW of which make a window.

    Counted by the channel: urgent and slow, the newest windows in a row that showed a leak; idle, those in a row that
    rose no more while there was an alarm.
    """

    def __init__(self, width_s: float) -> None:
        self.width_s = width_s
        self.floors = Floors(kept=LOOKBACK + 3)
        self._trend = Trend()
        self._free_trend: Trend | None = None  # of the floors without load, once there is a difference
        self.urgent = self.slow = self.idle = 0

    def append(self, bucket: Bucket, *, min_gain: float) -> tuple[Rise | None, Rise | None]:
        """What the newest window says with the load's share in it, and without."""
        if self._free_trend is None and self.floors.knows_load:
            self._free_trend = copy.deepcopy(self._trend)
        self.floors.append(bucket)
        indices, floors, free = self.floors.tail(LOOKBACK + 3)
        rise = self._trend.examine(indices, floors, self.floors.count, min_gain=min_gain)
        if self._free_trend is None:
            return rise, rise
        return rise, self._free_trend.examine(indices, free, self.floors.count, min_gain=min_gain)

    def inherit(self, slopes: Sequence[float], *, came_to: float | None) -> None:
        """Of earlier lives, in bytes per second; came_to: see `Trend.inherit`."""
        for trend in (self._trend, self._free_trend):
            if trend is not None:
                trend.inherit(
                    [slope * self.width_s for slope in slopes],
                    came_to=None if came_to is None else came_to * self.width_s,
                )

    def drain(self) -> list[float]:
        """The slopes of windows that were completed since the last call, in bytes per second."""
        trend = self._free_trend or self._trend
        fresh = [slope / self.width_s for slope in trend.fresh]
        for each in (self._trend, trend):
            each.fresh.clear()
        return fresh

    @property
    def begun_s(self) -> float:
        """Age at which the newest window began."""
        return float(self.floors.tail(WINDOW)[0][0]) * self.width_s

    @property
    def free_floor(self) -> float:
        """The newest, without load."""
        return float(self.floors.tail(1)[2][-1])

    def slope(self, *, halves: bool = False) -> list[Slope]:
        """Of the newest window without load, in bytes per second; of its two halves. Empty before there is a window."""
        indices, _, free = self.floors.tail(WINDOW)
        if len(free) < WINDOW:
            return []
        parts = ((0, HALF), (HALF, WINDOW)) if halves else ((0, WINDOW),)
        found = [slope_of(indices[a:b], free[a:b]) for a, b in parts]
        w = self.width_s
        return [Slope(estimate=s.estimate / w, low=s.low / w, high=s.high / w) for s in found]
