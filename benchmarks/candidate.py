"""The detector that is to take the place of "five medians in a row": measured here first, not shipped yet.

A canary is followed burst by burst. Whether it is slower is said by the scan of all windows that end now
(`candidate_scan`), and on hosts too busy for that by the floor of its fastest requests. What has once been called
slower is so until the p95 of the newest bursts is back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from baselines.baseline import floor_of
from baselines.quantiles import Groups
from benchmarks.candidate_noise import noise_of
from benchmarks.candidate_scan import Channel, Scan

FLOOR_BURSTS, HALF_FLOOR = 30, 15  # both must have risen
FLOOR_SHARE = 0.75  # of the threshold: what a floor must have risen by where no control takes the machine off
BACK_BURSTS = 5  # fifty requests: a whole shift that is over leaves none of them above the gate
BACK_TAIL_BURSTS = 15  # where one request in eight was slow, fifty may show none by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """threshold: the rise of p95 that matters, as a fraction. evidence: how strong it must be, in deviations."""

    threshold: float = 0.20
    evidence: float = 5.0


class Watch:
    """One canary against one baseline (latencies in seconds, a tuple for each burst)."""

    def __init__(self, baseline: Groups, policy: Policy) -> None:
        self._policy = policy
        self._noise = noise_of(baseline, threshold=policy.threshold)
        self._floor_s = floor_of(baseline)
        self._scan = Scan(self._noise)
        self._recent: deque[tuple[float, ...]] = deque(maxlen=FLOOR_BURSTS)
        self._alarm: Channel | None = None
        self.slower = False

    def take(self, burst: tuple[float, ...]) -> None:
        """The next burst; `slower` says afterwards how it stands."""
        self._recent.append(burst)
        self._scan.take(np.array(burst))
        score = self._scan.score()
        channel = max(Channel, key=lambda each: float(score.z[each]))
        if self.slower:
            if self._is_back():
                self.slower, self._alarm = False, None
                self._scan = Scan(self._noise)  # what it was before it came back is no evidence of what it is
        elif float(score.z[channel]) >= self._policy.evidence:
            self.slower, self._alarm = True, channel
        elif self._scan.bursts >= FLOOR_BURSTS and self._floor_rose(FLOOR_BURSTS) and self._floor_rose(HALF_FLOOR):
            self.slower = True

    def _is_back(self) -> bool:
        if self._alarm is None:
            return not self._floor_rose(HALF_FLOOR, part=0.5)
        return not self._scan.still(BACK_BURSTS if self._alarm is Channel.LOCATION else BACK_TAIL_BURSTS)

    def _floor_rose(self, bursts: int, *, part: float = 1.0) -> bool:
        """Contention stretches the top of a burst and leaves its floor; what lifts the floor is slower code."""
        ratio = floor_of(list(self._recent)[-bursts:]) / self._floor_s
        return ratio >= 1 + part * FLOOR_SHARE * self._policy.threshold
