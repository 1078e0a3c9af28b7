"""When will what grows have filled what it can have?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from baselines.channel import Growth
from baselines.figures import Room
from baselines.quantiles import Floats, sen_slope
from baselines.verdict import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """room: None where it will never be full, or nobody knows. others_slope: by how much a second what others have of
    the room grows, 0 unless it does for certain. firm: whether the growth will go on, as far as anyone can say."""

    used: float
    room: Room | None
    others_slope: float = 0.0
    firm: bool = False

    def seconds_left(self, slope: float) -> float | None:
        """Until it is full, growing by so much a second; None where it will never be."""
        if self.room is None or slope <= 0 or not math.isfinite(slope):
            return None
        return max(0.0, (self.room.left_for - self.used) / (slope + self.others_slope))

    def dates(self, growth: Growth) -> Evidence:
        """By the slope and both ends of its interval. The late end only where it is firm, the room is not of several
        devices, which may all fill alike, and nobody else fills it too: else the early one is all that can be said."""
        slope = growth.slope
        is_bounded = self.firm and not self.others_slope and not (self.room is not None and self.room.spread)
        return {
            "seconds_to_capacity": self.seconds_left(slope.estimate),
            "seconds_to_capacity_low": self.seconds_left(slope.high),
            "seconds_to_capacity_high": self.seconds_left(slope.low) if is_bounded else None,
        }


def growth_of_others(ages_s: Floats, held: Floats, *, min_gain: float) -> float:
    """By how much a second what others hold grows, from what they held at these ages (seconds, ascending).

    0 unless the low end of the slope's interval is above it and it came to min_gain.
    """
    if len(ages_s) < 2:
        return 0.0
    slope = sen_slope(ages_s, held)
    gained = slope.estimate * float(np.ptp(ages_s))
    return slope.estimate if slope.low > 0 and gained >= min_gain else 0.0
