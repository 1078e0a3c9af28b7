"""Which kind of leak it is: told from the figures that grow together, from trims, and from new shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from baselines.leak import LeakPolicy, LeakWatch
from baselines.leak_kind import LeakKind, follows_shapes, kind_of
from baselines.verdict import Level, Reason, Status, Verdict
from probes.messages import MemorySample

MB, GB = 10**6, 10**9
STEP_S, HOURS = 30.0, 5
TIMES = np.arange(0.0, HOURS * 3600, STEP_S)
POLICY = LeakPolicy()
HEALTHY = MemorySample(
    target="chat",
    slot=0,
    life="7@1",
    at=0.0,
    host_anon_bytes=2 * GB,
    capacity_bytes=64 * GB,
    gpu_used_bytes=12 * GB,
    gpu_capacity_bytes=80 * GB,
    device_used_bytes=20 * GB,
    allocated_bytes=8 * GB,
    reserved_bytes=10 * GB,
    fds=40,
    fd_limit=1024,
    threads=30,
)


def follow(**grown: np.ndarray) -> Verdict:
    """The verdict after five hours; grown: what is added to a field of the healthy worker at each moment."""
    watch = LeakWatch(POLICY)
    noise = np.random.default_rng(5).normal(0, MB, len(TIMES))
    for i, at in enumerate(TIMES):
        sample = replace(HEALTHY, at=float(at), host_anon_bytes=2 * GB + int(noise[i]))
        more = {name: int((getattr(sample, name) or 0) + series[i]) for name, series in grown.items()}
        watch.take([replace(sample, **more)])
    return watch.judge(now=float(TIMES[-1]))


LEAK = 2 * MB * TIMES / 60  # 2 MB a minute
SEGMENTS = np.floor(LEAK / (20 * MB)) * 20 * MB  # as an allocator takes them


def test_a_worker_whose_figures_stand_still_is_steady() -> None:
    verdict = follow()
    assert (verdict.status, verdict.reason) == (Status.OK, Reason.STEADY)


@pytest.mark.parametrize(
    ("grown", "channel", "kind"),
    [
        pytest.param(
            {
                "allocated_bytes": LEAK,
                "reserved_bytes": SEGMENTS,
                "gpu_used_bytes": SEGMENTS,
                "device_used_bytes": SEGMENTS,
            },
            "allocated_bytes",
            LeakKind.TENSORS,
            id="tensors that are kept",
        ),
        pytest.param(
            {"reserved_bytes": LEAK, "gpu_used_bytes": LEAK, "inactive_split_bytes": LEAK},
            "reserved_bytes",
            LeakKind.FRAGMENTATION,
            id="fragmentation",
        ),
        pytest.param({"gpu_used_bytes": LEAK}, "outside_torch_bytes", LeakKind.OUTSIDE_TORCH, id="outside torch"),
        pytest.param({"host_anon_bytes": LEAK}, "host_anon_bytes", LeakKind.HOST, id="host"),
        pytest.param({"fds": TIMES / 120}, "fds", LeakKind.DESCRIPTORS, id="descriptors"),
        pytest.param({"threads": TIMES / 120}, "threads", LeakKind.THREADS, id="threads"),
    ],
)
def test_the_figures_that_grow_name_the_kind(grown: dict[str, np.ndarray], channel: str, kind: LeakKind) -> None:
    verdict = follow(**grown)
    assert (verdict.status, verdict.reason) == (Status.WORSE, Reason.LEAKING)
    assert (verdict.evidence["channel"], verdict.evidence["kind"]) == (channel, kind)


def test_without_the_allocators_word_it_is_memory_of_the_device() -> None:
    watch = LeakWatch(POLICY)
    for at, more in zip(TIMES, LEAK, strict=True):
        bare = replace(HEALTHY, at=float(at), allocated_bytes=None, reserved_bytes=None)
        watch.take([replace(bare, gpu_used_bytes=12 * GB + int(more))])
    assert watch.judge(now=float(TIMES[-1])).evidence["kind"] == LeakKind.DEVICE


def test_descriptors_have_a_limit_and_a_date() -> None:
    """Half a descriptor a minute of 1,024: page, and the figures are counts, not bytes."""
    verdict = follow(fds=TIMES / 120)
    assert verdict.level is Level.PAGE
    assert verdict.evidence["slope_per_hour"] == pytest.approx(30, rel=0.05)
    assert verdict.evidence["capacity"] == 1024
    assert "slope_bytes_per_hour" not in verdict.evidence


@pytest.mark.parametrize(("share", "kind"), [(0.8, LeakKind.RETENTION), (0.1, LeakKind.HOST)])
def test_what_a_trim_gives_back_was_kept_by_the_c_library(share: float, kind: LeakKind) -> None:
    """The trim is told with the newest sample, before the floors can show it."""
    watch = LeakWatch(POLICY)
    for at, more in zip(TIMES, LEAK, strict=True):
        watch.take([replace(HEALTHY, at=float(at), host_anon_bytes=2 * GB + int(more))])
    grown = watch.judge(now=float(TIMES[-1])).evidence["gain_bytes"]
    assert isinstance(grown, float)
    after = float(TIMES[-1]) + STEP_S
    kept = 2 * GB + int((1 - share) * grown)
    watch.take([replace(HEALTHY, at=after, host_anon_bytes=kept, trimmed_bytes=int(share * grown))])
    assert watch.judge(now=after).evidence["kind"] == kind
    for at in TIMES[1:]:  # and for as long as it is told, when the floors show it
        watch.take([replace(HEALTHY, at=after + float(at), host_anon_bytes=kept)])
        if (verdict := watch.judge(now=after + float(at))).status is not Status.WORSE:
            break
        assert verdict.evidence["kind"] == kind
    else:
        pytest.fail("it has stopped, and is still told")


def test_memory_of_others_in_the_cgroup_shortens_the_time_that_is_left() -> None:
    alone = follow(host_anon_bytes=LEAK)
    crowded = follow(host_anon_bytes=LEAK, cgroup_bytes=np.full(len(TIMES), 30 * GB))
    left_alone, left = (v.evidence["seconds_to_capacity"] for v in (alone, crowded))
    assert isinstance(left, float)
    assert isinstance(left_alone, float)
    assert left < 0.6 * left_alone


def test_a_machine_that_others_fill_has_no_more_to_give() -> None:
    """No limit but the machine's 64 GB, of which 12 are left: the same as a cgroup of 14 GB, and nearer with less."""
    left = [
        follow(host_anon_bytes=LEAK, available_bytes=np.full(len(TIMES), gb * GB)).evidence["seconds_to_capacity"]
        for gb in (500, 12, 6)
    ]
    alone = follow(host_anon_bytes=LEAK).evidence["seconds_to_capacity"]
    assert left[0] == alone
    assert isinstance(left[1], float)
    assert isinstance(left[2], float)
    assert left[2] == pytest.approx(left[1] / 2, rel=0.01)


def test_live_tensors_may_take_what_is_cached_and_not_what_others_have() -> None:
    """80 GB, less 8 GB of other processes and 2 GB outside torch: 70 GB are torch's, of which 8 GB are live now."""
    verdict = follow(allocated_bytes=LEAK)
    used, slope = verdict.evidence["used_bytes"], verdict.evidence["slope_bytes_per_hour"]
    assert isinstance(used, float)
    assert isinstance(slope, float)
    assert verdict.evidence["others_bytes"] == 10 * GB
    assert verdict.evidence["seconds_to_capacity"] == pytest.approx((70 * GB - used) / slope * 3600)


def test_what_processes_share_since_a_fork_takes_no_room() -> None:
    """100 GB counted, of which the cgroup's 40 are there: 24 GB of 64 are left, and not less than nothing."""
    verdict = follow(
        host_anon_bytes=LEAK + 98 * GB,
        cgroup_bytes=LEAK + 40 * GB,
        available_bytes=np.full(len(TIMES), 400 * GB),
    )
    left, slope = verdict.evidence["seconds_to_capacity"], verdict.evidence["slope_bytes_per_hour"]
    assert isinstance(left, float)
    assert isinstance(slope, float)
    assert left == pytest.approx((24 * GB - LEAK[-1]) / slope * 3600, rel=0.01)


def test_on_several_devices_the_first_that_is_full_sets_the_date() -> None:
    """70 of 80 GB on the one that grows and 20 on the other: 10 GB are left, not 70."""
    verdict = follow(
        gpu_used_bytes=LEAK + 78 * GB,  # and the 12 of the healthy one
        device_used_bytes=LEAK + 70 * GB,
        gpu_capacity_bytes=np.full(len(TIMES), 80 * GB),
        gpu_room_bytes=10 * GB - LEAK,
        allocated_bytes=np.full(len(TIMES), 40 * GB),
        reserved_bytes=np.full(len(TIMES), 40 * GB),
    )
    left, slope = verdict.evidence["seconds_to_capacity"], verdict.evidence["slope_bytes_per_hour"]
    assert isinstance(slope, float)
    assert left == pytest.approx((10 * GB - LEAK[-1]) / slope * 3600, rel=0.01)
    assert verdict.evidence["capacity_bytes"] == pytest.approx(100 * GB), "what it can reach until then"


def test_tensors_on_several_devices_have_no_use_for_what_others_of_them_cache() -> None:
    """2 GB are cached, nobody says where: 10 GB are left on the first that is full, and not 12."""
    verdict = follow(
        allocated_bytes=LEAK,
        gpu_capacity_bytes=np.full(len(TIMES), 80 * GB),
        gpu_room_bytes=np.full(len(TIMES), 10 * GB),
    )
    left, slope = verdict.evidence["seconds_to_capacity"], verdict.evidence["slope_bytes_per_hour"]
    assert isinstance(slope, float)
    assert left == pytest.approx(10 * GB / slope * 3600, rel=0.01)


def test_with_ranks_nobody_knows_what_is_outside_torch() -> None:
    """The agent speaks for one process, the driver's figure for all: what only ranks keep is the device's."""
    verdict = follow(gpu_used_bytes=LEAK, device_used_bytes=LEAK, gpu_ranks=np.ones(len(TIMES)))
    assert (verdict.evidence["channel"], verdict.evidence["kind"]) == ("gpu_used_bytes", LeakKind.DEVICE)


def test_ranks_that_come_later_leave_no_figure_missing() -> None:
    """The first sample may be of the worker alone: nothing that was known then has stopped coming."""
    verdict = follow(gpu_ranks=(TIMES > 600).astype(float))
    assert (verdict.status, verdict.reason) == (Status.OK, Reason.STEADY)


def test_growth_with_new_shapes_and_not_with_time() -> None:
    rng = np.random.default_rng(1)
    new = rng.poisson(4, 24)
    shapes = np.cumsum(new).astype(float)
    by_shape = 5.0 * shapes + rng.normal(0, 2, 24)
    by_time = 20.0 * np.arange(24) + rng.normal(0, 2, 24)
    assert follows_shapes(by_shape, shapes)
    assert not follows_shapes(by_time, shapes)
    assert not follows_shapes(by_shape, np.arange(24.0) * 4)  # an even pace cannot be told from time
    assert not follows_shapes(by_shape, np.zeros(24))


def test_a_leak_that_follows_shapes_is_told_so() -> None:
    rng = np.random.default_rng(2)
    shapes = np.cumsum(rng.poisson(0.6 * (1 + (TIMES // 600) % 3), len(TIMES))).astype(float)
    verdict = follow(host_anon_bytes=MB * shapes, shapes=shapes)
    assert verdict.evidence["kind"] == LeakKind.NEW_SHAPES


@pytest.mark.parametrize(
    ("others", "kind"),
    [
        pytest.param({}, LeakKind.DEVICE, id="no agent"),
        pytest.param({"reserved_bytes": 95.0, "allocated_bytes": 1.0}, LeakKind.FRAGMENTATION, id="reserved"),
        pytest.param({"reserved_bytes": 95.0, "allocated_bytes": 90.0}, LeakKind.TENSORS, id="live tensors"),
        pytest.param({"reserved_bytes": 5.0, "outside_torch_bytes": 95.0}, LeakKind.OUTSIDE_TORCH, id="outside torch"),
        pytest.param({"reserved_bytes": 0.0, "outside_torch_bytes": 0.0}, LeakKind.DEVICE, id="an agent that is gone"),
    ],
)
def test_a_device_that_fills_is_told_by_the_part_of_it_that_grows(others: dict[str, float], kind: LeakKind) -> None:
    """The driver's figure may be the first that a leak is seen in; the agent's say already whose it is."""
    slopes = {"gpu_used_bytes": 100.0, **others}
    assert kind_of("gpu_used_bytes", slopes, trimmed=0.0, by_shapes=False) is kind
