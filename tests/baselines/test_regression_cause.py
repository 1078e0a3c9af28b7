"""Whom the latency rule blames, through what was measured beside the canary, and when it waits with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic import MINUTE, START, make_baseline, make_bursts, steady
from watching import (
    BASELINE,
    CONTROLLED,
    POLICY,
    bursts_at,
    controls_at,
    first_worse,
    follow,
    judge,
    letters,
    restarted,
    words,
)

from baselines.baseline import Baseline
from baselines.floor import UNSEEN
from baselines.regression import PATIENCE, LatencyWatch
from baselines.seen import Seen
from baselines.slowdown import Slowdown
from baselines.verdict import Cause, Level, Status, Verdict
from probes.facts import CPU_STEAL, LOAD
from probes.messages import Burst

STEP = [1.0] * 10 + [1.3] * 12


def with_fact(bursts: list[Burst], name: str, *values: float) -> list[Burst]:
    """The bursts, each with its own value; the last goes on."""
    return [replace(b, facts={name: values[min(i, len(values) - 1)]}) for i, b in enumerate(bursts)]


@pytest.mark.parametrize(
    ("control", "cause", "level"),
    [
        pytest.param([1.0] * 22, Cause.MODEL, Level.PAGE, id="the control stands still"),
        pytest.param(STEP, Cause.ENVIRONMENT, Level.INFO, id="the machine is slow"),
        pytest.param(None, Cause.UNKNOWN, Level.PAGE, id="no control"),
    ],
)
def test_the_control_decides_the_cause(control: list[float] | None, cause: Cause, level: Level) -> None:
    """The same slowdown is the model's or the machine's; without a control nobody is blamed."""
    bursts = bursts_at(*STEP, controls=None if control is None else controls_at(*control))
    verdicts = follow(bursts, CONTROLLED)
    told = [v for v in verdicts if v.status is Status.WORSE]
    assert {(v.cause, v.level) for v in told} == {(cause, level)}
    expected = None if control is None else pytest.approx(control[-1], rel=0.05)
    assert told[-1].evidence["control_ratio"] == expected
    assert told[-1].evidence["control_floor_ratio"] == expected


def contended(bursts: int, *, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(how much longer canary, control) of bursts whose fastest requests alone did not wait."""
    rng = np.random.default_rng(seed)
    canary, control = rng.uniform(1.2, 3.0, size=(2, bursts, 10))
    canary[:, :4] = control[:, :6] = 1.0
    canary[:10] = control[:10] = 1.0
    return canary, control


def told_last(rows: np.ndarray, controls: np.ndarray | None = None, **facts: float) -> Verdict:
    """The verdict of contended bursts; their facts, 0.01 at baseline and in the first ten of them."""
    baseline = replace(CONTROLLED if controls is not None else BASELINE, facts=({CPU_STEAL: 0.01, LOAD: 1.0},) * 30)
    bursts = make_bursts(rows, controls=controls)
    return judge([replace(b, facts=dict(facts) if i >= 10 else {}) for i, b in enumerate(bursts)], baseline)


def test_contention_is_not_the_models_fault() -> None:
    """Other work on the host stretches most requests of canary and control; the fastest of each stay as they were."""
    canary, control = contended(30)
    rows, controls = steady(np.random.default_rng(6), 30) * canary, controls_at(*[1.0] * 30) * control
    verdict = told_last(rows, controls)
    assert (verdict.status, verdict.cause, verdict.level) == (Status.WORSE, Cause.ENVIRONMENT, Level.INFO)


def test_a_busy_machine_explains_a_slowdown_whose_floor_stayed() -> None:
    """Without a control the steal tells, and is named; where nothing else is known they wait for other requests."""
    rows = steady(np.random.default_rng(6), 60) * contended(60)[0]
    verdict = told_last(rows, **{CPU_STEAL: 0.4})
    assert (verdict.cause, verdict.level) == (Cause.ENVIRONMENT, Level.INFO)
    assert verdict.evidence["beside"] == "cpu_steal 0.40, at baseline 0.01"
    assert (told_last(rows).cause, told_last(rows).level) == (Cause.LOAD, Level.INFO)
    assert told_last(rows, **{LOAD: 1.0}).cause is Cause.UNKNOWN


def test_a_busy_machine_explains_no_floor_that_rose() -> None:
    """Every request takes longer: slower code on a busy machine."""
    bursts = with_fact(bursts_at(*STEP), CPU_STEAL, *[0.01] * 10, 0.4)
    verdict = judge(bursts, replace(BASELINE, facts=({CPU_STEAL: 0.01},) * 30))
    assert (verdict.cause, verdict.evidence.get("beside")) == (Cause.UNKNOWN, None)


@pytest.mark.parametrize(
    ("load", "cause", "level"), [(9.0, Cause.LOAD, Level.INFO), (1.0, Cause.UNKNOWN, Level.PAGE)], ids=["more", "same"]
)
def test_slow_because_busy(load: float, cause: Cause, level: Level) -> None:
    """The target says what it has to do; one number of it decides who is told."""
    baseline = replace(BASELINE, facts=({LOAD: 1.0},) * 30)
    verdict = judge(with_fact(bursts_at(*STEP), LOAD, *[1.0] * 10, load), baseline)
    assert (verdict.status, verdict.cause, verdict.level) == (Status.WORSE, cause, level)
    assert (verdict.evidence["load"], verdict.evidence["baseline_load"]) == (load, 1.0)


def test_what_was_as_slow_at_like_load_is_load_and_what_is_slower_is_not() -> None:
    """A busy hour teaches how slow a busy hour is; in the next one a model that is 40 % slower stands out."""
    baseline = replace(BASELINE, facts=({LOAD: 1.0},) * 30)
    hour = [1.0] * 10 + [1.3] * 25 + [1.0] * 10
    loads = [1.0] * 10 + [9.0] * 25 + [1.0] * 10
    for slower, cause in ((1.0, Cause.LOAD), (1.4, Cause.UNKNOWN)):
        ratios = [*hour, *[1.3 * slower] * 12]
        verdicts = follow(with_fact(bursts_at(*ratios), LOAD, *loads, 9.0), baseline)
        assert {v.cause for v in verdicts[:45] if v.status is Status.WORSE} == {Cause.LOAD}
        assert (verdicts[-1].status, verdicts[-1].cause) == (Status.WORSE, cause)


def test_a_changed_version_is_named() -> None:
    """A deploy never resets the baseline: the slowdown is reported, with the two versions."""
    bursts = bursts_at(*[1.3] * 5, provenance={"torch": "2.13"})
    verdict = judge(bursts, replace(BASELINE, provenance={"torch": "2.12"}))
    assert (verdict.cause, verdict.level) == (Cause.VERSION_CHANGED, Level.PAGE)
    assert verdict.evidence["changed"] == "torch 2.12 -> 2.13"


def test_an_alarm_that_a_control_does_not_explain_waits() -> None:
    """For three bursts: only the canary's tail moved, which a busy machine does before its control feels it."""
    rng = np.random.default_rng(7)
    rows = steady(rng, 40)
    rows[10:] *= np.where(rng.random((30, 10)) < 0.2, 1.8, 1.0)
    controls = controls_at(*[1.0] * 40)
    with_it = follow(make_bursts(rows, controls=controls), CONTROLLED)
    without = follow(make_bursts(rows), CONTROLLED)
    doubted, told = first_worse(with_it), first_worse(without)
    assert told is not None
    assert doubted == told + PATIENCE
    watch = LatencyWatch(CONTROLLED, POLICY)
    follow(make_bursts(rows[: told + 1], controls=controls[: told + 1]), watch=watch)
    assert watch.alarm is not None
    assert not watch.slower


def stretched(rng: np.random.Generator, bursts: int) -> np.ndarray:
    """How much longer requests take on a machine where most wait, in every other burst much."""
    waits = np.where(rng.random((bursts, 10)) < 0.6, rng.exponential(0.5, (bursts, 10)), 0.0)
    return np.exp(waits + rng.exponential(0.5, (bursts, 1)) * (rng.random((bursts, 1)) < 0.5))


def drowned(*ratios: float) -> tuple[np.ndarray, np.ndarray]:
    """(canary, control) on such a machine: 60 bursts for the baseline, then one at each ratio."""
    rng = np.random.default_rng(8)
    count = 60 + len(ratios)
    busy = [stretched(rng, count) for _ in range(2)]
    rows, controls = steady(rng, count) * busy[0], steady(rng, count, typical=0.002) * busy[1]
    rows[60:] *= np.array(ratios)[:, None]
    return rows, controls


def test_the_floor_over_the_controls_finds_what_noise_drowns() -> None:
    """On a machine so busy that the location cannot tell, slower code lifts the canary's floor, not its control's."""
    rows, controls = drowned(*[1.0] * 40, *[1.35] * 60)
    baseline = make_baseline(rows[:60], controls=controls[:60])
    verdicts = follow(make_bursts(rows[60:], controls=controls[60:]), baseline)
    assert "W" not in letters(verdicts)[:40]
    told = [v for v in verdicts if v.status is Status.WORSE]
    assert (told[-1].cause, told[-1].evidence["found_by"]) == (Cause.MODEL, "floor")


def hidden(ratio: float) -> tuple[Baseline, list[Burst]]:
    """A machine that gets busy after 20 bursts, for its canary and its control; after 60 more, a model at the ratio."""
    rng = np.random.default_rng(12)
    count = 60 + 140
    busy = np.exp(rng.exponential(0.5, (count, 10)) * (rng.random((count, 10)) < 0.6))
    busy[:80] = 1.0
    rows, controls = steady(rng, count) * busy, steady(rng, count, typical=0.002) * busy
    rows[140:] *= ratio
    return make_baseline(rows[:60], controls=controls[:60]), make_bursts(rows[60:], controls=controls[60:])


@pytest.mark.parametrize(("ratio", "cause"), [(1.0, Cause.ENVIRONMENT), (1.3, Cause.MODEL)])
def test_a_busy_machine_hides_no_model_that_gets_slower_too(ratio: float, cause: Cause) -> None:
    """The machine's slowdown stands and is nobody's; the model's, which comes later, is told with its own time."""
    baseline, bursts = hidden(ratio)
    verdicts = follow(bursts, baseline)
    assert {v.cause for v in verdicts[:80] if v.status is Status.WORSE} == {Cause.ENVIRONMENT}
    last = verdicts[110]
    assert (last.status, last.cause) == (Status.WORSE, cause)
    if cause is Cause.MODEL:
        assert last.since == pytest.approx(bursts[80].at, abs=5 * MINUTE)


@pytest.mark.parametrize("at", [45, 79, 95, 110])
def test_a_restart_changes_nothing_of_it(at: int) -> None:
    """Before the model's slowdown and while it stands: built anew from what is kept, the same is said."""
    baseline, bursts = hidden(1.3)
    expected = follow(bursts, baseline)
    again = restarted(bursts, at, expected[at - 1], baseline)
    assert words(follow(bursts[at:], watch=again)) == words(expected[at:])


@pytest.mark.parametrize(("ratio", "cause"), [(1.0, Cause.LOAD), (1.3, Cause.MODEL)])
def test_load_hides_no_model_that_gets_slower_too(ratio: float, cause: Cause) -> None:
    """Half as slow again under more work than ever, which the control does not feel: load. Slower still: the model."""
    rng = np.random.default_rng(13)
    rows, controls = steady(rng, 260), steady(rng, 260, typical=0.002)
    rows[100:] *= 1.5
    rows[160:] *= ratio
    loads = np.where(np.arange(260) < 100, 2.0, 12.0)
    baseline = make_baseline(rows[:60], controls=controls[:60], facts=({LOAD: 2.0},) * 60)
    verdicts = follow(with_fact(make_bursts(rows[60:], controls=controls[60:]), LOAD, *loads[60:]), baseline)
    assert {v.cause for v in verdicts[:100] if v.status is Status.WORSE} == {Cause.LOAD}
    assert len({v.since for v in verdicts[:100] if v.status is Status.WORSE}) == 1
    last = verdicts[130]
    assert (last.status, last.cause) == (Status.WORSE, cause)


@pytest.mark.parametrize("before", [True, False], ids=["at baseline they were", "at baseline they were not"])
@pytest.mark.parametrize("now", [True, False], ids=["now they are", "now they are not"])
def test_floors_count_as_erring_together_only_if_they_did_and_do(*, before: bool, now: bool) -> None:
    """What holds up the canary held up its control in the same bursts, at baseline and since."""
    rng = np.random.default_rng(14)

    def rows(count: int, *, together: bool) -> tuple[np.ndarray, np.ndarray]:
        held = rng.exponential(0.3, (2, count, 1))
        return tuple(  # type: ignore[return-value]
            steady(rng, count, typical=typical) * np.exp(held[0 if together else n])
            for n, typical in enumerate((0.05, 0.002))
        )

    usual, newest = rows(60, together=before), rows(60, together=now)
    slowdown = Slowdown(make_baseline(usual[0], controls=usual[1]), POLICY)
    for each in zip(*newest, strict=True):
        latencies, controls = (tuple(row.tolist()) for row in each)
        slowdown.take(Seen(at=0.0, latencies=latencies, controls=controls, life=None, facts={}, load=None))
    floor, over = slowdown.floors(60)
    assert over is not None
    assert slowdown.control is not None
    lows = [low for each in newest[1] if (low := slowdown.control.low(each.tolist())) is not None]
    alone = math.hypot(floor.error, slowdown.control.floor.lift(lows).error)
    if before and now:
        assert over.error < 0.6 * alone
    else:
        assert over.error > 0.85 * alone


def test_a_control_that_hardly_answers_is_none() -> None:
    """Of half of the bursts at least a floor is known, else it says nothing."""
    slowdown = Slowdown(CONTROLLED, POLICY)
    rows, controls = steady(np.random.default_rng(15), 20), controls_at(*[1.0] * 20)
    for number, (latencies, answered) in enumerate(zip(rows.tolist(), controls.tolist(), strict=True)):
        known = tuple(answered) if number % 5 == 0 else ()
        slowdown.take(Seen(at=number, latencies=tuple(latencies), controls=known, life=None, facts={}, load=None))
    floor, over = slowdown.floors(20)
    assert floor is not UNSEEN
    assert over is None


@pytest.mark.parametrize("silent", [False, True], ids=["with its control", "the control is silent since"])
def test_a_floor_that_came_back_ends_it(*, silent: bool) -> None:
    """Though the location is as noisy as ever."""
    rows, controls = drowned(*[1.35] * 60, *[1.0] * 30)
    baseline = make_baseline(rows[:60], controls=controls[:60])
    slow, well = slice(60, 120), slice(120, 150)
    watch = LatencyWatch(baseline, POLICY)
    told = follow(make_bursts(rows[slow], controls=controls[slow]), watch=watch)[-1]
    assert (told.status, told.evidence["found_by"]) == (Status.WORSE, "floor")
    later = {"start": START + MINUTE * 60, "controls": None if silent else controls[well]}
    assert "W" not in letters(follow(make_bursts(rows[well], **later), watch=watch))[-15:]
