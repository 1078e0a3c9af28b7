"""What is normal for one canary: the latencies and the answer taken when it was known to be well.

A baseline is immutable. Its identity says what it may be compared with; its provenance says what was running.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

import numpy as np

from baselines.floor import floor_of
from baselines.noise import Prior
from baselines.quantiles import Groups, quantile, quantile_bounds
from probes.facts import LOAD
from probes.messages import Burst, Identity, Outcome, Output, Sample

MIN_BURSTS = 3  # fewer share one moment of the machine
MIN_SAMPLES = 20  # below it the nearest-rank p95 is simply the maximum


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The latencies of one canary when it was well, and its answer.

    id: the store's; None before it is stored. label: a person's words. provisional: the daemon took it by itself.
    bursts: judged latencies in seconds, one non-empty tuple per burst, oldest first; at least one burst.
    controls: the same for the control requests; empty without a control.
    facts: of each burst what was known beside it (`probes.facts`); empty where it was not kept.
    since: when it became the active one; None where it is not known to be.
    prior: what the baselines before it tell of the noise; None for the first of its identity.
    golden: the answer to compare later answers with, its values included; None when it could not be read.
    """

    id: int | None = None
    target: str
    canary: str
    taken_at: float
    label: str | None = None
    provisional: bool = False
    identity: Identity
    provenance: Mapping[str, str]
    golden: Output | None = None
    bursts: Groups
    controls: Groups = ()
    facts: tuple[Mapping[str, float], ...] = ()
    since: float | None = field(default=None, compare=False)
    prior: Prior | None = None

    @property
    def loads(self) -> list[float]:
        """Of the bursts that knew it: how many requests the target had waiting or in progress."""
        return [facts[LOAD] for facts in self.facts if LOAD in facts]

    @property
    def samples(self) -> int:
        """How many latencies it holds."""
        return sum(len(burst) for burst in self.bursts)

    @property
    def p50_s(self) -> float:
        return _summarise(self.bursts).p50_s

    @property
    def p95_s(self) -> float:
        return _summarise(self.bursts).p95_s

    @property
    def floor_s(self) -> float:
        """What the model takes when nothing is in its way, see `floor_of`."""
        return _summarise(self.bursts).floor_s

    @property
    def median_s(self) -> float:
        """The median of the burst medians, which a few bad bursts do not move."""
        return _summarise(self.bursts).median_s

    @property
    def control_median_s(self) -> float | None:
        """The median of all control latencies; None without a control."""
        return _summarise(self.controls).p50_s if self.controls else None

    @property
    def control_floor_s(self) -> float | None:
        """The floor of the control; None without one."""
        return _summarise(self.controls).floor_s if self.controls else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summary:
    p50_s: float
    p95_s: float
    floor_s: float
    median_s: float


@lru_cache(maxsize=64)  # a pure function of a baseline's latencies, asked at every judgement
def _summarise(bursts: Groups) -> _Summary:
    pooled = [latency for burst in bursts for latency in burst]
    return _Summary(
        p50_s=quantile(pooled, 0.5),
        p95_s=quantile(pooled, 0.95),
        floor_s=floor_of(bursts),
        median_s=float(np.median([np.median(burst) for burst in bursts])),
    )


class NotReadyReason(StrEnum):
    """Why no baseline can be taken from these bursts."""

    FAILED = "failed"
    MIXED_IDENTITY = "mixed_identity"
    MIXED_PROVENANCE = "mixed_provenance"
    MIXED_SHAPE = "mixed_shape"
    TOO_FEW_SAMPLES = "too_few_samples"


class NotReady(Exception):  # noqa: N818 -- it is an answer to "may this become the baseline?", not a malfunction
    """These bursts cannot become a baseline: `reason` for programs, the message for a person."""

    def __init__(self, reason: NotReadyReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def gather(
    bursts: Sequence[Burst],
    *,
    label: str | None,
    provisional: bool,
    taken_at: float,
    min_bursts: int = MIN_BURSTS,
) -> Baseline:
    """The baseline that these bursts of one canary make, oldest first.

    Golden is the last answer that could be read. Tainted samples are left out. Raises NotReady when a request failed,
    when input, device, version or the answer's shape changed on the way (a field that became known did not change),
    or when too few samples are left.
    """
    _refuse_failures(bursts)
    usable = [burst for burst in bursts if burst.judged]
    judged = tuple(latencies_of(burst.judged) for burst in usable)
    count = sum(len(latencies) for latencies in judged)
    if len(judged) < min_bursts or count < MIN_SAMPLES:
        raise NotReady(
            NotReadyReason.TOO_FEW_SAMPLES,
            f"{count} good samples in {len(judged)} bursts; a baseline needs {MIN_SAMPLES} in {min_bursts}",
        )
    _refuse_changes(bursts)
    return Baseline(
        target=bursts[-1].target,
        canary=bursts[-1].canary,
        taken_at=taken_at,
        label=label,
        provisional=provisional,
        identity=bursts[-1].identity,
        provenance={key: value for burst in bursts for key, value in burst.provenance.items()},
        golden=next((burst.output for burst in reversed(bursts) if burst.output is not None), None),
        bursts=judged,
        controls=tuple(controls for burst in usable if (controls := controls_of(burst.judged))),
        facts=tuple(dict(burst.facts) for burst in usable) if any(burst.facts for burst in usable) else (),
    )


def latencies_of(judged: Sequence[Sample]) -> tuple[float, ...]:
    """The latencies of judged samples, in seconds."""
    return tuple([s.latency_s for s in judged if s.latency_s is not None])


def controls_of(judged: Sequence[Sample]) -> tuple[float, ...]:
    """The control latencies beside them; empty without a control."""
    return tuple([s.control_s for s in judged if s.control_s is not None])


def _refuse_failures(bursts: Sequence[Burst]) -> None:
    failed = [s for burst in bursts for s in burst.samples if s.outcome is not Outcome.GOOD]
    if failed:
        first = failed[0]
        what = f"{first.outcome}: {first.detail}" if first.detail else str(first.outcome)
        raise NotReady(NotReadyReason.FAILED, f"{len(failed)} requests failed, the first with {what}")


def _refuse_changes(bursts: Sequence[Burst]) -> None:
    known: dict[str, str] = {}
    shape: tuple[int, ...] | None = None
    for burst in bursts:
        if burst.identity != bursts[0].identity:
            raise NotReady(NotReadyReason.MIXED_IDENTITY, "the input or the device changed between bursts")
        for key, value in burst.provenance.items():
            if known.setdefault(key, value) != value:
                message = f"{key} changed from {known[key]} to {value} between bursts"
                raise NotReady(NotReadyReason.MIXED_PROVENANCE, message)
        if burst.output is not None and burst.output.shape is not None:
            shape = shape or burst.output.shape
            if shape != burst.output.shape:
                message = f"the answer's shape changed from {shape} to {burst.output.shape} between bursts"
                raise NotReady(NotReadyReason.MIXED_SHAPE, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How much a baseline can be trusted.

    p95_low_s, p95_high_s: bounds that each hold with 95 %; None when there are too few samples for it (59 for the
    upper one). width: (high - low) / p95, None when a bound is missing.
    between_burst_sd: standard deviation of the log burst medians, which sampling more per burst does not lower; None
    for a single burst.
    """

    samples: int
    bursts: int
    p95_s: float
    p95_low_s: float | None
    p95_high_s: float | None
    width: float | None
    between_burst_sd: float | None


NOISY_SD = 0.10  # of log burst medians: one burst in six is then off by 10 % or more, near to what is looked for


def is_noisy(figures: Quality) -> bool:
    """Whether the bursts differ so much from each other that a slowdown of 20 % can hide among them."""
    return figures.between_burst_sd is not None and figures.between_burst_sd > NOISY_SD


def quality(baseline: Baseline) -> Quality:
    """Measure a baseline's own uncertainty."""
    low, high = quantile_bounds([x for burst in baseline.bursts for x in burst], 0.95)
    medians = [math.log(float(np.median(burst))) for burst in baseline.bursts]
    return Quality(
        samples=baseline.samples,
        bursts=len(baseline.bursts),
        p95_s=baseline.p95_s,
        p95_low_s=low,
        p95_high_s=high,
        width=None if low is None or high is None else (high - low) / baseline.p95_s,
        between_burst_sd=float(np.std(medians, ddof=1)) if len(medians) > 1 else None,
    )


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Provenance fields that differ, as (old, new), by name. None is unknown, and unknown equals only itself."""
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def describe_changes(changed: Mapping[str, tuple[str | None, str | None]]) -> str:
    """One line: "torch 2.12 -> 2.13, server unknown -> uvicorn". Empty when nothing changed."""
    return ", ".join(f"{key} {old or 'unknown'} -> {new or 'unknown'}" for key, (old, new) in changed.items())
