"""Did the canary get slower than its baseline, and who is to blame?

Rule B1, "five in a row": the medians of five comparable bursts in a row lie above 1 + 0.7 x threshold times the
baseline's median of burst medians, and more than 5 % of the pooled samples since then lie above 1 + 0.75 x threshold
times the baseline's p95, which is to say that the pooled p95 itself moved. One bad burst, or two, never fire; three
bursts in a row below the line end it. Simulated at a threshold of 20 % on ten kinds of noise, without the gate: at most
one false alarm in 30 days of minutes on the worst kind; +20 % found after 5 bursts (median) and 15 (90 %). A change
that only the slowest requests feel is missed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from baselines.baseline import (
    Baseline,
    changes,
    controls_of,
    describe_changes,
    floor_of,
    is_noisy,
    latencies_of,
    quality,
)
from baselines.cause import latency_cause, level_of
from baselines.quantiles import quantile, quantile_ratio
from baselines.verdict import Cause, Check, Evidence, Reason, Status, Verdict
from probes.messages import Burst, Outcome, Sample

MIN_JUDGED_SHARE = 0.5  # of a burst's samples; what is left of a mostly failed burst is no picture of the latency
CLEARING_BURSTS = 3  # in a row below the line; a lone fast burst does not end a slowdown
_MEASURED_BURSTS = 20  # the newest of a run say how slow it is now; the interval hardly narrows beyond them
_TAIL_SHARE = 0.05  # beyond p95, by definition
_WHOLE, _TAIL = 2 / 3, 1 / 3  # share of the p95's move (in logs) that the floor shared: all requests, or the slowest


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionPolicy:
    """threshold: the rise of p95 that matters, as a fraction. bursts: how many in a row must be slow."""

    threshold: float = 0.20
    bursts: int = 5

    def __post_init__(self) -> None:
        if self.threshold <= 0:
            raise ValueError(f"threshold must be above 0 (given: {self.threshold})")
        if self.bursts < 1:
            raise ValueError(f"bursts must be 1 or more (given: {self.bursts})")

    @property
    def line(self) -> float:
        """What a burst median must exceed, over the baseline's: near enough to the threshold to be quick."""
        return 1 + 0.7 * self.threshold

    @property
    def gate(self) -> float:
        """What the pooled p95 must exceed, over the baseline's."""
        return 1 + 0.75 * self.threshold

    @property
    def window(self) -> int:
        """How many bursts a judgement looks at; the start of a longer run is the incident's to remember."""
        return 12 * self.bursts


def judge_latency(
    window: Sequence[Burst], baseline: Baseline | None, policy: RegressionPolicy, *, now: float
) -> Verdict:
    """Judge the newest burst in the light of those before it.

    window: bursts of one canary, oldest first, at least one; more than policy.window are not looked at. Bursts that
    cannot be compared (another identity, mostly failed or tainted) are passed over and break no run; when the newest
    is one of them the answer is UNKNOWN. A WORSE verdict persists by itself: one strike, since = the run's first burst.
    """
    newest = window[-1]
    within = Verdict(
        target=newest.target,
        check=Check.LATENCY,
        subject=newest.canary,
        at=now,
        status=Status.OK,
        reason=Reason.WITHIN_BASELINE,
        life=newest.life,
    )
    if baseline is None:
        return replace(within, status=Status.UNKNOWN, reason=Reason.NO_BASELINE)
    if isinstance(reason := _see(newest, baseline), Reason):
        return replace(within, status=Status.UNKNOWN, reason=reason, evidence=_needed(0, newest, policy))
    seen = [s for burst in window[-policy.window :] if isinstance(s := _see(burst, baseline), _Seen)]
    if len(seen) < policy.bursts:
        evidence = _needed(len(seen), newest, policy)
        return replace(within, status=Status.UNKNOWN, reason=Reason.TOO_FEW_SAMPLES, evidence=evidence)
    run = _slow_run(seen, policy.line * baseline.median_s, policy.bursts)
    if not run or not _passes_gate(run, policy.gate * baseline.p95_s):
        return replace(within, evidence=_measure(seen[-policy.bursts :], baseline))
    return _regressed(within, run, newest.provenance, baseline, policy)


def is_the_machines(bursts: Sequence[Burst], baseline: Baseline, policy: RegressionPolicy) -> bool:
    """Whether the control says that what makes these bursts slow is the machine. False without a control."""
    seen = [s for burst in bursts if isinstance(s := _see(burst, baseline), _Seen)]
    return bool(seen) and _cause(seen, {}, baseline, policy) is Cause.ENVIRONMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a judgement needs of a comparable burst."""

    at: float
    life: str | None
    latencies: tuple[float, ...]
    controls: tuple[float, ...]
    median_s: float


def enough_judged(burst: Burst) -> tuple[Sample, ...]:
    """The samples whose latency may be compared; empty when they are too few to stand for the burst."""
    judged = burst.judged
    return judged if len(judged) >= MIN_JUDGED_SHARE * len(burst.samples) else ()


def _see(burst: Burst, baseline: Baseline) -> _Seen | Reason:
    """The burst's latencies, or why they cannot be compared with the baseline's."""
    if burst.identity != baseline.identity:
        return Reason.IDENTITY_CHANGED
    judged = enough_judged(burst)
    if judged:
        latencies = latencies_of(judged)
        return _Seen(
            at=burst.at,
            life=burst.life,
            latencies=latencies,
            controls=controls_of(judged),
            median_s=median(latencies),
        )
    good = sum(s.outcome is Outcome.GOOD for s in burst.samples)
    if good == 0:
        return Reason.NO_DATA
    return Reason.TAINTED if good >= MIN_JUDGED_SHARE * len(burst.samples) else Reason.TOO_FEW_SAMPLES


def _needed(comparable: int, newest: Burst, policy: RegressionPolicy) -> Evidence:
    return {"bursts": comparable, "samples_needed": (policy.bursts - comparable) * len(newest.samples)}


def _slow_run(seen: Sequence[_Seen], line_s: float, needed: int) -> Sequence[_Seen]:
    """The bursts since the first `needed` in a row above the line, unless CLEARING_BURSTS below it ended that."""
    first = len(seen)
    above = below = 0
    while first > 0 and below < CLEARING_BURSTS:  # back to where the line was last truly left
        first -= 1
        below = 0 if seen[first].median_s > line_s else below + 1
    for index in range(first, len(seen)):
        above = above + 1 if seen[index].median_s > line_s else 0
        if above == needed:
            return seen[index + 1 - needed :]
    return []


def _passes_gate(run: Sequence[_Seen], gate_s: float) -> bool:
    pooled = _pool(run)
    return sum(latency > gate_s for latency in pooled) > _TAIL_SHARE * len(pooled)


def _regressed(
    within: Verdict,
    run: Sequence[_Seen],
    provenance: Mapping[str, str],
    baseline: Baseline,
    policy: RegressionPolicy,
) -> Verdict:
    evidence = _measure(run[-_MEASURED_BURSTS:], baseline)
    channel = {"channel": _channel(run[-_MEASURED_BURSTS:], baseline)}
    changed = changes(baseline.provenance, provenance)
    named = {"changed": describe_changes(changed)} if changed else {}
    cause = _cause(run, changed, baseline, policy)
    if cause is Cause.MODEL and is_noisy(quality(baseline)):
        cause = Cause.UNKNOWN  # told, but nothing is done on a baseline among whose own bursts such a change can hide
    lives = {burst.life for burst in run}
    return replace(
        within,
        status=Status.WORSE,
        reason=Reason.REGRESSED,
        cause=cause,
        level=level_of(cause),
        since=run[0].at,
        strikes=1,
        life=lives.pop() if len(lives) == 1 else None,
        evidence={**evidence, **channel, **named},
    )


def _cause(seen: Sequence[_Seen], changed: Mapping[str, object], baseline: Baseline, policy: RegressionPolicy) -> Cause:
    floors, control_floors = _floor_ratios(seen, baseline)
    return latency_cause(
        changed=changed,
        floor_ratio=floors,
        control_floor_ratio=control_floors,
        control_ratio=_control_ratio(seen, baseline),
        threshold=policy.threshold,
    )


def _measure(seen: Sequence[_Seen], baseline: Baseline) -> Evidence:
    """Ratios over the baseline with the interval of p95's; the same keys whether it is worse or not."""
    groups = tuple(burst.latencies for burst in seen)
    pooled = _pool(seen)
    ratio = quantile_ratio(groups, baseline.bursts, 0.95)
    floors, control_floors = _floor_ratios(seen, baseline)
    return {
        "ratio": ratio.estimate,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "floor_ratio": floors,
        "control_floor_ratio": control_floors,
        "control_ratio": _control_ratio(seen, baseline),
        "p95_s": quantile(pooled, 0.95),
        "baseline_p95_s": baseline.p95_s,
        "samples": len(pooled),
        "bursts": len(groups),
    }


def _pool(seen: Sequence[_Seen]) -> list[float]:
    return [latency for burst in seen for latency in burst.latencies]


def _floor_ratios(seen: Sequence[_Seen], baseline: Baseline) -> tuple[float, float | None]:
    """How much the floors of the canary and of its control moved; None without a control on both sides."""
    floors = floor_of([burst.latencies for burst in seen]) / baseline.floor_s
    controls = [burst.controls for burst in seen if burst.controls]
    if not controls or baseline.control_floor_s is None:
        return floors, None
    return floors, floor_of(controls) / baseline.control_floor_s


def _control_ratio(seen: Sequence[_Seen], baseline: Baseline) -> float | None:
    controls = [control for burst in seen for control in burst.controls]
    if not controls or baseline.control_median_s is None:
        return None
    return quantile(controls, 0.5) / baseline.control_median_s


def _channel(seen: Sequence[_Seen], baseline: Baseline) -> str:
    """Who got slower: "whole" (every request), "tail" (the slowest) or "mixed"."""
    pooled = _pool(seen)
    floor = math.log(_floor_ratios(seen, baseline)[0])
    p95 = math.log(quantile(pooled, 0.95) / baseline.p95_s)
    if floor >= _WHOLE * p95:
        return "whole"
    return "tail" if floor <= _TAIL * p95 else "mixed"
