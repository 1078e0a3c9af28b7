"""The latency rule: when it fires, when it must not, what it cannot tell, and what a verdict carries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from synthetic import IDENTITY, MINUTE, START, make_baseline, make_burst, make_bursts, steady
from watching import BASELINE, CONTROLLED, POLICY, bursts_at, controls_at, first_worse, follow, judge, letters

from baselines.baseline import Baseline
from baselines.regression import LatencyWatch, judge_latency
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Check, Level, Reason, Status
from probes.messages import Burst, Outcome


@pytest.mark.parametrize(
    ("ratios", "statuses"),
    [
        pytest.param([1.0] * 6, "UUOOOO", id="as ever"),
        pytest.param([0.5] * 6, "UUOOOO", id="faster"),
        pytest.param([1.1] * 60, "UU" + "O" * 58, id="10 % for an hour"),
        pytest.param([1.0] * 9 + [1.2] * 5, "UU" + "O" * 9 + "WWW", id="20 %"),
        pytest.param([1.0] * 9 + [1.3] * 4, "UU" + "O" * 9 + "WW", id="30 %"),
        pytest.param([1.3] * 4, "UUWW", id="from the start"),
        pytest.param(([1.0] * 20 + [1.3] * 2) * 3, "UU" + "O" * 64, id="two now and then"),
        pytest.param([1.0] * 3 + [1.3] * 8 + [1.0] * 6, "UUOOO" + "W" * 9 + "OOO", id="it ends"),
    ],
)
def test_statuses(ratios: list[float], statuses: str) -> None:
    """Burst by burst: unknown until three are there, worse at the third slow one, over when p95 is back."""
    said = letters(follow(bursts_at(*ratios)))
    assert said == statuses


@pytest.mark.parametrize("factor", [1.5, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("before", [2, 40])
def test_one_outlier_burst_or_two_never_alarm(factor: float, count: int, before: int) -> None:
    """However far out: neither at once nor later, in a baseline of many bursts or few."""
    ratios = [*[1.0] * before, *[factor] * count, *[1.0] * 60]
    for baseline in (BASELINE, make_baseline(steady(np.random.default_rng(4), 3))):
        assert "W" not in letters(follow(bursts_at(*ratios), baseline))


def test_a_slowdown_of_the_slowest_requests_is_found() -> None:
    """One request in eight takes 1.6 times as long: the p95 is up and half of all requests are as ever."""
    rng = np.random.default_rng(5)
    baseline, rows = make_baseline(steady(rng, 60)), steady(rng, 80)
    rows[20:] *= np.where(rng.random((60, 10)) < 0.125, 1.6, 1.0)
    verdicts = follow(make_bursts(rows), baseline)
    found = first_worse(verdicts)
    assert found is not None
    assert 20 < found < 40
    assert verdicts[found].evidence["found_by"] in ("tail", "shape")
    assert verdicts[-1].evidence["channel"] == "tail"
    assert verdicts[-1].evidence["floor_ratio"] == pytest.approx(1.0, abs=0.03)


def test_worse_says_since_when_how_much_and_on_what_evidence() -> None:
    """since is the first slow burst; the true ratio lies in the interval; counts are those of the run."""
    window = bursts_at(*[1.0] * 10, *[1.3] * 7)
    verdict = judge(window)
    assert (verdict.check, verdict.subject, verdict.reason) == (Check.LATENCY, "default", Reason.REGRESSED)
    assert (verdict.since, verdict.at, verdict.strikes) == (window[10].at, window[-1].at, 1)
    evidence = verdict.evidence
    assert evidence["ratio_low"] <= 1.3 <= evidence["ratio_high"]  # type: ignore[operator]
    assert evidence["ratio"] == pytest.approx(evidence["p95_s"] / evidence["baseline_p95_s"])  # type: ignore[operator]
    assert (evidence["samples"], evidence["bursts"], evidence["channel"]) == (70, 7, "whole")
    assert evidence["floor_ratio"] == pytest.approx(1.3, rel=0.05)
    assert evidence["found_by"] == "location"
    assert evidence["score"] >= POLICY.evidence  # type: ignore[operator]


def test_the_estimated_beginning_is_the_true_one_mostly() -> None:
    """Over many slowdowns of 20 to 50 % on quiet noise the median error is no burst at all."""
    errors = []
    for seed in range(15):
        window = bursts_at(*[1.0] * 30, *[1.2 + 0.02 * seed] * 10, seed=seed + 50)
        since = judge(window).since
        assert since is not None
        errors.append(abs(since - window[30].at) / MINUTE)
    assert np.median(errors) == 0
    assert max(errors) <= 3


def test_ok_reports_its_ratio_too() -> None:
    """The page can show 1.0 x with its interval while all is well."""
    evidence = judge(bursts_at(*[1.0] * 8)).evidence
    assert evidence["ratio_low"] < 1.0 < evidence["ratio_high"]  # type: ignore[operator]
    assert (evidence["bursts"], evidence["samples"]) == (5, 50)


@pytest.mark.parametrize(
    ("floor", "channel"), [(1.5, "whole"), (1.25, "mixed"), (1.0, "tail")], ids=["whole", "mixed", "tail"]
)
def test_channel(floor: float, channel: str) -> None:
    """Whether the fastest requests got slower as well tells a slow model from a slow path."""
    rows = np.full((5, 10), 0.05 * 1.5)
    rows[:, :2] = 0.05 * floor
    assert judge(make_bursts(rows), make_baseline(np.full((30, 10), 0.05))).evidence["channel"] == channel


def test_after_recovery_it_starts_anew() -> None:
    """What was slow before it came back is no evidence: two slow bursts more are two, and three are news."""
    ratios = [1.0] * 5 + [1.4] * 10 + [1.0] * 8  # the first four of which are still measured with slow ones
    assert letters(follow(bursts_at(*ratios, 1.4, 1.4)))[-6:] == "O" * 6
    verdicts = follow(bursts_at(*ratios, *[1.4] * 3))
    assert letters(verdicts)[-3:] == "OOW"
    assert verdicts[-1].since == START + MINUTE * len(ratios)


FEW_JUDGED = make_burst([0.05] * 10, outcomes=[Outcome.GOOD] * 4 + [Outcome.TIMEOUT] * 6)
MOSTLY_TAINTED = make_burst([0.05] * 10, tainted=[True] * 6 + [False] * 4)
NO_ANSWER = make_burst([0.05], outcomes=[Outcome.REFUSED])
OTHER_DEVICE = make_burst([0.05] * 10, identity=replace(IDENTITY, gpu_type="H200"))


@pytest.mark.parametrize(
    ("newest", "reason"),
    [
        pytest.param(OTHER_DEVICE, Reason.IDENTITY_CHANGED, id="another device"),
        pytest.param(MOSTLY_TAINTED, Reason.TAINTED, id="tainted"),
        pytest.param(FEW_JUDGED, Reason.TOO_FEW_SAMPLES, id="mostly failed"),
        pytest.param(NO_ANSWER, Reason.NO_DATA, id="no answer"),
    ],
)
@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_what_cannot_be_compared_is_unknown_and_breaks_nothing(newest: Burst, reason: Reason, ratio: float) -> None:
    """UNKNOWN with its reason, blaming nobody; what comes after it is judged as if it had never been."""
    window = bursts_at(1.0, 1.0, *[ratio] * 6)
    verdicts = follow([*window[:4], newest, *window[4:]])
    unknown = verdicts.pop(4)
    assert (unknown.status, unknown.reason, unknown.level) == (Status.UNKNOWN, reason, Level.INFO)
    assert (unknown.since, unknown.strikes) == (None, 0)
    assert verdicts == follow(window)


def test_too_few_bursts_say_how_many_samples_are_needed() -> None:
    """Two bursts of ten are there, ten samples are missing."""
    verdict = judge(bursts_at(1.0, 1.0))
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.TOO_FEW_SAMPLES)
    assert (verdict.evidence["samples_needed"], verdict.evidence["bursts"]) == (10, 2)


def test_without_a_baseline_nothing_can_be_told() -> None:
    """However long it goes on."""
    verdicts = follow(bursts_at(*[1.3] * 9), None)
    assert {(v.status, v.reason) for v in verdicts} == {(Status.UNKNOWN, Reason.NO_BASELINE)}


def test_a_baseline_too_noisy_says_how_many_more_bursts_it_needs() -> None:
    """Where no number of bursts would do it says none; a baseline of so many and as noisy is good enough."""
    rng = np.random.default_rng(6)
    wild = make_baseline(steady(rng, 30, sd=0.6) * np.exp(rng.normal(0, 0.8, (30, 1))))
    assert judge(bursts_at(*[1.0] * 6), wild).reason is Reason.BASELINE_TOO_NOISY
    assert "bursts_needed" not in judge(bursts_at(*[1.0] * 6), wild).evidence

    rows = steady(rng, 80, sd=0.3) * np.exp(rng.normal(0, 0.06, (80, 1)))
    few = judge(bursts_at(*[1.0] * 6), make_baseline(rows[:4]))
    assert (few.status, few.reason) == (Status.UNKNOWN, Reason.BASELINE_TOO_NOISY)
    needed = few.evidence["bursts_needed"]
    assert isinstance(needed, int)
    assert 1 <= needed <= 76
    assert judge(bursts_at(*[1.0] * 6), make_baseline(rows)).status is Status.OK


def test_on_a_noisy_baseline_a_slowdown_that_was_told_is_over_when_it_is() -> None:
    """What was seen to begin and to end is not called too noisy to tell: an incident could never close."""
    rng = np.random.default_rng(0)
    rows = steady(rng, 230, sd=0.1) * np.exp(rng.normal(0, 0.3, (230, 1)))
    rows[80:130] *= 2.5
    said = letters(follow(make_bursts(rows[30:]), make_baseline(rows[:30])))
    assert said[:40] == "U" * 40
    assert said[95:100] == "W" * 5
    assert said[-40:] == "O" * 40


def test_tainted_samples_do_not_count() -> None:
    """Ten per cent of samples at a second, all tainted: nothing happened."""
    window = [make_burst([0.05] * 9 + [1.0], tainted=[False] * 9 + [True]) for _ in range(8)]
    assert judge(window).evidence["p95_s"] == 0.05


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (RegressionPolicy(), Status.WORSE),
        (RegressionPolicy(threshold=0.5), Status.OK),
        (RegressionPolicy(evidence=20.0), Status.UNKNOWN),
    ],
)
def test_the_policy_decides(policy: RegressionPolicy, status: Status) -> None:
    """+30 % is worse at a threshold of 20 %, within one of 50 %; no quiet is enough for 20 deviations."""
    assert judge(bursts_at(*[1.3] * 10), policy=policy).status is status


def test_the_verdict_flips_on_one_number() -> None:
    """The same bursts, one latency as ever instead of slow: the third burst does not agree, and nothing is told."""
    rows = np.full((8, 3), 0.05)
    rows[5:] = 0.065
    baseline = make_baseline(np.full((30, 3), 0.05))
    assert judge(make_bursts(rows), baseline).status is Status.WORSE
    rows[7, 1] = 0.05
    assert judge(make_bursts(rows), baseline).status is Status.OK


@pytest.mark.parametrize("field", [{"threshold": 0.0}, {"threshold": 11.0}, {"evidence": 2.9}, {"evidence": 21.0}])
@pytest.mark.parametrize("sign", [1, -1])
def test_impossible_policies_are_refused(field: dict[str, float], sign: int) -> None:
    """A policy that could never or always fire does not exist."""
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=name):
        RegressionPolicy(**{name: sign * value})
    with pytest.raises(ValueError, match=name):
        RegressionPolicy(**{name: float("nan")})


def test_at_is_now_and_life_is_the_runs() -> None:
    """A run that one worker answered names it; one that several answered names none."""
    window = bursts_at(*[1.3] * 5)
    assert judge_latency(window, BASELINE, POLICY, now=START + 999.0).at == START + 999.0
    assert judge(window).life == "7@1"
    assert judge([*bursts_at(1.3, life="8@1"), *window[1:]]).life is None


def test_more_is_asked_for_when_something_may_have_changed() -> None:
    """Larger bursts while it cannot be told, and no more some bursts after it is, or all is well."""
    watch, times = LatencyWatch(BASELINE, POLICY), []
    for burst in bursts_at(*[1.0] * 30, *[1.2] * 12):
        watch.take(burst)
        times.append(watch.times)
    assert times[:30] == [1] * 30
    assert times[31] == 3
    assert times[-1] == 1
    assert LatencyWatch(None, POLICY).times == 1


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("bursts", [1, 2, 3, 60])
@pytest.mark.parametrize("sd", [0.0, 0.03])
def test_baselines_and_bursts_of_any_size_can_be_judged(size: int, bursts: int, sd: float) -> None:
    """One burst of one request, or equal latencies, is little to go by: no false alarm, and no blindness."""
    baseline = make_baseline(steady(np.random.default_rng(3), bursts, size, sd=sd))
    said = {ratio: letters(follow(bursts_at(*[ratio] * 40, size=size), baseline)) for ratio in (1.0, 2.0)}
    assert "W" not in said[1.0]
    assert said[2.0].endswith("WWW")


@pytest.mark.parametrize("known", [0, 1, 15])
def test_controls_may_be_missing_on_either_side(known: int) -> None:
    """In some bursts of the baseline or in some or all that are judged: a slowdown is found all the same."""
    partly: Baseline = replace(CONTROLLED, controls=CONTROLLED.controls[: max(known, 1)])
    window = bursts_at(*[1.0] * 10, *[1.3] * 10, controls=controls_at(*[1.0] * 20))
    without = bursts_at(*[1.0] * 10, *[1.3] * 10)
    mixed = [*without[: 20 - known], *window[20 - known :]]
    for baseline in (CONTROLLED, partly):
        assert letters(follow(mixed, baseline))[-4:] == "WWWW"


@settings(max_examples=25)
@given(st.floats(0.7, 2.0), st.floats(1e-3, 1e3), st.integers(3, 12))
@example(1.3, 1000.0, 6)
def test_verdict_does_not_depend_on_the_unit(ratio: float, factor: float, count: int) -> None:
    """Scaling baseline and bursts, controls too, by the same constant changes no word of any verdict."""
    rows = steady(np.random.default_rng(5), count) * ratio
    base, controls = steady(np.random.default_rng(6), 30), controls_at(*[1.0] * count)
    usual = controls_at(*[1.0] * 30, seed=8)
    plain = follow(make_bursts(rows, controls=controls), make_baseline(base, controls=usual))
    scaled = follow(
        make_bursts(rows * factor, controls=controls * factor), make_baseline(base * factor, controls=usual * factor)
    )
    assert [(v.status, v.cause, v.since) for v in scaled] == [(v.status, v.cause, v.since) for v in plain]
    assert scaled[-1].evidence["ratio"] == pytest.approx(plain[-1].evidence["ratio"])


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(1.0, 1.6), st.floats(1.0, 2.0), st.sampled_from([0.03, 0.1]))
def test_a_larger_step_is_never_found_later(seed: int, ratio: float, more: float, sd: float) -> None:
    """On the same noise."""
    rng = np.random.default_rng(seed)
    baseline, rows = make_baseline(steady(rng, 30, sd=sd)), steady(rng, 50, sd=sd)
    step = np.arange(50)[:, None] >= 15
    smaller = first_worse(follow(make_bursts(rows * np.where(step, ratio, 1.0)), baseline))
    larger = first_worse(follow(make_bursts(rows * np.where(step, ratio * more, 1.0)), baseline))
    assert smaller is None or (larger is not None and larger <= smaller)


def test_another_worker_in_the_place_of_the_only_one_begins_anew() -> None:
    """What the former did is no evidence of it; one of several that answers now and then ends nothing."""
    slow, after = bursts_at(*[1.0] * 10, *[1.3] * 20), bursts_at(*[1.3] * 3)
    for alive, statuses in ((1, "OOW"), (2, "WWW")):
        watch = LatencyWatch(BASELINE, POLICY)
        for burst in slow:
            watch.take(replace(burst, workers_alive=alive))
        said = []
        for number, burst in enumerate(after, start=len(slow)):
            samples = tuple(replace(sample, life="8@2") for sample in burst.samples)
            watch.take(replace(burst, at=START + 60.0 * number, samples=samples, workers_alive=alive))
            said.append(watch.judge(now=0.0).status.value[0])
        assert "".join(said) == statuses
