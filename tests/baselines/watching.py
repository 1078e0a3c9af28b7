"""A canary that is followed burst by burst, for the tests of the latency rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from synthetic import make_baseline, make_bursts, steady

from baselines.baseline import Baseline
from baselines.regression import LatencyWatch
from baselines.scan import KEPT, LEVEL_SPAN
from baselines.slowdown import RegressionPolicy, alarm_of
from baselines.verdict import Status, Verdict
from probes.messages import Burst

POLICY = RegressionPolicy()
BASELINE = make_baseline(steady(np.random.default_rng(0), 30))
CONTROLS = steady(np.random.default_rng(2), 30, typical=0.002)
CONTROLLED = make_baseline(steady(np.random.default_rng(0), 30), controls=CONTROLS)


def bursts_at(*ratios: float, size: int = 10, seed: int = 1, **about: object) -> list[Burst]:
    """A burst a minute at each ratio of the baseline's latency, with the baseline's kind of spread."""
    rows = steady(np.random.default_rng(seed), len(ratios), size) * np.array(ratios)[:, None]
    return make_bursts(rows, **about)


def controls_at(*ratios: float, seed: int = 3, size: int = 10) -> np.ndarray:
    """The control's latencies, likewise."""
    return steady(np.random.default_rng(seed), len(ratios), size, typical=0.002) * np.array(ratios)[:, None]


def follow(
    bursts: Iterable[Burst],
    baseline: Baseline | None = BASELINE,
    policy: RegressionPolicy = POLICY,
    *,
    watch: LatencyWatch | None = None,
) -> list[Verdict]:
    """The verdict after each burst."""
    watch = watch or LatencyWatch(baseline, policy)
    verdicts = []
    for burst in bursts:
        watch.take(burst)
        verdicts.append(watch.judge(now=burst.at))
    return verdicts


def judge(bursts: Sequence[Burst], baseline: Baseline | None = BASELINE, policy: RegressionPolicy = POLICY) -> Verdict:
    """The verdict after the last of them."""
    return follow(bursts, baseline, policy)[-1]


def letters(verdicts: Iterable[Verdict]) -> str:
    """Their statuses: U, O or W each."""
    return "".join(verdict.status.value[0] for verdict in verdicts)


def first_worse(verdicts: Sequence[Verdict]) -> int | None:
    """The index of the first that is WORSE; None without one."""
    return next((i for i, verdict in enumerate(verdicts) if verdict.status is Status.WORSE), None)


def restarted(bursts: Sequence[Burst], at: int, said: Verdict, baseline: Baseline) -> LatencyWatch:
    """A watch that knows the bursts before the index `at` that are kept, and the slowdown that `said` tells of."""
    watch = LatencyWatch(baseline, POLICY)
    for burst in bursts[max(0, at - KEPT - LEVEL_SPAN) : at]:
        watch.take(burst)
    if said.status is Status.WORSE and (alarm := alarm_of(said)) is not None:
        watch.stand(alarm, said.cause)
    return watch


def words(verdicts: Sequence[Verdict]) -> list[tuple[object, ...]]:
    """What of them counts, to compare."""
    return [(v.status, v.reason, v.cause, v.level, v.since, v.evidence.get("found_by")) for v in verdicts]
