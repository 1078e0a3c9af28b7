"""Absolute limits: exactly where they flip, and what they do without evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import START, make_burst, make_bursts, make_memory

from baselines.limits import LimitsPolicy, join, judge_memory_limit, judge_p95_limit
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Burst, Outcome


def window(*slow: int) -> list[Burst]:
    """Five bursts of ten at 50 ms; so many samples of each at 500 ms."""
    rows = np.array([[0.5] * count + [0.05] * (10 - count) for count in slow])
    return make_bursts(rows)


@pytest.mark.parametrize(
    ("bursts", "status"),
    [
        pytest.param(window(0, 0, 0, 0, 0), Status.OK, id="fast"),
        pytest.param(window(1, 1, 0, 0, 0), Status.OK, id="4 % above"),
        pytest.param(window(1, 1, 1, 0, 0), Status.WORSE, id="6 % above, in three bursts"),
        pytest.param(window(0, 0, 0, 0, 10), Status.OK, id="one bad burst"),
        pytest.param(window(0, 0, 0, 10, 10), Status.OK, id="two bad bursts"),
        pytest.param(window(10, 10, 10, 10, 10), Status.WORSE, id="slow"),
        pytest.param(window(10, 10, 10, 10, 10, 0, 0, 0, 0, 0), Status.OK, id="five good ones since"),
        pytest.param(window(10, 10, 10, 10), Status.UNKNOWN, id="too few bursts"),
        pytest.param(
            [*window(10, 10, 10, 10, 10), make_burst([0.5], outcomes=[Outcome.TIMEOUT])], Status.UNKNOWN, id="no answer"
        ),
    ],
)
def test_p95_limit(bursts: list[Burst], status: Status) -> None:
    """WORSE when the pooled p95 of five bursts is above 0.2 s and most of them took part in it."""
    verdict = judge_p95_limit(bursts, LimitsPolicy(p95_s=0.2), now=START)
    assert verdict is not None
    assert (verdict.check, verdict.status) == (Check.LATENCY, status)
    if status is Status.WORSE:
        assert (verdict.reason, verdict.cause, verdict.level) == (Reason.LIMIT_EXCEEDED, Cause.UNKNOWN, Level.PAGE)
        assert (verdict.since, verdict.strikes) == (START, 1)


@pytest.mark.parametrize(("limit_s", "status"), [(0.4999, Status.WORSE), (0.5, Status.OK)])
def test_p95_limit_itself_is_allowed(limit_s: float, status: Status) -> None:
    """At the limit is within it."""
    verdict = judge_p95_limit(window(10, 10, 10, 10, 10), LimitsPolicy(p95_s=limit_s), now=START)
    assert verdict is not None
    assert verdict.status is status


@pytest.mark.parametrize(
    ("used", "gpu", "status", "channel"),
    [
        pytest.param(7_200, None, Status.OK, "host_anon_bytes", id="at the limit"),
        pytest.param(7_201, None, Status.WORSE, "host_anon_bytes", id="above it"),
        pytest.param(1_000, 950, Status.WORSE, "gpu_used_bytes", id="the device"),
        pytest.param(7_300, 950, Status.WORSE, "gpu_used_bytes", id="the fuller of both is named"),
    ],
)
def test_memory_limit(used: int, gpu: int | None, status: Status, channel: str) -> None:
    """WORSE above 90 % of the host's 8000 or the device's 1000 bytes."""
    about = {} if gpu is None else {"gpu_used_bytes": gpu, "gpu_capacity_bytes": 1_000}
    point = make_memory(np.array([used]), capacity=8_000, **about)[0]
    verdict = judge_memory_limit(point, LimitsPolicy(memory_ratio=0.9), now=START)
    assert verdict is not None
    assert (verdict.status, verdict.subject, verdict.evidence["channel"]) == (status, "slot 0", channel)
    if status is Status.WORSE:
        assert (verdict.reason, verdict.cause, verdict.life) == (Reason.LIMIT_EXCEEDED, Cause.MODEL, "7@1")


def test_of_several_devices_the_fullest_counts() -> None:
    """78 of 80 GB on one and 2 on the other: not half of what it can have."""
    point = make_memory(np.array([1_000]), gpu_used_bytes=80, gpu_capacity_bytes=160, gpu_ratio=78 / 80)[0]
    verdict = judge_memory_limit(point, LimitsPolicy(memory_ratio=0.9), now=START)
    assert verdict is not None
    assert (verdict.status, verdict.evidence["memory_ratio"]) == (Status.WORSE, 78 / 80)


@pytest.mark.parametrize(("cgroup", "ratio"), [(None, 1.5), (5_000, 0.625), (13_000, 1.5)])
def test_what_processes_share_since_a_fork_counts_once(cgroup: int | None, ratio: float) -> None:
    """A model that each of many children still shares is no more than what the cgroup holds."""
    point = make_memory(np.array([12_000]), capacity=8_000, cgroup_bytes=cgroup)[0]
    verdict = judge_memory_limit(point, LimitsPolicy(memory_ratio=0.9), now=START)
    assert verdict is not None
    assert verdict.evidence["memory_ratio"] == ratio


@pytest.mark.parametrize(
    ("detector", "limit", "status", "refutes"),
    [
        pytest.param(Status.OK, Status.OK, Status.OK, None, id="both good"),
        pytest.param(Status.UNKNOWN, Status.OK, Status.UNKNOWN, Reason.LIMIT_EXCEEDED, id="no baseline, limit kept"),
        pytest.param(Status.UNKNOWN, Status.UNKNOWN, Status.UNKNOWN, None, id="neither can tell"),
        pytest.param(Status.OK, Status.UNKNOWN, Status.UNKNOWN, None, id="the limit cannot"),
        pytest.param(Status.UNKNOWN, Status.WORSE, Status.WORSE, None, id="limit exceeded"),
        pytest.param(Status.WORSE, Status.OK, Status.WORSE, None, id="slower within the limit"),
        pytest.param(Status.UNKNOWN, None, Status.UNKNOWN, None, id="no limit"),
    ],
)
def test_detector_and_limit_are_one_verdict(
    detector: Status, limit: Status | None, status: Status, refutes: Reason | None
) -> None:
    """Missing evidence is never OK; but a limit that is kept ends an incident about the limit."""
    about = Verdict(
        target="chat",
        check=Check.LATENCY,
        subject="default",
        at=START,
        status=detector,
        reason=Reason.NO_BASELINE,
    )
    joined = join(about, None if limit is None else replace(about, status=limit, reason=Reason.WITHIN_BASELINE))
    assert (joined.status, joined.refutes) == (status, refutes)


def test_no_limit_no_verdict() -> None:
    """None, not OK: nothing was asked."""
    assert judge_p95_limit(window(10), LimitsPolicy(), now=START) is None
    assert judge_memory_limit(make_memory(np.array([1]))[0], LimitsPolicy(), now=START) is None


def test_memory_without_capacity_is_unknown() -> None:
    """A share of an unknown whole is not known."""
    point = make_memory(np.array([1]), capacity=None)[0]
    verdict = judge_memory_limit(point, LimitsPolicy(memory_ratio=0.9), now=START)
    assert verdict is not None
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.NO_DATA)
