"""The latency rule: when it fires, when it must not, what it cannot tell, and whom it blames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import IDENTITY, NOISE, START, make_baseline, make_burst, make_bursts, noise, steady

from baselines.baseline import Baseline
from baselines.regression import RegressionPolicy, judge_latency
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Burst, Outcome

POLICY = RegressionPolicy()
BASELINE = make_baseline(steady(np.random.default_rng(0), 30))


def judge(window: Sequence[Burst], baseline: Baseline | None = BASELINE, policy: RegressionPolicy = POLICY) -> Verdict:
    return judge_latency(window, baseline, policy, now=window[-1].at)


def bursts_at(*ratios: float, size: int = 10, **about: object) -> list[Burst]:
    """A burst at each ratio of the baseline's latency, with the baseline's kind of spread."""
    rows = steady(np.random.default_rng(1), len(ratios), size) * np.array(ratios)[:, None]
    return make_bursts(rows, **about)


@pytest.mark.parametrize(
    ("ratios", "status"),
    [
        pytest.param([1.0] * 5, Status.OK, id="as ever"),
        pytest.param([0.5] * 5, Status.OK, id="faster"),
        pytest.param([1.1] * 60, Status.OK, id="10 % for an hour"),
        pytest.param([1.0] * 5 + [3.0], Status.OK, id="one bad burst"),
        pytest.param([1.0] * 5 + [3.0] * 2, Status.OK, id="two bad bursts"),
        pytest.param([1.0] * 5 + [1.3] * 4, Status.OK, id="four in a row"),
        pytest.param([1.0] * 5 + [1.3] * 5, Status.WORSE, id="five in a row"),
        pytest.param([1.0] * 5 + [1.3] * 4 + [1.0] + [1.3] * 4, Status.OK, id="never five in a row"),
        pytest.param([1.3] * 5, Status.WORSE, id="from the start"),
        pytest.param([1.3] * 5 + [1.0] * 2, Status.WORSE, id="two fast bursts do not end it"),
        pytest.param([1.3] * 5 + [1.0] * 3, Status.OK, id="three do"),
        pytest.param([1.3] * 5 + [1.0] * 3 + [1.3] * 4, Status.OK, id="and then it starts anew"),
        pytest.param([1.3] * 4, Status.UNKNOWN, id="only four bursts"),
    ],
)
def test_five_in_a_row(ratios: list[float], status: Status) -> None:
    """Five burst medians in a row above 1.14 fire; one, two or four never do; three below end it."""
    verdict = judge(bursts_at(*ratios))
    assert (verdict.check, verdict.subject, verdict.status) == (Check.LATENCY, "default", status)
    assert verdict.strikes == (1 if status is Status.WORSE else 0)


def test_the_verdict_flips_on_one_number() -> None:
    """The same window, one latency changed: the fifth burst's median falls below the line and the verdict with it."""
    rows = np.full((5, 9), 0.05 * 1.3)
    rows[4, :5] = 0.05 * 1.13
    baseline = make_baseline(np.full((30, 9), 0.05))
    assert judge(make_bursts(rows), baseline).status is Status.OK
    rows[4, 4] = 0.05 * 1.15
    assert judge(make_bursts(rows), baseline).status is Status.WORSE


@pytest.mark.parametrize(
    ("tail", "status"),
    [(1.0, Status.OK), (1.149, Status.OK), (1.151, Status.WORSE)],
    ids=["the same tail", "14.9 %", "15.1 %"],
)
def test_the_pooled_p95_must_have_moved_too(tail: float, status: Status) -> None:
    """The gate: medians up by 16 % fire only when the p95 itself, one request in ten, is up by 15 %."""
    baseline = make_baseline(np.tile([0.05] * 9 + [0.2], (30, 1)))
    verdict = judge(make_bursts(np.tile([0.058] * 9 + [0.2 * tail], (8, 1))), baseline)
    assert verdict.status is status
    assert verdict.evidence["ratio"] == pytest.approx(tail)


def test_worse_says_since_when_how_much_and_on_what_evidence() -> None:
    """since is the first slow burst; the true ratio lies in the interval; counts are those of the run."""
    window = bursts_at(*[1.0] * 10, *[1.3] * 7)
    verdict = judge(window)
    assert (verdict.reason, verdict.since, verdict.at) == (Reason.REGRESSED, window[10].at, window[-1].at)
    evidence = verdict.evidence
    assert evidence["ratio_low"] <= 1.3 <= evidence["ratio_high"]  # type: ignore[operator]
    assert evidence["ratio"] == pytest.approx(evidence["p95_s"] / evidence["baseline_p95_s"])  # type: ignore[operator]
    assert (evidence["samples"], evidence["bursts"], evidence["channel"]) == (70, 7, "whole")
    assert evidence["floor_ratio"] == pytest.approx(1.3, rel=0.05)


def test_ok_reports_its_ratio_too() -> None:
    """The page can show 1.0 x with its interval while all is well."""
    evidence = judge(bursts_at(*[1.0] * 8)).evidence
    assert evidence["ratio_low"] < 1.0 < evidence["ratio_high"]  # type: ignore[operator]
    assert evidence["bursts"] == 5


@pytest.mark.parametrize(
    ("floor", "channel"), [(1.5, "whole"), (1.25, "mixed"), (1.0, "tail")], ids=["whole", "mixed", "tail"]
)
def test_channel(floor: float, channel: str) -> None:
    """Whether the fastest requests got slower as well tells a slow model from a slow path."""
    baseline = make_baseline(np.full((30, 10), 0.05))
    rows = np.full((5, 10), 0.05 * 1.5)
    rows[:, :2] = 0.05 * floor
    assert judge(make_bursts(rows), baseline).evidence["channel"] == channel


@pytest.mark.parametrize(
    ("control_ratio", "cause", "level"),
    [
        pytest.param(1.0, Cause.MODEL, Level.PAGE, id="the control stands still"),
        pytest.param(1.3, Cause.ENVIRONMENT, Level.INFO, id="the machine is slow"),
        pytest.param(None, Cause.UNKNOWN, Level.PAGE, id="no control"),
    ],
)
def test_the_control_decides_the_cause(control_ratio: float | None, cause: Cause, level: Level) -> None:
    """The same slowdown is the model's or the machine's; without a control nobody is blamed."""
    controls = steady(np.random.default_rng(2), 30, typical=0.002)
    baseline = make_baseline(steady(np.random.default_rng(0), 30), controls=controls)
    seen = None if control_ratio is None else controls[:6] * control_ratio
    verdict = judge(bursts_at(*[1.3] * 6, controls=seen), baseline)
    assert (verdict.status, verdict.cause, verdict.level) == (Status.WORSE, cause, level)
    expected = None if control_ratio is None else pytest.approx(control_ratio, rel=0.05)
    assert verdict.evidence["control_ratio"] == expected


def test_contention_is_not_the_models_fault() -> None:
    """Other work on the host stretches most requests of canary and control; the fastest of each stay as they were."""
    rng = np.random.default_rng(5)
    rows, controls = steady(rng, 36), steady(rng, 36, typical=0.002)
    baseline = make_baseline(rows[:30], controls=controls[:30])
    stretch = rng.uniform(1.2, 3.0, size=(6, 10))
    stretch[:, 0] = 1.0
    verdict = judge(make_bursts(rows[30:] * stretch, controls=controls[30:] * stretch), baseline)
    assert (verdict.status, verdict.cause, verdict.level) == (Status.WORSE, Cause.ENVIRONMENT, Level.INFO)


def test_a_changed_version_is_named() -> None:
    """A deploy never resets the baseline: the slowdown is reported, with the two versions."""
    verdict = judge(
        bursts_at(*[1.3] * 5, provenance={"torch": "2.13"}), replace(BASELINE, provenance={"torch": "2.12"})
    )
    assert (verdict.cause, verdict.level) == (Cause.VERSION_CHANGED, Level.PAGE)
    assert verdict.evidence["changed"] == "torch 2.12 -> 2.13"


FEW_JUDGED = make_burst([0.05] * 10, outcomes=[Outcome.GOOD] * 4 + [Outcome.TIMEOUT] * 6)
MOSTLY_TAINTED = make_burst([0.05] * 10, tainted=[True] * 6 + [False] * 4)


@pytest.mark.parametrize(
    ("window", "baseline", "reason"),
    [
        pytest.param(bursts_at(*[1.0] * 5), None, Reason.NO_BASELINE, id="no baseline"),
        pytest.param(bursts_at(*[1.0] * 4), BASELINE, Reason.TOO_FEW_SAMPLES, id="four bursts"),
        pytest.param(
            bursts_at(*[1.0] * 9, identity=replace(IDENTITY, gpu_type="H200")),
            BASELINE,
            Reason.IDENTITY_CHANGED,
            id="another device",
        ),
        pytest.param([*bursts_at(*[1.3] * 9), MOSTLY_TAINTED], BASELINE, Reason.TAINTED, id="tainted"),
        pytest.param([*bursts_at(*[1.3] * 9), FEW_JUDGED], BASELINE, Reason.TOO_FEW_SAMPLES, id="mostly failed"),
        pytest.param(
            [*bursts_at(*[1.3] * 9), make_burst([0.05], outcomes=[Outcome.REFUSED])],
            BASELINE,
            Reason.NO_DATA,
            id="no answer",
        ),
    ],
)
def test_missing_evidence_is_unknown(window: list[Burst], baseline: Baseline | None, reason: Reason) -> None:
    """What cannot be compared is UNKNOWN with its reason, slow or not, and never blames anybody."""
    verdict = judge(window, baseline)
    assert (verdict.status, verdict.reason, verdict.level) == (Status.UNKNOWN, reason, Level.INFO)
    assert (verdict.since, verdict.strikes) == (None, 0)


def test_too_few_samples_says_how_many_are_needed() -> None:
    """Three bursts of ten are there, twenty samples are missing."""
    assert judge(bursts_at(1.0, 1.0, 1.0)).evidence["samples_needed"] == 20


def test_bursts_that_cannot_be_compared_break_no_run() -> None:
    """A tainted or failed burst in the middle of a slowdown says nothing, neither for nor against it."""
    slow = bursts_at(*[1.3] * 5)
    assert judge([*slow[:3], MOSTLY_TAINTED, FEW_JUDGED, *slow[3:]]).status is Status.WORSE


def test_tainted_samples_do_not_count() -> None:
    """Ten per cent of samples at a second, all tainted: nothing happened."""
    window = [make_burst([0.05] * 9 + [1.0], tainted=[False] * 9 + [True]) for _ in range(8)]
    assert judge(window).evidence["p95_s"] == 0.05


@pytest.mark.parametrize(("threshold", "status"), [(0.2, Status.WORSE), (0.5, Status.OK)])
def test_threshold_is_the_policys(threshold: float, status: Status) -> None:
    """+30 % is worse at a threshold of 20 % and within one of 50 %."""
    assert judge(bursts_at(*[1.3] * 10), policy=RegressionPolicy(threshold=threshold)).status is status


def test_bursts_of_one_request_are_enough() -> None:
    """A slow model gets one request a burst; the rule counts bursts."""
    baseline = make_baseline(steady(np.random.default_rng(3), 60, 1))
    assert judge(bursts_at(*[1.4] * 5, size=1), baseline).status is Status.WORSE
    assert judge(bursts_at(*[1.0] * 5, size=1), baseline).status is Status.OK


@settings(max_examples=40, deadline=None)
@given(st.floats(0.7, 2.0), st.floats(1e-3, 1e3), st.integers(5, 12))
def test_verdict_does_not_depend_on_the_unit(ratio: float, factor: float, count: int) -> None:
    """Scaling baseline and window by the same constant changes no word of the verdict."""
    rows = steady(np.random.default_rng(5), count) * ratio
    base = steady(np.random.default_rng(6), 30)
    plain = judge(make_bursts(rows), make_baseline(base))
    scaled = judge(make_bursts(rows * factor), make_baseline(base * factor))
    assert (scaled.status, scaled.cause, scaled.since) == (plain.status, plain.cause, plain.since)
    assert scaled.evidence["ratio"] == pytest.approx(plain.evidence["ratio"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.8, 1.6), min_size=5, max_size=12), st.floats(1.0, 3.0))
def test_slowing_everything_down_never_turns_worse_into_ok(ratios: list[float], slower: float) -> None:
    """A window that is WORSE stays WORSE when each latency in it is longer."""
    before = judge(bursts_at(*ratios))
    after = judge(bursts_at(*[r * slower for r in ratios]))
    assert not (before.status is Status.WORSE and after.status is Status.OK)


def statuses(latencies: np.ndarray, baseline: Baseline) -> list[Status]:
    """What a stream of bursts is judged, burst by burst, with the window that the rule asks for."""
    bursts = make_bursts(latencies)
    return [judge(bursts[max(0, i + 1 - POLICY.window) : i + 1], baseline).status for i in range(len(bursts))]


@pytest.mark.parametrize("name", NOISE)
def test_no_false_alarm_in_half_a_day_of_noise(name: str) -> None:
    """720 minutes of each kind of machine noise, its own baseline of 60 bursts: not one alarm."""
    stream = noise(name, np.random.default_rng([11, len(name)]), 780)
    assert Status.WORSE not in statuses(stream[60:], make_baseline(stream[:60]))


@pytest.mark.parametrize("name", NOISE)
def test_thirty_percent_is_found_in_every_noise(name: str) -> None:
    """A step of 30 % is found within 15 bursts whatever the noise, and in 5 where the noise is moderate."""
    stream = noise(name, np.random.default_rng([12, len(name)]), 140)
    judged = statuses(stream[60:] * np.where(np.arange(80) < 40, 1.0, 1.3)[:, None], make_baseline(stream[:60]))
    assert Status.WORSE not in judged[:40]
    delay = judged.index(Status.WORSE) - 39
    assert delay <= (15 if name in ("noisy", "bimodal", "ar1") else 6)


@pytest.mark.parametrize("field", [{"threshold": 0.0}, {"threshold": -1.0}, {"bursts": 0}])
def test_impossible_policies_are_refused(field: dict[str, float]) -> None:
    """A policy that could never or always fire does not exist."""
    with pytest.raises(ValueError, match=next(iter(field))):
        RegressionPolicy(**field)  # type: ignore[arg-type]


def test_at_is_now_and_life_is_the_runs() -> None:
    """A run that one worker answered names it; one that several answered names none."""
    window = bursts_at(*[1.3] * 5)
    assert judge_latency(window, BASELINE, POLICY, now=START + 999.0).at == START + 999.0
    assert judge(window).life == "7@1"
    assert judge([*bursts_at(1.3, life="8@1"), *window[1:]]).life is None
