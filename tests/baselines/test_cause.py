"""Who is to blame: the tables that decide whether anything may act."""

from __future__ import annotations

import math

import pytest
from builders import NOW
from hypothesis import given
from hypothesis import strategies as st
from synthetic import failed_burst

from baselines.cause import HELD, Blame, availability_cause, blame_device, latency_cause, level_of
from baselines.floor import Lift
from baselines.gpu_view import Finding
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from baselines.witness import Signs
from probes.messages import Outcome

SURE_OF_IT = 0.01  # the error of a floor that is well known


def signs(
    *,
    floor: float = 1.3,
    over: float | None = None,
    shared: float | None = None,
    error: float = SURE_OF_IT,
    whole: bool = True,
    busier: bool | None = None,
    crowded: str | None = None,
) -> Signs:
    """What was seen; floor and over as ratios."""
    return Signs(
        whole=whole,
        floor=Lift(rise=math.log(floor), error=error),
        floor_over_control=None if over is None else Lift(rise=math.log(over), error=error),
        control_share=shared,
        busier=busier,
        crowded=crowded,
    )


def cause_of(seen: Signs) -> Cause:
    return latency_cause(seen, changed=False, threshold=0.20)


STEAL = "cpu_steal 0.40, at baseline 0.01"


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        pytest.param(signs(over=1.3, shared=0.0), Cause.MODEL, id="the control stands still"),
        pytest.param(signs(over=1.0, shared=1.0), Cause.ENVIRONMENT, id="the control moved as much"),
        pytest.param(signs(over=1.13, shared=0.9), Cause.MODEL, id="slower code on a slow machine"),
        pytest.param(signs(over=1.08, shared=0.9), Cause.ENVIRONMENT, id="less than half is the canary's own"),
        pytest.param(signs(over=1.3, shared=0.9, error=0.08), Cause.ENVIRONMENT, id="a floor that is not certain"),
        pytest.param(signs(over=1.05, shared=0.34), Cause.ENVIRONMENT, id="a third is the control's"),
        pytest.param(signs(over=1.05, shared=0.33), Cause.UNKNOWN, id="not quite a third"),
        pytest.param(signs(), Cause.UNKNOWN, id="no control, no blame"),
        pytest.param(signs(crowded=STEAL), Cause.UNKNOWN, id="nor on a busy machine, when the floor rose"),
        pytest.param(signs(floor=1.0, crowded=STEAL), Cause.ENVIRONMENT, id="a busy machine, the floor stayed"),
        pytest.param(signs(floor=1.0, crowded=STEAL, whole=False), Cause.ENVIRONMENT, id="likewise, a tail"),
        pytest.param(signs(floor=1.0), Cause.LOAD, id="all but the fastest wait for something"),
        pytest.param(signs(floor=1.0, whole=False), Cause.UNKNOWN, id="only the slowest do"),
        pytest.param(signs(floor=1.0, busier=False), Cause.UNKNOWN, id="it is not load, its load is known"),
        pytest.param(signs(floor=1.0, error=0.05), Cause.UNKNOWN, id="a floor that may have risen"),
        pytest.param(signs(over=1.3, shared=0.0, busier=True), Cause.LOAD, id="more work explains what it delays"),
        pytest.param(signs(over=1.3, shared=0.0, busier=False), Cause.MODEL, id="no more work"),
    ],
)
def test_latency_cause(seen: Signs, cause: Cause) -> None:
    """Only a floor that rose over the control's, for certain, blames the model."""
    assert cause_of(seen) is cause


@pytest.mark.parametrize("seen", [signs(over=1.3, shared=0.0), signs(), signs(busier=True)])
def test_a_changed_version_is_the_cause_whatever_moved(seen: Signs) -> None:
    """A slowdown after a change is told with the change's name and is never recycled."""
    assert latency_cause(seen, changed=True, threshold=0.20) is Cause.VERSION_CHANGED


@given(st.floats(0.5, 20.0), st.floats(0.2, 20.0), st.floats(1.0, 5.0), st.floats(0.001, 0.5), st.floats(0.0, 2.0))
def test_a_control_that_moves_more_never_blames_the_model_more(
    floor: float, control: float, more: float, error: float, shared: float
) -> None:
    """What is not the model's stays so when the control's floor moves further, or is less certain."""
    if cause_of(signs(floor=floor, over=floor / control, shared=shared, error=error)) is not Cause.MODEL:
        further = signs(floor=floor, over=floor / control / more, shared=shared, error=error)
        assert cause_of(further) is not Cause.MODEL
        vaguer = signs(floor=floor, over=floor / control, shared=shared, error=error * more)
        assert cause_of(vaguer) is not Cause.MODEL


def follow(*found: Cause, start: Cause = Cause.UNKNOWN) -> list[Cause]:
    blame, causes = Blame(cause=start), []
    for cause in found:
        blame = blame.follow(cause)
        causes.append(blame.cause)
    return causes


@pytest.mark.parametrize("cause", [Cause.LOAD, Cause.ENVIRONMENT, Cause.MODEL])
def test_what_explained_a_slowdown_does_so_for_a_while(cause: Cause) -> None:
    """Twenty bursts after it was last seen, then what is found counts again."""
    found = [cause, *[Cause.UNKNOWN] * (HELD + 2)]
    assert follow(*found) == [cause] * (HELD + 1) + [Cause.UNKNOWN] * 2
    assert follow(*found[: HELD + 1], cause, *[Cause.UNKNOWN] * HELD) == [cause] * (2 * HELD + 2)


@pytest.mark.parametrize("cause", [Cause.MODEL, Cause.VERSION_CHANGED])
@pytest.mark.parametrize("before", [Cause.LOAD, Cause.ENVIRONMENT, Cause.UNKNOWN])
def test_what_is_certain_overrules_at_once(before: Cause, cause: Cause) -> None:
    """A floor that rose, a version that changed."""
    assert follow(cause, start=before) == [cause]


def test_one_excuse_does_not_take_the_place_of_another() -> None:
    """Until the first has had its time; an unknown cause gives way at once."""
    assert follow(Cause.ENVIRONMENT, start=Cause.LOAD) == [Cause.LOAD]
    assert follow(Cause.UNKNOWN, Cause.ENVIRONMENT) == [Cause.UNKNOWN, Cause.ENVIRONMENT]


@pytest.mark.parametrize(
    ("outcome", "alive", "cpu", "cause"),
    [
        pytest.param(Outcome.TIMEOUT, 1, 0.0, Cause.MODEL, id="alive, idle, silent: hung"),
        pytest.param(Outcome.TIMEOUT, 1, 0.49, Cause.MODEL, id="nearly idle"),
        pytest.param(Outcome.TIMEOUT, 1, 0.5, Cause.LOAD, id="working"),
        pytest.param(Outcome.TIMEOUT, 0, None, Cause.UNKNOWN, id="nobody there to answer"),
        pytest.param(Outcome.TIMEOUT, 1, None, Cause.UNKNOWN, id="CPU not known"),
        pytest.param(Outcome.TIMEOUT, None, None, Cause.UNKNOWN, id="processes not watched"),
        pytest.param(Outcome.STATUS_500, 1, 0.0, Cause.MODEL, id="500"),
        pytest.param(Outcome.STATUS_502, None, None, Cause.UNKNOWN, id="502, not watched"),
        pytest.param(Outcome.STATUS_504, 0, None, Cause.UNKNOWN, id="504, none alive"),
        pytest.param(Outcome.CONNECTION_LOST, 2, 0.1, Cause.MODEL, id="connection lost"),
        pytest.param(Outcome.REFUSED, 0, None, Cause.UNKNOWN, id="refused, none alive"),
        pytest.param(Outcome.REFUSED, 1, 0.0, Cause.MODEL, id="refused by a living worker"),
        pytest.param(Outcome.REFUSED, None, None, Cause.UNKNOWN, id="refused, not watched"),
        pytest.param(Outcome.STATUS_404, 1, 0.0, Cause.UNKNOWN, id="our request is wrong"),
        pytest.param(Outcome.UNREACHABLE, 1, 0.0, Cause.UNKNOWN, id="no route"),
        pytest.param(Outcome.CUDA_FAULT, 1, 0.0, Cause.UNKNOWN, id="the isolated worker is not the server"),
        pytest.param(Outcome.OUT_OF_MEMORY, 1, 0.0, Cause.UNKNOWN, id="nor is its out of memory"),
    ],
)
def test_availability_cause(outcome: Outcome, alive: int | None, cpu: float | None, cause: Cause) -> None:
    """The model is blamed only on what a restart of its server would cure."""
    assert availability_cause(failed_burst(outcome, workers_alive=alive, worker_cpu=cpu), outcome) is cause


def test_a_server_that_also_says_busy_is_under_load() -> None:
    """A time-out beside a 429 is load, hung or not."""
    burst = failed_burst(Outcome.OVERLOADED_429, Outcome.TIMEOUT, workers_alive=1, worker_cpu=0.0)
    assert availability_cause(burst, Outcome.TIMEOUT) is Cause.LOAD


@pytest.mark.parametrize("cause", list(Cause))
def test_level(cause: Cause) -> None:
    """Load and environment inform; everything else pages."""
    assert level_of(cause) is (Level.INFO if cause in (Cause.LOAD, Cause.ENVIRONMENT) else Level.PAGE)


# --- devices ----------------------------------------------------------------------------------------------------------


def verdict(check: Check, cause: Cause, *, since: float | None = NOW, status: Status = Status.WORSE) -> Verdict:
    return Verdict(
        target="chat",
        check=check,
        subject="default",
        at=NOW + 300,
        status=status,
        reason=Reason.REGRESSED,
        cause=cause,
        level=level_of(cause),
        since=since,
    )


def found(reason: Reason, since: float = NOW) -> Finding:
    return Finding(reason=reason, since=since, detail="why")


@pytest.mark.parametrize("before", [Cause.MODEL, Cause.UNKNOWN, Cause.ENVIRONMENT])
def test_what_slows_a_device_down_explains_a_slowdown(before: Cause) -> None:
    """With its own cause and that cause's level, and the clause that a message shows."""
    blamed = blame_device(verdict(Check.LATENCY, before), [found(Reason.THROTTLED), found(Reason.HOT)])
    assert (blamed.cause, blamed.level, blamed.evidence["gpu"]) == (Cause.HARDWARE, Level.PAGE, "why")
    blamed = blame_device(verdict(Check.LATENCY, before), [found(Reason.NEIGHBOUR)])
    assert (blamed.cause, blamed.level) == (Cause.ENVIRONMENT, Level.INFO)


@pytest.mark.parametrize(("since", "explains"), [(-901, False), (-900, True), (0, True), (300, True), (301, False)])
def test_only_what_began_with_it_explains_it(since: float, explains: bool) -> None:
    """What was so at baseline is no news, and an effect does not come before its cause."""
    slow = verdict(Check.LATENCY, Cause.MODEL)
    assert (blame_device(slow, [found(Reason.THROTTLED, NOW + since)]) != slow) is explains


@pytest.mark.parametrize(
    "slow",
    [
        verdict(Check.LATENCY, Cause.VERSION_CHANGED),
        verdict(Check.LATENCY, Cause.LOAD),
        verdict(Check.LATENCY, Cause.UNKNOWN, status=Status.UNKNOWN),
        verdict(Check.LATENCY, Cause.UNKNOWN, status=Status.OK),
        verdict(Check.MEMORY, Cause.MODEL),
        verdict(Check.AVAILABILITY, Cause.MODEL),
        verdict(Check.OUTPUT, Cause.MODEL),
    ],
    ids=lambda v: f"{v.check}-{v.cause}-{v.status}",
)
def test_what_is_known_better_or_has_nothing_to_do_with_it_stands(slow: Verdict) -> None:
    """Throttling makes no wrong answer and no leak."""
    assert blame_device(slow, [found(Reason.THROTTLED)]) is slow


@pytest.mark.parametrize("check", [Check.AVAILABILITY, Check.OUTPUT])
@pytest.mark.parametrize("reason", [Reason.GPU_LOST, Reason.ECC_UNCORRECTED, Reason.GPU_RESET_NEEDED])
def test_a_device_that_cannot_be_trusted_explains_no_answer_or_a_wrong_one(check: Check, reason: Reason) -> None:
    """Whenever it began; the level stays what the symptom deserves."""
    blamed = blame_device(verdict(check, Cause.MODEL), [found(reason, NOW - 86400)])
    assert (blamed.cause, blamed.level) == (Cause.HARDWARE, Level.PAGE)
    assert blame_device(verdict(Check.LATENCY, Cause.MODEL), [found(reason)]).cause is Cause.MODEL


def test_a_poisoned_context_leaves_the_blame_where_it_is() -> None:
    """It is the model's own, and a recycle cures it."""
    wrong = verdict(Check.OUTPUT, Cause.MODEL)
    assert blame_device(wrong, [found(Reason.CONTEXT_POISONED)]) is wrong
