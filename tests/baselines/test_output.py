"""Wrong answers: how many in a row, why, and whose fault."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import START, failed_burst, make_baseline, make_burst

from baselines.output import judge_output, reason_of
from baselines.verdict import Cause, Check, Level, Reason, Status
from probes.messages import Family, Outcome

G, W, T, N = Outcome.GOOD, Outcome.DRIFTED, Outcome.TIMEOUT, Outcome.NOT_FINITE


@pytest.mark.parametrize(
    ("outcomes", "status", "reason", "strikes"),
    [
        pytest.param((G, G), Status.OK, Reason.GOOD, 0, id="right"),
        pytest.param((G, W, G), Status.WORSE, Reason.DRIFTED, 1, id="once"),
        pytest.param((W, G, W), Status.WORSE, Reason.DRIFTED, 1, id="twice, not running"),
        pytest.param((G, W, W), Status.WORSE, Reason.DRIFTED, 2, id="twice running"),
        pytest.param((W, T, W), Status.WORSE, Reason.DRIFTED, 2, id="a lost answer in between is no right one"),
        pytest.param((W,) * 10, Status.WORSE, Reason.DRIFTED, 2, id="ten count as two"),
        pytest.param((N, W), Status.WORSE, Reason.NOT_FINITE, 2, id="the first names the reason"),
        pytest.param((T,), Status.UNKNOWN, Reason.NO_DATA, 0, id="no answer at all"),
        pytest.param((Outcome.OVERLOADED_503,), Status.UNKNOWN, Reason.NO_DATA, 0, id="busy"),
        pytest.param((G, T), Status.OK, Reason.GOOD, 0, id="one right, one lost"),
    ],
)
def test_judge_output(outcomes: tuple[Outcome, ...], status: Status, reason: Reason, strikes: int) -> None:
    """Any wrong answer is WORSE, with as many strikes as came in a row; no answer is no evidence."""
    verdict = judge_output(failed_burst(*outcomes), now=START)
    assert (verdict.check, verdict.status, verdict.reason, verdict.strikes) == (Check.OUTPUT, status, reason, strikes)
    assert verdict.life == "7@1"
    if status is Status.WORSE:
        assert (verdict.cause, verdict.level) == (Cause.MODEL, Level.PAGE)
        assert verdict.since is not None


def test_every_wrong_outcome_has_a_reason() -> None:
    """No outcome of the probes can break the judge."""
    for outcome in Outcome:
        if outcome.family is Family.WRONG:
            assert isinstance(reason_of(outcome), Reason)


@pytest.mark.parametrize(
    ("now_runs", "cause"), [("2.12", Cause.MODEL), ("2.13", Cause.VERSION_CHANGED)], ids=["same", "changed"]
)
def test_wrong_answers_after_a_deploy_are_the_versions(now_runs: str, cause: Cause) -> None:
    """A changed version is named and keeps the recycler away: a restart would bring the same answer."""
    baseline = make_baseline(np.full((3, 10), 0.05), provenance={"torch": "2.12"})
    burst = make_burst([0.05, 0.05], outcomes=[W, W], provenance={"torch": now_runs})
    verdict = judge_output(burst, now=START, baseline=baseline)
    assert verdict.cause is cause
    assert verdict.evidence.get("changed") == ("torch 2.12 -> 2.13" if cause is Cause.VERSION_CHANGED else None)


def test_no_life_when_several_workers_answered() -> None:
    """A wrong answer among several workers accuses none of them."""
    mixed = make_burst([0.05, 0.05], outcomes=[W, W])
    other = make_burst([0.05], outcomes=[W], life="8@1")
    both = type(mixed)(
        target="api", canary="default", at=START, samples=mixed.samples + other.samples, identity=mixed.identity
    )
    assert judge_output(both, now=START).life is None
