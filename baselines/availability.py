"""Does the target answer? Only completed answers prove life; a server that says "busy" is alive, for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from baselines.cause import availability_cause, is_working, level_of
from baselines.verdict import Cause, Check, Reason, Status, Verdict
from probes.messages import Burst, Family, Outcome, Sample

_BAD = (Family.UNAVAILABLE, Family.FAULT)
_ANSWERED = (Family.GOOD, Family.WRONG)  # what a wrong answer means is the output check's business
CUDA_FAULT_STRIKES = 3  # fires at once: a CUDA context does not recover

_REASONS: Mapping[Outcome, Reason] = {
    Outcome.TIMEOUT: Reason.TIMEOUT,
    Outcome.REFUSED: Reason.REFUSED,
    Outcome.UNREACHABLE: Reason.CONNECTION_FAILED,
    Outcome.CONNECTION_LOST: Reason.CONNECTION_FAILED,
    Outcome.TLS_FAILED: Reason.CONNECTION_FAILED,
    Outcome.PROTOCOL_ERROR: Reason.CONNECTION_FAILED,
    Outcome.ANSWER_TOO_LARGE: Reason.SERVER_ERROR,
    Outcome.STATUS_OTHER: Reason.SERVER_ERROR,
    Outcome.WORKER_CRASHED: Reason.WORKER_FAILED,
    Outcome.WORKER_ERROR: Reason.WORKER_FAILED,
    Outcome.MODEL_LOAD_FAILED: Reason.WORKER_FAILED,
    Outcome.OUT_OF_MEMORY: Reason.WORKER_FAILED,
    Outcome.CUDA_FAULT: Reason.CUDA_FAULT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityPolicy:
    """busy_patience_s: how long a server may do nothing but say "busy" before it counts as saturated. 5 minutes is
    longer than a burst of traffic and shorter than a person's patience."""

    busy_patience_s: float = 300.0


def judge_availability(
    burst: Burst,
    *,
    last_good_at: float | None,
    first_burst_at: float | None = None,
    policy: AvailabilityPolicy,
    now: float,
) -> Verdict:
    """Judge one burst.

    WORSE when a request got no answer; the incident asks for several such bursts. UNKNOWN while the target is only
    busy: it says so itself, or all its requests time out while a worker uses the CPU. WORSE (saturated, load) once
    that has lasted busy_patience_s since last_good_at, or since first_burst_at, when the canary was asked first, for
    one that was never good. Both are about the bursts before this one; both None: it is the first.
    """
    bad = [s for s in burst.samples if s.outcome.family in _BAD]
    answered = sum(s.outcome.family in _ANSWERED for s in burst.samples)
    good = Verdict(
        target=burst.target,
        check=Check.AVAILABILITY,
        subject=burst.canary,
        at=now,
        status=Status.OK,
        reason=Reason.GOOD,
        life=burst.life,
        evidence={
            "samples": len(burst.samples),
            "answered": answered,
            "failed": len(bad),
            "busy": sum(s.outcome.family is Family.BUSY for s in burst.samples),
            "seconds_since_good": None if last_good_at is None else now - last_good_at,
            "workers_alive": burst.workers_alive,
            "worker_cpu": burst.worker_cpu,
        },
    )
    if answered and not bad:
        return good
    if not answered and _only_busy(burst, bad):
        quiet_since = first_burst_at if last_good_at is None else last_good_at
        if quiet_since is None or now - quiet_since < policy.busy_patience_s:
            return replace(good, status=Status.UNKNOWN, reason=Reason.BUSY)
        return _worse(good, Reason.SATURATED, Cause.LOAD, since=quiet_since)
    return _failed(good, burst, next((s for s in bad if s.outcome is Outcome.CUDA_FAULT), bad[0]))


def reason_of(outcome: Outcome) -> Reason:
    """The reason that an unanswered request gives. Raises KeyError for an outcome that is an answer or a "busy"."""
    if outcome.startswith("status_4"):
        return Reason.CLIENT_ERROR
    return Reason.SERVER_ERROR if outcome.startswith("status_5") else _REASONS[outcome]


def _only_busy(burst: Burst, bad: list[Sample]) -> bool:
    return not bad or (is_working(burst) and all(s.outcome is Outcome.TIMEOUT for s in bad))


def _failed(good: Verdict, burst: Burst, sample: Sample) -> Verdict:
    evidence = {**good.evidence, "outcome": str(sample.outcome), "detail": sample.detail}
    cause = availability_cause(burst, sample.outcome)
    worse = _worse(replace(good, evidence=evidence), reason_of(sample.outcome), cause, since=sample.at)
    return replace(worse, strikes=CUDA_FAULT_STRIKES) if sample.outcome is Outcome.CUDA_FAULT else worse


def _worse(good: Verdict, reason: Reason, cause: Cause, *, since: float) -> Verdict:
    return replace(good, status=Status.WORSE, reason=reason, cause=cause, level=level_of(cause), since=since, strikes=1)
