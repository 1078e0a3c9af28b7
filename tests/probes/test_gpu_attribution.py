"""Whose memory is it? The lists of processes, and the three ways in which containers spoil them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_stage import Driver, build_stub

from probes.gpu.attribution import Attribution, PidView, Share, attribute
from probes.gpu.nvml import GpuFault
from probes.gpu.reader import GpuReader
from probes.gpu.reading import DeviceReading, GpuReading
from probes.gpu.rhythm import Rhythm
from probes.gpu.usage import TargetGpu
from probes.process import ProcessSpec, WorkerWatch

GB = 10**9
HERE = frozenset(range(1, 100))  # pids that exist
GpuList = dict[int, int | None] | None


def gpu(index: int, processes: GpuList, *, used: int = 10 * GB, **more: object) -> DeviceReading:
    facts: dict[str, object] = {"total_bytes": 80 * GB, "used_bytes": used, "memory_version": "v2", **more}
    return DeviceReading(index=index, uuid=f"GPU-{index}", processes=processes, **facts)  # type: ignore[arg-type]


def look(*devices: DeviceReading, workers: tuple[tuple[int, ...], ...] = ((7,),), **more: object) -> Attribution:
    return attribute(GpuReading(devices=devices), workers, existing=HERE, **more)  # type: ignore[arg-type]


def test_a_worker_is_found_by_its_pid_on_all_its_devices() -> None:
    """And what others hold there is told apart; a device without it is none of its own."""
    seen = look(gpu(0, {7: 4 * GB, 8: GB}), gpu(1, {7: 5 * GB}), gpu(2, {8: 3 * GB}))
    share = Share(
        used_bytes=9 * GB,
        capacity_bytes=160 * GB,
        device_used_bytes=20 * GB,
        room_bytes=70 * GB,
        ratio=5 / 80,
    )
    assert (seen.shares, seen.view, seen.devices) == ((share,), PidView.SEEN, {"GPU-0", "GPU-1"})


def test_workers_of_one_target_may_have_a_device_each() -> None:
    """Tensor parallel: one rank, one process, one device."""
    seen = look(gpu(0, {7: 4 * GB}), gpu(1, {8: 5 * GB}), workers=((7,), (8,)))
    assert [s.used_bytes for s in seen.shares] == [4 * GB, 5 * GB]
    assert [s.capacity_bytes for s in seen.shares] == [80 * GB, 80 * GB]
    assert seen.devices == {"GPU-0", "GPU-1"}


def test_what_a_worker_started_works_for_it() -> None:
    """Tensor parallel behind one server: the ranks hold the devices, the server holds the socket."""
    seen = look(gpu(0, {8: 4 * GB}), gpu(1, {9: 5 * GB, 30: GB}), workers=((7,), (20,)), ranks=[{8, 9}, set()])
    assert [s.used_bytes for s in seen.shares] == [9 * GB, None]
    assert [s.ranks for s in seen.shares] == [2, 0]
    assert (seen.view, seen.devices) == (PidView.SEEN, {"GPU-0", "GPU-1"})


def test_of_several_devices_the_one_that_is_full_first_sets_the_room() -> None:
    """70 of 80 GB on one, 20 on the other: 10 are left, whatever is free there; not known where one is not."""
    full, empty = gpu(0, {7: 60 * GB, 8: 10 * GB}, used=70 * GB), gpu(1, {7: 20 * GB}, used=20 * GB)
    both = look(full, empty).shares[0]
    assert (both.used_bytes, both.capacity_bytes, both.room_bytes, both.ratio) == (80 * GB, 160 * GB, 10 * GB, 0.75)
    assert look(full, gpu(1, {8: 20 * GB})).shares[0].room_bytes == 10 * GB, "that one is none of its own"
    blind = look(full, gpu(1, {7: 20 * GB}, used_bytes=None)).shares[0]
    assert (blind.used_bytes, blind.room_bytes) == (80 * GB, None)


@pytest.mark.parametrize("configured", [("GPU-1",), (1,)])
def test_configured_devices_are_the_only_ones(configured: tuple[str | int, ...]) -> None:
    """By UUID or by NVML's index; one that there is not is said."""
    seen = look(gpu(0, {7: 4 * GB}), gpu(1, {7: 5 * GB}), configured=configured)
    assert (seen.shares[0].used_bytes, seen.devices, seen.missing) == (5 * GB, {"GPU-1"}, ())
    assert look(gpu(0, {}), configured=(*configured, 0)).missing == configured


def test_work_on_a_sliced_gpu_is_on_its_slices() -> None:
    """Configured by the slice, by the GPU, or found; the canary's window is the GPU's too."""
    whole = gpu(0, None, sliced=True)
    parts = [
        DeviceReading(
            index=0, uuid=f"MIG-{i}", parent="GPU-0", total_bytes=20 * GB, used_bytes=9 * GB, processes={pid: 4 * GB}
        )
        for i, pid in enumerate((7, 8))
    ]
    for configured in ((), ("MIG-0",), ("GPU-0",), (0,)):
        seen = look(whole, *parts, configured=configured)
        assert (seen.shares[0].used_bytes, seen.shares[0].capacity_bytes) == (4 * GB, 20 * GB)
        assert seen.devices is not None
        assert {"MIG-0", "GPU-0"} <= seen.devices


def test_a_uuid_may_be_cut_short_while_only_one_begins_so() -> None:
    """One that begins several UUIDs names none; a whole one that begins another is itself."""
    devices = gpu(1, {7: GB}), gpu(123, {7: GB}), gpu(2, {7: GB})
    for name, uuid in (("GPU-12", "GPU-123"), ("GPU-1", "GPU-1"), ("GPU-2", "GPU-2")):
        seen = look(*devices, configured=(name,))
        assert (seen.devices, seen.missing) == ({uuid}, ())
    assert look(*devices, configured=("GPU-",)).missing == ("GPU-",)


def test_a_list_that_is_missing_makes_the_sum_unknown() -> None:
    """A worker on two devices does not shrink because one of them could not be asked."""
    both = look(gpu(0, {7: 4 * GB}), gpu(1, {7: 5 * GB}))
    one = look(gpu(0, {7: 4 * GB}), gpu(1, None, fault=GpuFault.GPU_LOST), before=both.devices)
    assert (one.shares[0].used_bytes, one.devices) == (None, both.devices)
    other = look(gpu(0, {7: 4 * GB}), gpu(1, {7: 5 * GB}), gpu(2, None), before=both.devices)
    assert other.shares[0].used_bytes == 9 * GB  # that one was never its own
    moved = look(gpu(0, {7: 4 * GB}), gpu(1, {}), before=both.devices)
    assert (moved.shares[0].used_bytes, moved.devices) == (4 * GB, {"GPU-0"})


def test_a_worker_that_is_gone_leaves_its_devices_the_targets() -> None:
    """Until it is found on others: one that cannot start on a broken device is listed nowhere."""
    gone = look(gpu(0, {}), gpu(1, {8: GB}), before=frozenset({"GPU-0"}))
    assert (gone.view, gone.devices) == (PidView.ABSENT, {"GPU-0"})
    moved = look(gpu(0, {}), gpu(1, {7: GB}), before=frozenset({"GPU-0"}))
    assert moved.devices == {"GPU-1"}


def test_a_worker_that_uses_no_gpu_is_absent_and_not_zero() -> None:
    """Others are listed, or nobody is and nothing is in use."""
    for device in (gpu(0, {8: GB}), gpu(0, {}, used=7_800_000), gpu(0, {}, used=912_000_000, memory_version="v1")):
        seen = look(device)
        assert (seen.view, seen.shares[0].used_bytes, seen.shares[0].estimated) == (PidView.ABSENT, None, False)
        assert seen.shares[0].capacity_bytes == 80 * GB  # the only device is its device


def test_without_any_list_nothing_is_known() -> None:
    """As on devices that do not support it."""
    assert look(gpu(0, None)).view is PidView.UNKNOWN
    assert look().view is PidView.UNKNOWN


# --- containers -------------------------------------------------------------------------------------------------------


def test_host_pids_in_a_container_are_recognised() -> None:
    """Nobody here has such a pid. The one stranger on a configured device is the one worker, else nobody knows."""
    seen = look(gpu(0, {40001: 4 * GB}))
    assert (seen.view, seen.shares[0].used_bytes) == (PidView.FOREIGN_PIDS, None)
    mine = look(gpu(0, {40001: 4 * GB}), configured=("GPU-0",))
    assert (mine.shares[0].used_bytes, mine.shares[0].estimated) == (4 * GB, True)
    assert look(gpu(0, {40001: 4 * GB, 40002: GB}), configured=("GPU-0",)).shares[0].used_bytes is None
    assert [s.used_bytes for s in look(gpu(0, {40001: 4 * GB}), workers=((7,), (8,)), configured=(0,)).shares] == [
        None
    ] * 2


def test_a_worker_in_another_pid_namespace_is_found_by_its_other_name() -> None:
    """The NSpid line names it; but another process's pid is not its name."""
    assert look(gpu(0, {40001: 4 * GB}), workers=((7, 40001),)).shares[0].used_bytes == 4 * GB
    assert look(gpu(0, {8: 4 * GB}), workers=((7, 8),)).view is PidView.ABSENT


@pytest.mark.parametrize("amount", [None, 0])
def test_pids_without_amounts_are_never_zero(amount: int | None) -> None:
    """The only worker has what the others leave; where they do not tell either, nobody knows."""
    alone = look(gpu(0, {7: amount}))
    assert (alone.view, alone.shares[0].used_bytes, alone.shares[0].estimated) == (PidView.NO_AMOUNTS, 10 * GB, True)
    beside = look(gpu(0, {7: amount, 8: 3 * GB})).shares[0]
    assert (beside.used_bytes, beside.ratio) == (7 * GB, 7 / 80)
    assert look(gpu(0, {7: amount, 8: amount})).shares[0].used_bytes is None
    assert look(gpu(0, {7: amount}), workers=((7,), (8,))).shares[0].used_bytes is None


def test_a_process_that_has_just_ended_is_no_stranger() -> None:
    """A list is some seconds old. Where the workers' pids were seen before, no container hides them."""
    seen = look(gpu(0, {40001: 4 * GB}), configured=("GPU-0",), pids_seen=True)
    assert (seen.view, seen.shares[0].used_bytes) == (PidView.ABSENT, None)
    assert look(gpu(0, {}), configured=("GPU-0",), pids_seen=True).view is PidView.ABSENT
    assert look(gpu(0, {7: None}), pids_seen=True).view is PidView.NO_AMOUNTS


def test_an_empty_list_of_a_device_in_use_is_recognised() -> None:
    """Whose it is, only the configuration can say."""
    assert (look(gpu(0, {})).view, look(gpu(0, {})).shares[0].used_bytes) == (PidView.EMPTY, None)
    mine = look(gpu(0, {}), configured=("GPU-0",)).shares[0]
    assert (mine.used_bytes, mine.device_used_bytes, mine.estimated) == (10 * GB, 10 * GB, True)


# --- with a real process, a real reader -------------------------------------------------------------------------------


def test_gpu_figures_join_the_workers_memory_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pid, beside the figures of the host. Where NVML lists pids nothing is estimated later: it would jump."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    device = f"device 0 {80 * GB} 0 {9 * GB}\n"
    driver.set(f"{device}process 0 {os.getpid()} {3 * GB}\n")
    reader = GpuReader(rhythm=Rhythm(memory_s=0.05, lists_s=0.05))
    usage = TargetGpu(reader, devices=("GPU-stub-0",))
    watch = WorkerWatch(ProcessSpec(parent_pid=os.getpid(), workers="self"), target="toy", gpu=usage)
    try:
        assert (usage.is_used, usage.view) == (False, None)
        [sample] = watch.sample(now=1.0)
        assert (sample.gpu_used_bytes, sample.gpu_capacity_bytes, sample.device_used_bytes) == (3 * GB, 80 * GB, 9 * GB)
        assert sample.host_anon_bytes is not None
        assert (usage.is_used, usage.view, usage.names, usage.lost) == (True, PidView.SEEN, ("Stub GPU 0",), False)
        driver.set(device)
        reader.refresh()
        [sample] = watch.sample(now=2.0)
        assert (usage.view, sample.gpu_used_bytes, sample.device_used_bytes) == (PidView.ABSENT, None, 9 * GB)
        driver.set(device + "lost 0\n")
        reader.refresh()
        [sample] = watch.sample(now=3.0)
        assert (usage.lost, sample.gpu_used_bytes, sample.gpu_capacity_bytes) == (True, None, None)
        assert usage.names == ("Stub GPU 0",)
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("listed", "view", "used"),
    [
        ("process 0 {me} max\n", PidView.NO_AMOUNTS, 9 * GB),
        ("process 0 {me} 0\n", PidView.NO_AMOUNTS, 9 * GB),
        (f"process 0 999999999 {4 * GB}\n", PidView.FOREIGN_PIDS, 4 * GB),
        ("", PidView.EMPTY, 9 * GB),
    ],
    ids=["not told", "told as 0", "the host's pids", "nobody"],
)
def test_what_a_container_hides_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, view: PidView, used: int
) -> None:
    """By what the library says in each case, and what is left is the only worker's."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    driver.set(f"device 0 {80 * GB} 0 {9 * GB}\n" + listed.format(me=os.getpid()))
    reader = GpuReader(rhythm=Rhythm(memory_s=0.05, lists_s=0.05))
    usage = TargetGpu(reader, devices=("GPU-stub-0",))
    watch = WorkerWatch(ProcessSpec(parent_pid=os.getpid(), workers="self"), target="toy", gpu=usage)
    try:
        [sample] = watch.sample(now=1.0)
        assert (usage.view, sample.gpu_used_bytes) == (view, used)
        assert str(view) in str(usage.note())
    finally:
        reader.close()


def test_the_ranks_of_a_server_are_found_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep; a stranger's process on the same device is not the server's."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    inner = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    outer = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {inner!r}]); p.wait()"
    server = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    rank = int(server.stdout.readline())
    devices = f"device 0 {80 * GB} 0 {9 * GB}\ndevice 1 {80 * GB} 0 {9 * GB}\n"
    driver.set(f"{devices}process 0 {rank} {3 * GB}\nprocess 1 {rank} {4 * GB}\nprocess 1 {os.getpid()} {GB}\n")
    reader = GpuReader(rhythm=Rhythm(memory_s=0.05, lists_s=0.05))
    watch = WorkerWatch(
        ProcessSpec(parent_pid=server.pid, workers="self"), target="toy", gpu=(usage := TargetGpu(reader))
    )
    try:
        [sample] = watch.sample(now=1.0)
        assert (sample.gpu_used_bytes, sample.gpu_capacity_bytes) == (7 * GB, 160 * GB)
        assert (sample.gpu_ranks, sample.gpu_room_bytes, sample.gpu_ratio) == (1, 71 * GB, 4 / 80)
        assert (usage.view, usage.knows_devices) == (PidView.SEEN, True)
    finally:
        reader.close()
        os.kill(rank, signal.SIGKILL)
        server.wait(10)
        server.stdout.close()


def test_a_configured_device_that_there_is_not_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And counts as lost: it should be there."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    driver.set(f"device 0 {80 * GB} 0 {9 * GB}\n")
    reader = GpuReader(rhythm=Rhythm(memory_s=0.05))
    usage = TargetGpu(reader, devices=("GPU-stub-0", "GPU-other"))
    try:
        assert reader.available
        assert (usage.missing(), usage.lost) == (("GPU-other",), True)
        assert [d.uuid for d in usage.reading().devices] == ["GPU-stub-0"]
    finally:
        reader.close()
