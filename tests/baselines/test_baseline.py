"""Taking a baseline: what is refused, what is kept, and how sure it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import IDENTITY, START, make_baseline, make_burst, make_bursts, steady

from baselines.baseline import Baseline, NotReady, changes, describe_changes, gather, quality
from probes.messages import Burst, Outcome, Output


def healthy(count: int = 10, size: int = 10) -> list[Burst]:
    rng = np.random.default_rng(1)
    return make_bursts(steady(rng, count, size), provenance={"torch": "2.13"}, controls=steady(rng, count, size))


def take(bursts: list[Burst]) -> Baseline:
    return gather(bursts, label="v1", provisional=False, taken_at=START)


def test_baseline_keeps_latencies_controls_and_provenance() -> None:
    """Every judged latency of every burst is kept, in order, with its control."""
    bursts = healthy()
    baseline = take(bursts)
    assert baseline.bursts == tuple(tuple(s.latency_s for s in b.samples) for b in bursts)
    assert baseline.controls == tuple(tuple(s.control_s for s in b.samples) for b in bursts)
    assert (baseline.identity, baseline.provenance, baseline.label) == (IDENTITY, {"torch": "2.13"}, "v1")
    assert baseline.samples == 100


def test_derived_figures_are_numpys() -> None:
    """Nearest-rank p50 and p95 of the pool, floor of the bursts' minima; the median of burst medians."""
    rows = steady(np.random.default_rng(2), 30, 9, sd=0.3)
    baseline = make_baseline(rows, controls=rows * 2)
    assert baseline.p95_s == np.quantile(rows, 0.95, method="inverted_cdf")
    assert baseline.p50_s == np.quantile(rows, 0.50, method="inverted_cdf")
    assert baseline.floor_s == np.quantile(rows.min(axis=1), 0.20, method="inverted_cdf")
    assert baseline.median_s == np.median(np.median(rows, axis=1))
    assert baseline.control_median_s == 2 * baseline.p50_s
    assert baseline.control_floor_s == 2 * baseline.floor_s


def test_a_baseline_without_control_has_no_control_median() -> None:
    """No control is None, not zero."""
    assert make_baseline(np.full((3, 10), 0.1)).control_median_s is None


def test_tainted_samples_are_left_out() -> None:
    """The watchdog's own delay never becomes somebody's baseline."""
    bursts = [make_burst([0.05] * 9 + [9.0], tainted=[False] * 9 + [True]) for _ in range(5)]
    baseline = take(bursts)
    assert baseline.samples == 45
    assert baseline.p95_s == 0.05


def test_golden_is_the_last_answer_with_its_values() -> None:
    """The newest readable answer becomes golden; a burst without one does not erase it."""
    bursts = healthy()
    golden = Output(content_hash="new", shape=(2,), values=(1.0, 2.0))
    bursts[3] = replace(bursts[3], output=Output(content_hash="old", shape=(2,)))
    bursts[8] = replace(bursts[8], output=golden)
    assert take(bursts).golden == golden


def failing() -> list[Burst]:
    return [*healthy(), make_burst([0.05] * 3, outcomes=[Outcome.GOOD, Outcome.TIMEOUT, Outcome.GOOD])]


def shapes(*outputs: tuple[int, ...] | None) -> list[Burst]:
    return [replace(b, output=Output(content_hash="x", shape=o)) for b, o in zip(healthy(), outputs, strict=False)]


@pytest.mark.parametrize(
    ("bursts", "reason", "words"),
    [
        pytest.param(failing(), "failed", "timeout", id="a request failed"),
        pytest.param(healthy(2), "too_few_samples", "20 good samples in 2 bursts", id="too few bursts"),
        pytest.param(healthy(3, 5), "too_few_samples", "15 good samples", id="too few samples"),
        pytest.param([], "too_few_samples", "0 good samples", id="nothing"),
        pytest.param(
            [*healthy(), make_burst([0.05], identity=replace(IDENTITY, gpu_type="H200"))],
            "mixed_identity",
            "device changed",
            id="another device",
        ),
        pytest.param(
            [*healthy(), make_burst([0.05], provenance={"torch": "2.14"})],
            "mixed_provenance",
            "torch changed from 2.13 to 2.14",
            id="a deploy on the way",
        ),
        pytest.param(shapes((1, 10), (1, 10), (1, 12)), "mixed_shape", "(1, 12)", id="the answer's shape changed"),
    ],
)
def test_not_ready(bursts: list[Burst], reason: str, words: str) -> None:
    """Bursts that cannot say what normal is are refused with a reason and words for a person."""
    with pytest.raises(NotReady) as refused:
        take(bursts)
    assert refused.value.reason == reason
    assert words in str(refused.value)


def test_provenance_that_becomes_known_is_no_change() -> None:
    """A field seen from the second burst on is kept, not refused."""
    bursts = [make_burst([0.05] * 10), *healthy()]
    assert take(bursts).provenance == {"torch": "2.13"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"torch": "2.12"}, {"torch": "2.12"}, {}),
        ({"torch": "2.12"}, {"torch": "2.13"}, {"torch": ("2.12", "2.13")}),
        ({}, {"torch": "2.13"}, {"torch": (None, "2.13")}),
        ({"torch": "2.12"}, {}, {"torch": ("2.12", None)}),
        ({}, {}, {}),
    ],
    ids=["same", "changed", "became known", "became unknown", "both unknown"],
)
def test_changes(old: dict[str, str], new: dict[str, str], expected: dict[str, tuple[str | None, str | None]]) -> None:
    """An unknown field equals only an unknown one."""
    assert changes(old, new) == expected


def test_changes_read_as_one_line() -> None:
    """Old and new are named, and so is what is not known."""
    text = describe_changes(changes({"torch": "2.12"}, {"torch": "2.13", "server": "uvicorn"}))
    assert text == "server unknown -> uvicorn, torch 2.12 -> 2.13"


def test_quality_says_how_wide_p95_is() -> None:
    """More bursts make p95 surer; the spread between bursts is told apart from that within."""
    rng = np.random.default_rng(5)
    small, large = (quality(make_baseline(steady(rng, count, sd=0.12))) for count in (6, 60))
    assert small.width is not None
    assert large.width is not None
    assert large.width < small.width
    assert (small.samples, small.bursts) == (60, 6)
    wander = make_baseline(steady(rng, 60, sd=0.12) * np.exp(rng.normal(0, 0.2, (60, 1))))
    assert quality(wander).between_burst_sd > 2 * large.between_burst_sd  # type: ignore[operator]


def test_quality_of_few_samples_has_no_upper_bound() -> None:
    """Below 59 samples nothing bounds p95 from above, and no width is made up."""
    of_58 = quality(make_baseline(steady(np.random.default_rng(6), 2, 29)))
    assert of_58.p95_low_s is not None
    assert (of_58.p95_high_s, of_58.width) == (None, None)
