"""Values that tests of several packages share, and waiting for something with a deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from alerts.episode import RecyclePolicy
from alerts.incident import Incident, State
from baselines.availability import AvailabilityPolicy
from baselines.baseline import Baseline
from baselines.database import Database
from baselines.leak import LeakPolicy
from baselines.limits import LimitsPolicy
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Cause, Check, Level, Reason, Status
from probes.canary.burst import CanaryPlan
from probes.messages import Burst, Identity, Outcome, Output, Sample
from watchdog.policies import Policies
from watchdog.target import Target

NOW = 1_800_000_000.0
DEADLINE_S = 20.0
IDENTITY = Identity(input_hash="abc", shapes="1x8", dtype="float32")
GOLDEN = Output(content_hash="f00d", shape=(1, 3), finite=True, count=3, mean=0.25, values=(0.125, 0.25, 0.375))


@dataclass
class Clock:
    """Seconds that move only when told to."""

    at: float = NOW

    def __call__(self) -> float:
        return self.at


def make_burst(
    *outcomes: Outcome, at: float = NOW, latency_s: float = 0.05, life: str | None = None, **about: Any
) -> Burst:
    """A burst with one sample per outcome (five good ones without any), a tenth of a second apart."""
    samples = tuple(
        Sample(at=at + 0.1 * i, outcome=outcome, latency_s=latency_s if outcome is Outcome.GOOD else None, life=life)
        for i, outcome in enumerate(outcomes or [Outcome.GOOD] * 5)
    )
    values = {"target": "chat", "canary": "default", "identity": IDENTITY, "samples": samples, "at": at}
    return Burst(**values | about)


def make_baseline(latency_s: float = 0.05, **about: Any) -> Baseline:
    """Thirty bursts of five equal latencies."""
    values = {
        "target": "chat",
        "canary": "default",
        "taken_at": NOW,
        "identity": IDENTITY,
        "provenance": {},
        "golden": GOLDEN,
        "bursts": ((latency_s,) * 5,) * 30,
    }
    return Baseline(**values | about)


def make_incident(incident_id: str = "i1", **about: Any) -> Incident:
    """A firing incident that a recycle may answer."""
    values = {
        "id": incident_id,
        "target": "chat",
        "check": Check.AVAILABILITY,
        "subject": "default",
        "state": State.FIRING,
        "status": Status.WORSE,
        "reason": Reason.TIMEOUT,
        "cause": Cause.MODEL,
        "level": Level.PAGE,
        "since": NOW - 60,
        "opened_at": NOW - 60,
        "updated_at": NOW,
        "fired_at": NOW,
        "blamed": 3,
    }
    return Incident(**values | about)


PLAN = CanaryPlan(interval_s=60.0, timeout_s=10.0, size=10, warmup=1, max_busy=0.01)


@dataclass(frozen=True)
class SilentCanary:
    """Is there and is never asked: the test makes its bursts."""

    target: str = "chat"
    name: str = "default"
    plan: CanaryPlan = PLAN
    isolated: bool = False
    identity: Identity = IDENTITY

    def burst(self, *, golden: Output | None = None, size: int | None = None, times: int = 1) -> Burst:
        raise AssertionError("nobody may ask it")

    def close(self) -> None:
        """Nothing to close."""


def make_target(database: Database, **about: Any) -> Target:
    """A target whose bursts are made by the test."""
    policies = Policies(
        availability=AvailabilityPolicy(),
        regression=RegressionPolicy(),
        leak=LeakPolicy(),
        limits=LimitsPolicy(),
        recycle=RecyclePolicy(),
    )
    values = {
        "name": "chat",
        "mode": "alert",
        "device": "cpu",
        "auto_baseline": True,
        "canaries": {"default": SilentCanary()},
        "expectations": {},
        "policies": policies,
        "database": database,
        "turns": database.path,
        "now": lambda: NOW,
        "monotonic": time.monotonic,
        "sleep": time.sleep,
    }
    return Target(**values | about)


def leave_out(why: str) -> NoReturn:
    """End a test whose part is missing: skipped, saying why; in CI, where everything must be there, failed."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}, and CI must run this")
    pytest.skip(why)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """The first truthy value of the condition; fails with `what` when time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        threading.Event().wait(0.01)
    pytest.fail(f"not within {timeout_s:g} s: {what}")
