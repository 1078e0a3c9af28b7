"""What a baseline can show: the detector is tried on the baseline's own noise before anybody relies on it.

The bursts are drawn again in blocks, so that neighbours stay neighbours, as 64 streams side by side: a month of quiet,
and changes of known size. The noise is the baseline's: what a longer time would bring (another hour of the day, a bad
neighbour) is not in it, so the figures are what to expect at best.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from baselines.baseline import Baseline
from baselines.noise import noise_of, side_by_side
from baselines.quantiles import Floats
from baselines.scan import Channel, Scan
from baselines.slowdown import RegressionPolicy

STREAMS = 64
BLOCK = 6  # bursts
QUIET, BEFORE, AFTER = 240, 20, 120  # bursts of each stream: without a change, before one and after
RISES = (0.15, 0.20, 0.30, 0.50, 1.00, 2.00)
FOUND = 0.8  # of the streams: a change that is found
_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came of it.

    false_alarms: in 30 days of a burst a minute, expected from `bursts` quiet ones; none seen is told as 0.
    smallest: the least rise of RISES, as a fraction, that is found within AFTER bursts four times in five, None when
    none is; delay: bursts until it is found, in the median; delay_at_threshold: the same for the threshold, None when
    that is found too seldom.
    """

    bursts: int
    false_alarms: float
    smallest: float | None
    delay: float | None
    delay_at_threshold: float | None


def rehearse(baseline: Baseline, policy: RegressionPolicy) -> Rehearsal:
    """Try it with that policy. Takes a second."""
    bursts, threshold = baseline.bursts, policy.threshold
    size = min(map(len, bursts))
    logs = np.log(np.array([burst[:size] for burst in bursts]))
    noise = side_by_side([noise_of(bursts, threshold=threshold, prior=baseline.prior)] * STREAMS)
    chosen = random.Random(_SEED)  # noqa: S311 -- no secret

    def told(count: int, rise: float) -> list[list[int]]:
        """For each stream the bursts after which an alarm stood, `rise` in logs from burst BEFORE on."""
        scan = Scan(noise, lanes=(STREAMS,))
        found: list[list[int]] = [[] for _ in range(STREAMS)]
        stream = _draw(logs, count, chosen)
        stream[BEFORE:] += rise
        for t in range(count):
            scan.take(np.exp(stream[t]))
            z = scan.score().z
            for lane in np.flatnonzero(np.max([z[channel] for channel in Channel], axis=0) >= policy.evidence):
                found[lane].append(t)
        return found

    quiet = told(QUIET, 0.0)
    alarms = sum(1 for lane in quiet for i, t in enumerate(lane) if i == 0 or t - lane[i - 1] > AFTER // 2)
    delays = {rise: _median_delay(told(BEFORE + AFTER, math.log1p(rise))) for rise in {*RISES, threshold}}
    found_rises = [rise for rise in sorted(RISES) if delays[rise] is not None]
    return Rehearsal(
        bursts=QUIET * STREAMS,
        false_alarms=alarms * 43_200 / (QUIET * STREAMS),
        smallest=found_rises[0] if found_rises else None,
        delay=delays[found_rises[0]] if found_rises else None,
        delay_at_threshold=delays[threshold],
    )


def _draw(logs: Floats, count: int, chosen: random.Random) -> Floats:
    """(bursts, streams, requests), in blocks that begin anywhere and wrap around."""
    blocks = -(-count // BLOCK)
    starts = np.array([chosen.randrange(len(logs)) for _ in range(blocks * STREAMS)]).reshape(blocks, STREAMS)
    index = (starts[:, None, :] + np.arange(BLOCK)[None, :, None]) % len(logs)
    return np.asarray(logs[index].reshape(blocks * BLOCK, STREAMS, -1)[:count])


def _median_delay(told: list[list[int]]) -> float | None:
    """Of those that were found, when FOUND of those without an alarm before are; None otherwise."""
    quiet = [lane for lane in told if not lane or lane[0] >= BEFORE]
    delays = [lane[0] - BEFORE + 1 for lane in quiet if lane]
    return float(np.median(delays)) if delays and len(delays) >= FOUND * len(quiet) else None
