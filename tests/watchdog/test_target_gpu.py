"""A target on a (stub) GPU: its bursts are left in peace, what NVML knows is joined to them, memory is read anew."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import IDENTITY, make_burst, make_target
from nvml_stage import Driver, build_stub

from alerts.recovery import MEMORY
from baselines.database import Database
from probes.canary.burst import CanaryPlan
from probes.facts import GPU_OTHERS, GPU_THROTTLE, SM_CLOCK_HZ
from probes.gpu.reader import GpuReader
from probes.gpu.rhythm import Rhythm
from probes.gpu.usage import TargetGpu
from probes.messages import Burst, Identity, Output
from probes.process import ProcessSpec, WorkerWatch

GB = 10**9
DEVICES = f"device 0 {80 * GB} 0 {9 * GB}\ndevice 1 {80 * GB} 0 {9 * GB}\n"
RUNNING = "value nvmlDeviceGetClockInfo/1 0 1755\nvalue nvmlDeviceGetCurrentClocksEventReasons 0 36\n"
PLAN = CanaryPlan(interval_s=60.0, timeout_s=5.0, size=3, warmup=0, max_busy=1.0)
OFTEN = Rhythm(memory_s=0.02, lists_s=0.02, patience_s=20.0)


@dataclass
class Canary:
    """A burst that lasts as long as something else does."""

    during: Callable[[], object]
    identity: Identity | None = IDENTITY
    isolated: bool = False
    target: str = "chat"
    name: str = "default"
    plan: CanaryPlan = PLAN

    def burst(self, *, golden: Output | None = None, size: int | None = None, times: int = 1) -> Burst:
        self.during()
        return make_burst()

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    driver.set(f"{DEVICES}process 0 {os.getpid()} {3 * GB}\n")
    return driver


@pytest.fixture
def reader(driver: Driver) -> Iterator[GpuReader]:
    reader = GpuReader(rhythm=OFTEN)
    yield reader
    reader.close()


def test_a_burst_is_left_in_peace_on_its_devices(database: Database, driver: Driver, reader: GpuReader) -> None:
    """Those of its workers: the other GPU is read on meanwhile. The driver's versions come with the burst."""
    times: list[float] = []

    def wait_for_the_other() -> None:
        times.append(time.monotonic())
        deadline = time.monotonic() + 20
        while len([c for c in driver.calls(device="1") if c.at_s > times[0]]) < 20:
            assert time.monotonic() < deadline, "the other GPU is not read"
            time.sleep(0.01)
        times.append(time.monotonic())

    gpu = TargetGpu(reader)
    workers = WorkerWatch(ProcessSpec(parent_pid=os.getpid(), workers="self"), target="chat", gpu=gpu)
    target = make_target(database, canaries={"default": Canary(wait_for_the_other)}, workers=workers, gpu=gpu)
    assert [s.gpu_used_bytes for s in target.sample_memory()] == [3 * GB]
    burst = target.probe("default")
    began, ended = times
    assert not [c for c in driver.calls(device="0") if began <= c.at_s <= ended]
    assert (burst.provenance["driver"], burst.provenance["cuda_driver"]) == ("580.65.06", "13.1")
    assert burst.identity.gpu_type == "Stub GPU 0, Stub GPU 1"


def test_devices_are_looked_at_while_no_worker_is_on_them(
    database: Database, driver: Driver, reader: GpuReader
) -> None:
    """One that cannot start is listed nowhere, and what is wrong with its GPU holds recycles all the same."""
    gpu = TargetGpu(reader)
    workers = WorkerWatch(ProcessSpec(parent_pid=os.getpid(), workers="self"), target="chat", gpu=gpu)
    target = make_target(database, workers=workers, gpu=gpu)
    for scenario in (f"{DEVICES}process 0 {os.getpid()} {3 * GB}\n", DEVICES):
        driver.set(scenario)
        reader.refresh()
        target.sample_memory()
        sample = target.sample_gpu()
        assert sample is not None
        assert [device.uuid for device in sample.devices] == ["GPU-stub-0"]


def test_a_burst_tells_how_its_device_was(database: Database, driver: Driver, reader: GpuReader) -> None:
    """Of the last reading there is: nothing is read for it. Of the device of its workers alone."""
    driver.set(f"{DEVICES}{RUNNING}process 0 {os.getpid()} {3 * GB}\nprocess 0 1 {GB}\nprocess 1 1 {GB}\n")
    gpu = TargetGpu(reader)
    workers = WorkerWatch(ProcessSpec(parent_pid=os.getpid(), workers="self"), target="chat", gpu=gpu)
    calls: list[int] = []
    canary = Canary(lambda: calls.append(len(driver.calls(device="0"))))
    target = make_target(database, canaries={"default": canary}, workers=workers, gpu=gpu)
    assert not {SM_CLOCK_HZ, GPU_THROTTLE, GPU_OTHERS} & set(target.probe("default").facts), "whose are they?"
    target.sample_memory()
    facts = target.probe("default").facts
    assert (facts[SM_CLOCK_HZ], facts[GPU_THROTTLE], facts[GPU_OTHERS]) == (1.755e9, 0x24, 1)


def test_memory_before_and_after_a_recycle_is_no_memory_of_before(
    database: Database, driver: Driver, reader: GpuReader
) -> None:
    """It is read anew. A worker that was on the GPU and is not seen there is unknown, not smaller."""
    slow = GpuReader(rhythm=Rhythm(memory_s=600.0, lists_s=600.0))
    gpu = TargetGpu(slow, devices=("GPU-stub-0",))
    workers = WorkerWatch(ProcessSpec(parent_pid=os.getpid(), workers="self"), target="chat", gpu=gpu)
    target = make_target(database, workers=workers, gpu=gpu)
    try:
        before = target.held(MEMORY)
        assert before is not None
        driver.set(f"{DEVICES}process 0 {os.getpid()} {5 * GB}\n")
        after = target.held(MEMORY)
        assert after is not None
        assert after - before == pytest.approx(2 * GB, rel=0.05)
        driver.set(f"{DEVICES}process 0 1 5\n")
        assert target.held(MEMORY) is None
    finally:
        slow.close()
