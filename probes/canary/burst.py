"""What every canary has in common: its plan, its face to the scheduler, and how many requests it may send."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from probes.messages import Burst, Identity, Outcome, Output, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPlan:
    """How often and how hard a canary may ask.

    interval_s: from one burst to the next.
    timeout_s: a whole request, from connecting to the last byte.
    size: requests a burst, warm-up not counted.
    warmup: requests sent first and thrown away.
    max_busy: the share of the server's time, 0 to 1, that the canary may take.
    """

    interval_s: float
    timeout_s: float
    size: int
    warmup: int
    max_busy: float


class Canary(Protocol):
    """A fixed input that is sent to one target again and again.

    isolated: asks the model in a process of its own, so that its failures say nothing about the serving worker.
    """

    target: str
    name: str
    plan: CanaryPlan
    isolated: bool

    @property
    def identity(self) -> Identity | None:
        """What it asks, as far as it knows; None until it does."""
        ...

    def burst(self, *, golden: Output | None = None, size: int | None = None, times: int = 1) -> Burst:
        """Send one burst and wait for it. A failing target is data in the burst, never an exception.

        golden: the answer to compare with; None compares with nothing.
        size: requests to send; None sends as many as the plan allows (`affordable_size`), of `times` its size.
        One burst at a time: the caller never starts a second one while the first is in flight.
        """
        ...

    def close(self) -> None:
        """Let go of connections and processes. Safe to call twice."""
        ...


def affordable_size(plan: CanaryPlan, typical_s: float | None, *, times: int = 1) -> int:
    """Requests to send so that warm-up and burst together keep the server busy for at most max_busy of the interval.

    typical_s: the usual latency, with its control's where that costs the server too; None (not known yet) answers 1, so
    that an unknown model is not hit with a full burst.
    Never below 1, never above plan.size; times: of a burst that may be so many times as large, see
    `baselines.closer_look`.
    """
    if typical_s is None or not math.isfinite(typical_s):
        return 1
    if typical_s <= 0:
        return max(1, times * plan.size)
    affordable = plan.max_busy * plan.interval_s / typical_s - plan.warmup
    return max(1, math.floor(min(times * plan.size, affordable + 1e-9)))  # 0.6 / 0.06 must be 10, not 9


def typical_latency(samples: Iterable[Sample]) -> float | None:
    """Median latency in seconds of the good samples, tainted ones left out where others are there; None without any."""
    good = [s for s in samples if s.outcome is Outcome.GOOD and s.latency_s is not None]
    judged = [s for s in good if not s.tainted] or good
    return median(s.latency_s for s in judged if s.latency_s is not None) if judged else None


def typical_control(samples: Iterable[Sample]) -> float:
    """Median of the known controls in seconds; 0.0 without any, for then none costs the server anything."""
    known = [s.control_s for s in samples if s.control_s is not None]
    return median(known) if known else 0.0


def hash_input(*parts: bytes) -> str:
    """16 hex digits that name an input: equal parts in equal order and nothing else give the same name.

    sha256 over each part with its length before it, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
