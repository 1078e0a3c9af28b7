"""The rules of a target and of the store: policies of the packages below, made from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alerts.episode import RecyclePolicy
from baselines.availability import AvailabilityPolicy
from baselines.leak import LeakPolicy
from baselines.limits import LimitsPolicy
from baselines.retention import RetentionPolicy
from baselines.slowdown import RegressionPolicy
from baselines.xid import Remedy
from watchdog.config import StoreSection, TargetSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The rules of one target, as the packages below define them. xid: what codes of the driver ask for here."""

    availability: AvailabilityPolicy
    regression: RegressionPolicy
    leak: LeakPolicy
    limits: LimitsPolicy
    recycle: RecyclePolicy
    xid: Mapping[int, Remedy] = field(default_factory=dict)


def policies_of(section: TargetSection) -> Policies:
    """The rules of a target; `watchdog replay` uses them too."""
    recycle = section.recycle
    leak = section.leak
    return Policies(
        availability=AvailabilityPolicy(),
        regression=RegressionPolicy(threshold=section.regression.threshold, evidence=section.regression.evidence),
        leak=LeakPolicy(
            horizon_s=leak.horizon,
            urgent_s=leak.urgent,
            warmup_s=leak.warmup,
            window_s=leak.window,
            min_gain_bytes=leak.min_gain,
            capacity_bytes=leak.capacity,
        ),
        limits=LimitsPolicy(p95_s=section.limits.p95, memory_ratio=section.limits.memory_ratio),
        recycle=RecyclePolicy(
            min_uptime_s=recycle.min_uptime,
            cooldown_s=recycle.cooldown,
            budget=recycle.budget,
            budget_window_s=recycle.budget_window,
            max_age_s=recycle.max_age,
            max_age_jitter=recycle.max_age_jitter,
            max_requests=recycle.max_requests,
            max_requests_jitter=recycle.max_requests_jitter,
        )
        if recycle
        else RecyclePolicy(),
        xid={code: Remedy(remedy) for code, remedy in section.gpu.xid.items()},
    )


def retention_of(section: StoreSection) -> RetentionPolicy:
    """How long history lives."""
    return RetentionPolicy(
        samples_s=section.samples,
        failures_s=section.failures,
        memory_s=section.memory,
        rollups_s=section.rollups,
        max_rows=section.max_rows,
    )
