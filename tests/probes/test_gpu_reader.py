from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nvml_stage import OLD_DRIVER, build_stub

from probes.gpu.nvml import GpuFault
from probes.gpu.reader import DeviceReading, GpuReader, GpuReading
from probes.process import ProcessSpec, WorkerWatch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GB = 10**9
NOT_AVAILABLE = 2**64 - 1

TWO_GPUS = f"""
device 0 {80 * GB} {GB} {10 * GB}
device 1 {80 * GB} {GB} {20 * GB}
process 0 7001 {4 * GB}
process 1 7001 {5 * GB}
process 1 7002 {6 * GB}
"""


class Machine:
    """A child with the real pynvml on the stub library, and the state of the GPUs it sees."""

    def __init__(self, libraries: Path, folder: Path) -> None:
        self._state = folder / "state"
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(libraries),
            "NVML_STUB_STATE": str(self._state),
            "PYTHONPATH": str(ROOT),
        }
        self._child: subprocess.Popen[str] | None = None

    def set(self, state: str) -> None:
        self._state.write_text(state)

    def read(self, pid: int = 7001) -> dict[str, Any]:
        if self._child is None:
            argv = [sys.executable, "-W", "error", str(HERE / "gpu_child.py")]
            self._child = subprocess.Popen(
                argv, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{pid}\n")
        self._child.stdin.flush()
        answer: dict[str, Any] = json.loads(self._child.stdout.readline())
        return answer

    def close(self) -> None:
        if self._child is not None:
            self._child.communicate(timeout=20)
            assert self._child.returncode == 0


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def old_stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("nvml_old"), *OLD_DRIVER)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Machine]]:
    machines: list[Machine] = []

    def begin(libraries: Path) -> Machine:
        machines.append(Machine(libraries, tmp_path))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


Start = Callable[[Path], Machine]


def test_memory_is_read_by_device_and_by_process(stub: Path, start: Start) -> None:
    """The real pynvml, through its newest calls: v2 memory does not count the driver's reserve as used."""
    machine = start(stub)
    machine.set(TWO_GPUS)
    read = machine.read(7001)
    assert (read["available"], read["why"], read["driver"], read["cuda"]) == (True, None, "580.65.06", "13.1")
    assert read["devices"][1] == {
        "index": 1,
        "uuid": "GPU-stub-1",
        "name": "Stub GPU 1",
        "total_bytes": 80 * GB,
        "used_bytes": 20 * GB,
        "memory_version": "v2",
        "processes": {"7001": 5 * GB, "7002": 6 * GB},
        "fault": None,
    }
    assert read["pid"] == [9 * GB, 160 * GB, 30 * GB]
    assert machine.read(7002)["pid"] == [6 * GB, 80 * GB, 20 * GB]
    assert machine.read(1)["pid"] == [None, None, None]


def test_a_reader_follows_the_machine_without_opening_again(stub: Path, start: Start) -> None:
    """Growth, and a process that ends."""
    machine = start(stub)
    for used in (1.0, 1.1, 1.2):
        machine.set(f"device 0 {80 * GB} {GB} {int(used * GB)}\nprocess 0 7001 {int(used * GB)}\n")
        assert machine.read()["pid"] == [int(used * GB), 80 * GB, int(used * GB)]
    machine.set(f"device 0 {80 * GB} {GB} 0\n")
    assert machine.read()["pid"] == [None, 80 * GB, 0]  # the only device is the process's device


def test_an_old_driver_is_read_by_the_older_calls(old_stub: Path, start: Start) -> None:
    """Memory by v1, which counts the reserve as used and says so; processes by v2."""
    machine = start(old_stub)
    machine.set(TWO_GPUS)
    device = machine.read()["devices"][0]
    assert (device["memory_version"], device["used_bytes"]) == ("v1", 11 * GB)
    assert (device["processes"], device["fault"]) == ({"7001": 4 * GB}, None)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (3, "not_supported"),
        (4, "no_permission"),
        (15, "gpu_lost"),
        (16, "reset_required"),
        (999, "failed"),
        (10, "timeout"),
    ],
)
def test_a_failing_call_is_a_named_fault(stub: Path, start: Start, code: int, fault: str) -> None:
    """In the middle of a run; the other device goes on, and all is well again when the fault is gone."""
    machine = start(stub)
    machine.set(TWO_GPUS)
    assert machine.read()["devices"][0]["fault"] is None
    calls = ["MemoryInfo", "MemoryInfo_v2", "ComputeRunningProcesses_v2", "ComputeRunningProcesses_v3"]
    machine.set(TWO_GPUS + "".join(f"return nvmlDeviceGet{call} {code}\n" for call in calls))
    read = machine.read()
    for device in read["devices"]:
        assert (device["total_bytes"], device["used_bytes"], device["processes"]) == (None, None, None)
        assert device["fault"] == fault
    assert read["pid"] == [None, None, None]
    machine.set(TWO_GPUS)
    assert machine.read()["pid"][0] == 9 * GB


def test_missing_process_figures_leave_memory_readable(stub: Path, start: Start) -> None:
    """Windows-like drivers and some containers do not tell who uses how much."""
    machine = start(stub)
    machine.set(f"device 0 {80 * GB} {GB} {10 * GB}\nprocess 0 7001 {NOT_AVAILABLE}\n")
    read = machine.read()
    assert read["devices"][0]["processes"] == {"7001": None}
    assert read["pid"] == [None, 80 * GB, 10 * GB]


@pytest.mark.parametrize(
    "device",
    [f"device 0 {NOT_AVAILABLE} 0 0", "device 0 0 0 0", f"device 0 {GB} 0 {2 * GB}"],
    ids=["sentinel", "nothing", "more_than_there_is"],
)
def test_an_amount_that_cannot_be_is_refused(stub: Path, start: Start, device: str) -> None:
    """Broken devices answer such numbers with success."""
    machine = start(stub)
    machine.set(device + "\n")
    read = machine.read()["devices"][0]
    assert (read["total_bytes"], read["used_bytes"], read["fault"]) == (None, None, "implausible")


def test_a_process_cannot_use_more_than_its_device_has(stub: Path, start: Start) -> None:
    """Some drivers shift the columns of the list."""
    machine = start(stub)
    machine.set(f"device 0 {GB} 0 {GB}\nprocess 0 7001 {2 * GB}\nprocess 0 7002 5\n")
    device = machine.read()["devices"][0]
    assert (device["processes"], device["fault"]) == ({"7001": None, "7002": 5}, "implausible")


def test_a_pid_on_two_slices_of_a_device_counts_once_with_both(stub: Path, start: Start) -> None:
    """As with MIG: two rows, one process."""
    machine = start(stub)
    machine.set(f"device 0 {80 * GB} 0 {GB}\nprocess 0 7001 100\nprocess 0 7001 23\n")
    assert machine.read()["pid"][0] == 123


def test_a_device_that_cannot_be_opened_hides_no_other(stub: Path, start: Start) -> None:
    """It keeps its place with its fault."""
    machine = start(stub)
    machine.set(TWO_GPUS + "return nvmlDeviceGetHandleByIndex_v2 15\n")
    read = machine.read()
    assert [(d["index"], d["fault"]) for d in read["devices"]] == [(0, "gpu_lost"), (1, "gpu_lost")]
    assert read["available"]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("return nvmlInitWithFlags 9\n", "no_driver"),
        ("return nvmlInitWithFlags 18\n", "version_mismatch"),
        ("return nvmlDeviceGetCount_v2 999\n", "failed"),
        ("", "no_device"),
    ],
)
def test_a_machine_without_a_working_gpu_says_why(stub: Path, start: Start, state: str, why: str) -> None:
    """And reads as having none."""
    machine = start(stub)
    machine.set(state)
    read = machine.read()
    assert (read["available"], read["why"], read["devices"]) == (False, why, [])


def test_a_machine_without_the_library_is_silent(tmp_path: Path, start: Start) -> None:
    """The usual case on a CPU machine: nothing is printed, nothing raised (-W error in the child)."""
    machine = start(tmp_path)
    read = machine.read()
    if read["available"]:
        pytest.skip("this machine has NVIDIA's own library in the system's path")
    assert read["why"] in ("no_library", "no_driver")
    assert read["devices"] == []


def test_pynvml_is_imported_only_when_a_reader_is_opened() -> None:
    """Machines without a GPU do not pay for it."""
    script = "import sys, probes.gpu.reader, probes.process; sys.exit('pynvml' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_a_reader_that_was_never_opened_reads_nothing() -> None:
    """Its state is that of a machine without the library."""
    reader = GpuReader()
    assert not reader.available
    assert reader.why is GpuFault.NO_LIBRARY
    assert reader.read() == GpuReading()
    reader.close()


class FixedGpu(GpuReader):
    """Stands in for a GPU that lists this process."""

    available = True

    def read(self) -> GpuReading:
        device = DeviceReading(index=0, total_bytes=80 * GB, used_bytes=9 * GB, processes={os.getpid(): 3 * GB})
        return GpuReading(devices=(device,))


def test_gpu_figures_join_the_workers_memory_sample() -> None:
    """By pid, beside the figures of the host."""
    watch = WorkerWatch(ProcessSpec(parent_pid=os.getpid(), workers="self"), target="toy", gpu=FixedGpu())
    [sample] = watch.sample(now=1.0)
    assert (sample.gpu_used_bytes, sample.gpu_capacity_bytes, sample.device_used_bytes) == (3 * GB, 80 * GB, 9 * GB)
    assert sample.host_anon_bytes is not None


@pytest.mark.gpu
def test_a_real_gpu_is_read() -> None:
    """Total, used and the versions of a device that is really there."""
    reader = GpuReader.open()
    try:
        if not reader.available:
            if os.environ.get("REQUIRE_GPU") == "1":
                pytest.fail(f"no GPU: {reader.why}")
            pytest.skip(f"no GPU: {reader.why}")
        device = reader.read().devices[0]
        assert device.fault is None
        assert device.name
        assert device.uuid
        assert device.total_bytes is not None
        assert device.used_bytes is not None
        assert 0 < device.used_bytes <= device.total_bytes
        assert device.processes is not None
        assert reader.driver_version
        assert reader.cuda_version
    finally:
        reader.close()
