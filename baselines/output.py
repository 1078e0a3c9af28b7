"""Is the answer right? The probes compare each answer with what is expected; this says what follows for the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from baselines.baseline import Baseline, changes, describe_changes
from baselines.cause import level_of
from baselines.verdict import Cause, Check, Reason, Status, Verdict
from probes.messages import Burst, Family, Outcome, Sample

ENOUGH_STRIKES = 2  # a wrong answer twice running fires at once; more say nothing more

_REASONS: Mapping[Outcome, Reason] = {
    Outcome.NOT_JSON: Reason.NOT_READABLE,
    Outcome.MISSING_FIELD: Reason.NOT_READABLE,
    Outcome.NOT_NUMERIC: Reason.NOT_READABLE,
    Outcome.WRONG_TEXT: Reason.WRONG_TEXT,
    Outcome.WRONG_SHAPE: Reason.WRONG_SHAPE,
    Outcome.NOT_FINITE: Reason.NOT_FINITE,
    Outcome.DRIFTED: Reason.DRIFTED,
    Outcome.WRONG_TOP_K: Reason.WRONG_TOP_K,
}


def judge_output(burst: Burst, *, now: float, baseline: Baseline | None = None) -> Verdict:
    """Judge the answers of one burst; requests that got none are left to availability.

    WORSE when any answer was wrong, with as many strikes as came in a row (2 at most). UNKNOWN without an answer, and
    when nothing is wrong with it but the baseline is of another identity, so that it was compared with nothing.
    The cause is the model, or the version when the baseline's provenance is given and differs.
    """
    answers = [s for s in burst.samples if s.outcome.family in (Family.GOOD, Family.WRONG)]
    wrong = [s for s in answers if s.outcome.family is Family.WRONG]
    good = Verdict(
        target=burst.target,
        check=Check.OUTPUT,
        subject=burst.canary,
        at=now,
        status=Status.OK,
        reason=Reason.GOOD,
        life=burst.life,
        evidence={"samples": len(answers), "wrong": len(wrong)},
    )
    if not answers:
        return replace(good, status=Status.UNKNOWN, reason=Reason.NO_DATA)
    if not wrong and baseline is not None and baseline.identity != burst.identity:
        return replace(good, status=Status.UNKNOWN, reason=Reason.IDENTITY_CHANGED)  # compared with nothing
    if not wrong:
        return good
    first = wrong[0]
    changed = changes(baseline.provenance, burst.provenance) if baseline is not None else {}
    named = {"changed": describe_changes(changed)} if changed else {}
    # An isolated worker's wrong answer is the model's, but a recycle of the server would not change it.
    cause = Cause.VERSION_CHANGED if changed else Cause.UNKNOWN if burst.isolated else Cause.MODEL
    return replace(
        good,
        status=Status.WORSE,
        reason=reason_of(first.outcome),
        cause=cause,
        level=level_of(cause),
        since=first.at,
        strikes=min(_longest_wrong_run(answers), ENOUGH_STRIKES),
        evidence={**good.evidence, "outcome": str(first.outcome), "detail": first.detail, **named},
    )


def reason_of(outcome: Outcome) -> Reason:
    """The reason that a wrong answer gives. Raises KeyError for an outcome that is no wrong answer."""
    return _REASONS[outcome]


def _longest_wrong_run(answers: list[Sample]) -> int:
    longest = run = 0
    for answer in answers:
        run = run + 1 if answer.outcome.family is Family.WRONG else 0
        longest = max(longest, run)
    return longest
