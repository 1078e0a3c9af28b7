"""What a latency judgement needs of a burst, or why the burst cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from baselines.baseline import Baseline, controls_of, latencies_of
from baselines.verdict import Reason
from probes.messages import Burst, Outcome, Sample

MIN_JUDGED_SHARE = 0.5  # of a burst's samples; what is left of a mostly failed burst is no picture of the latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A comparable burst. latencies, controls: seconds, the latter empty without a control. facts: `Burst.facts`.

    alone: whether the worker that answered is the only one; False where that is not known.
    """

    at: float
    life: str | None
    latencies: tuple[float, ...]
    controls: tuple[float, ...]
    facts: Mapping[str, float]
    load: float | None
    alone: bool = False


def enough_judged(burst: Burst) -> tuple[Sample, ...]:
    """The samples whose latency may be compared; empty when they are too few to stand for the burst."""
    judged = burst.judged
    return judged if len(judged) >= MIN_JUDGED_SHARE * len(burst.samples) else ()


def see(burst: Burst, baseline: Baseline) -> Seen | Reason:
    """The burst's latencies, or why they cannot be compared with the baseline's."""
    if burst.identity != baseline.identity:
        return Reason.IDENTITY_CHANGED
    judged = enough_judged(burst)
    if judged:
        return Seen(
            at=burst.at,
            life=burst.life,
            latencies=latencies_of(judged),
            controls=controls_of(judged),
            facts=burst.facts,
            load=burst.load,
            alone=burst.workers_alive == 1,
        )
    good = sum(s.outcome is Outcome.GOOD for s in burst.samples)
    if good == 0:
        return Reason.NO_DATA
    return Reason.TAINTED if good >= MIN_JUDGED_SHARE * len(burst.samples) else Reason.TOO_FEW_SAMPLES


def pool(latencies: Sequence[Sequence[float]]) -> list[float]:
    """All of them in one list."""
    return [latency for burst in latencies for latency in burst]


def median_fact(seen: Sequence[Seen], name: str) -> float | None:
    """Of the bursts that know it; None when none does."""
    known = [each.facts[name] for each in seen if name in each.facts]
    return float(np.median(known)) if known else None
