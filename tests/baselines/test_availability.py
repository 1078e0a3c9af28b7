"""Answers, failures and "busy": what each burst says about the target being there."""

from __future__ import annotations

import pytest
from synthetic import START, failed_burst

from baselines.availability import AvailabilityPolicy, judge_availability, reason_of
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Burst, Family, Outcome

G, W, T = Outcome.GOOD, Outcome.DRIFTED, Outcome.TIMEOUT
BUSY = Outcome.OVERLOADED_503


def judge(burst: Burst, *, good_ago_s: float | None = 60.0, first_ago_s: float | None = 3600.0) -> Verdict:
    last_good_at, first_burst_at = (None if ago_s is None else START - ago_s for ago_s in (good_ago_s, first_ago_s))
    return judge_availability(
        burst, last_good_at=last_good_at, first_burst_at=first_burst_at, policy=AvailabilityPolicy(), now=START
    )


@pytest.mark.parametrize(
    "outcomes", [(G, G, G), (G, W, G), (W, W), (G, BUSY, BUSY)], ids=["good", "one wrong", "all wrong", "partly busy"]
)
def test_completed_answers_are_available(outcomes: tuple[Outcome, ...]) -> None:
    """An answer came and none was lost; what it says is the output check's business."""
    verdict = judge(failed_burst(*outcomes))
    assert (verdict.status, verdict.reason, verdict.strikes) == (Status.OK, Reason.GOOD, 0)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.TIMEOUT, Reason.TIMEOUT),
        (Outcome.REFUSED, Reason.REFUSED),
        (Outcome.UNREACHABLE, Reason.CONNECTION_FAILED),
        (Outcome.CONNECTION_LOST, Reason.CONNECTION_FAILED),
        (Outcome.TLS_FAILED, Reason.CONNECTION_FAILED),
        (Outcome.STATUS_500, Reason.SERVER_ERROR),
        (Outcome.STATUS_504, Reason.SERVER_ERROR),
        (Outcome.STATUS_OTHER, Reason.SERVER_ERROR),
        (Outcome.STATUS_404, Reason.CLIENT_ERROR),
        (Outcome.STATUS_422, Reason.CLIENT_ERROR),
        (Outcome.WORKER_CRASHED, Reason.WORKER_FAILED),
        (Outcome.OUT_OF_MEMORY, Reason.WORKER_FAILED),
        (Outcome.CUDA_FAULT, Reason.CUDA_FAULT),
    ],
)
def test_one_lost_request_is_worse(outcome: Outcome, reason: Reason) -> None:
    """A good answer before it does not excuse the request that got none."""
    verdict = judge(failed_burst(G, outcome))
    assert (verdict.check, verdict.subject, verdict.status) == (Check.AVAILABILITY, "default", Status.WORSE)
    assert verdict.reason is reason
    assert verdict.level is Level.PAGE
    assert verdict.since == pytest.approx(START + 0.1)
    assert verdict.evidence["outcome"] == outcome


def test_every_unanswered_outcome_has_a_reason() -> None:
    """No outcome of the probes can break the judge."""
    for outcome in Outcome:
        if outcome.family in (Family.UNAVAILABLE, Family.FAULT):
            assert isinstance(reason_of(outcome), Reason)


def test_a_cuda_fault_counts_for_three() -> None:
    """Three strikes fire at once; any other failure is one strike, the fault is named even when it came second."""
    verdict = judge(failed_burst(Outcome.TIMEOUT, Outcome.CUDA_FAULT))
    assert (verdict.reason, verdict.strikes) == (Reason.CUDA_FAULT, 3)
    assert judge(failed_burst(Outcome.TIMEOUT)).strikes == 1


def test_a_hung_worker_is_the_models() -> None:
    """Alive, idle and silent behind a good health page."""
    verdict = judge(failed_burst(T, workers_alive=1, worker_cpu=0.01))
    assert (verdict.status, verdict.cause, verdict.level) == (Status.WORSE, Cause.MODEL, Level.PAGE)


@pytest.mark.parametrize(
    "burst",
    [
        failed_burst(BUSY, BUSY),
        failed_burst(T, workers_alive=1, worker_cpu=0.97),
        failed_burst(BUSY, Outcome.OVERLOADED_429),
    ],
    ids=["503", "time-out of a working worker", "503 and 429"],
)
@pytest.mark.parametrize(
    ("good_ago_s", "first_ago_s", "status", "reason"),
    [
        (299.0, 3600.0, Status.UNKNOWN, Reason.BUSY),
        (300.0, 3600.0, Status.WORSE, Reason.SATURATED),
        (None, None, Status.UNKNOWN, Reason.BUSY),
        (None, 299.0, Status.UNKNOWN, Reason.BUSY),
        (None, 300.0, Status.WORSE, Reason.SATURATED),
    ],
    ids=["patient", "saturated", "first look", "never good, patient", "never good, saturated"],
)
def test_busy_is_unknown_until_patience_ends(
    burst: Burst, good_ago_s: float | None, first_ago_s: float | None, status: Status, reason: Reason
) -> None:
    """A busy server is neither well nor broken; after five minutes it is saturated, which is load and never acts."""
    verdict = judge(burst, good_ago_s=good_ago_s, first_ago_s=first_ago_s)
    assert (verdict.status, verdict.reason) == (status, reason)
    if status is Status.WORSE:
        assert (verdict.cause, verdict.level, verdict.strikes) == (Cause.LOAD, Level.INFO, 1)
        assert verdict.since == START - 300.0


def test_time_outs_of_a_working_worker_beside_answers_are_load() -> None:
    """It answered some: not silent, but requests are lost."""
    verdict = judge(failed_burst(G, T, workers_alive=1, worker_cpu=0.97))
    assert (verdict.status, verdict.reason, verdict.cause) == (Status.WORSE, Reason.TIMEOUT, Cause.LOAD)
    assert verdict.level is Level.INFO


def test_evidence_counts_what_happened() -> None:
    """A message can say how many of how many failed, and for how long nothing good was seen."""
    evidence = judge(failed_burst(G, W, BUSY, Outcome.REFUSED, workers_alive=2)).evidence
    assert evidence["samples"] == 4
    assert (evidence["answered"], evidence["failed"], evidence["busy"]) == (2, 1, 1)
    assert (evidence["seconds_since_good"], evidence["workers_alive"]) == (60.0, 2)
