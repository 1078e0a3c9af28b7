"""The GPU reader whole: its thread, its child process, the real pynvml and the stub library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nvml_stage import OLD_DRIVER, Driver, build_stub, driver, library

from probes.gpu.known import Known
from probes.gpu.nvml import GpuFault
from probes.gpu.reader import GpuReader
from probes.gpu.reading import DeviceReading, GpuReading
from probes.gpu.rhythm import Rhythm

__all__ = ["driver", "library"]

ROOT = Path(__file__).parents[2]
GB = 10**9
QUICK = Rhythm(
    memory_s=0.05,
    lists_s=0.15,
    deadline_s=0.4,
    silent_s=4.0,
    patience_s=0.8,
    suspect_s=1.5,
    again_s=0.2,
    again_max_s=1.0,
)

TWO_GPUS = f"""
device 0 {80 * GB} {GB} {10 * GB}
device 1 {80 * GB} {GB} {20 * GB}
process 0 7001 {4 * GB}
process 1 7001 {5 * GB}
process 1 7002 {6 * GB}
"""

Open = Callable[..., GpuReader]


@pytest.fixture
def start() -> Iterator[Open]:
    readers: list[GpuReader] = []

    def begin(rhythm: Rhythm = QUICK, **more: Any) -> GpuReader:
        readers.append(GpuReader(rhythm=rhythm, **more))
        return readers[-1]

    yield begin
    for reader in readers:
        reader.close()


def wait_for(reader: GpuReader, condition: Callable[[GpuReading], object], what: str) -> GpuReading:
    """The first reading of which the condition is true."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition(reading := reader.read()):
            return reading
        time.sleep(0.01)
    pytest.fail(f"not within 20 s: {what}; last: {reader.read()}")


def read_anew(reader: GpuReader) -> tuple[DeviceReading, ...]:
    """What is read after now."""
    reader.refresh()
    return reader.read().devices


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_memory_is_read_by_device_and_by_process(driver: Driver, start: Open) -> None:
    """Through the newest calls: v2 memory does not count the driver's reserve as used. Opened once for all readings."""
    driver.set(TWO_GPUS)
    reader = start()
    assert reader.available
    assert (reader.why, reader.driver_version, reader.cuda_version) == (None, "580.65.06", "13.1")
    assert reader.names == ("Stub GPU 0", "Stub GPU 1")
    device = read_anew(reader)[1]
    assert (device.index, device.uuid, device.name, device.fault) == (1, "GPU-stub-1", "Stub GPU 1", None)
    assert (device.total_bytes, device.used_bytes, device.memory_version) == (80 * GB, 20 * GB, "v2")
    assert device.processes == {7001: 5 * GB, 7002: 6 * GB}
    wait_until(lambda: len(driver.calls("nvmlDeviceGetMemoryInfo_v2")) > 20, "it reads on")
    assert len(driver.calls("nvmlInitWithFlags")) == 1
    assert len(driver.calls("nvmlDeviceGetHandleByIndex_v2")) == 4  # once to read, once for Xids


def test_a_reader_follows_the_machine(driver: Driver, start: Open) -> None:
    """Growth, a process that comes and one that ends; in between memory alone is read and the lists are kept."""
    driver.set(f"device 0 {80 * GB} {GB} {GB},{2 * GB},{3 * GB},{4 * GB}\nprocess 0 7001 5\n")
    reader = start()
    wait_for(reader, lambda r: [d.used_bytes for d in r.devices] == [4 * GB], "the last of the series")
    driver.set(f"device 0 {80 * GB} {GB} {GB}\nprocess 0 7002 6\n")
    wait_for(reader, lambda r: [d.processes for d in r.devices] == [{7002: 6}], "the other process")
    lists, memory = driver.calls("nvmlDeviceGetComputeRunningProcesses_v3"), driver.calls("nvmlDeviceGetMemoryInfo_v2")
    assert len(lists) < 1.5 * len(memory)  # each list is two calls: one for its size


def test_an_old_driver_is_read_by_the_older_calls(
    driver: Driver, tmp_path: Path, start: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory by v1, which counts the reserve as used and says so; processes and CUDA's version by their older names."""
    driver.use(monkeypatch, build_stub(tmp_path / "old", *OLD_DRIVER, "nvmlSystemGetCudaDriverVersion_v2"))
    driver.set(TWO_GPUS)
    reader = start()
    device = read_anew(reader)[0]
    assert (device.memory_version, device.used_bytes) == ("v1", 11 * GB)
    assert (device.processes, device.fault) == ({7001: 4 * GB}, None)
    assert reader.cuda_version == "13.1"


def test_the_two_ways_to_count_memory_are_never_mixed(driver: Driver, start: Open) -> None:
    """A v2 that fails for once is missing, and is not replaced by a v1 that counts the reserve too."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)[0].used_bytes == 10 * GB
    driver.set(TWO_GPUS + "return nvmlDeviceGetMemoryInfo_v2 999\n")
    device = read_anew(reader)[0]
    assert (device.used_bytes, device.memory_version, device.fault) == (None, None, GpuFault.FAILED)
    driver.set(TWO_GPUS)
    assert read_anew(reader)[0].memory_version == "v2"


def test_memory_v2_that_never_answers_is_replaced_by_v1(driver: Driver, start: Open) -> None:
    """As on WSL, where it fails with an unknown error."""
    driver.set(TWO_GPUS + "return nvmlDeviceGetMemoryInfo_v2 999\n")
    assert [d.memory_version for d in read_anew(start())] == ["v1", "v1"]


def test_processes_of_all_lists_are_one_each(driver: Driver, start: Open) -> None:
    """MPS clients and graphics too; who is in two lists counts once, who is twice in one counts with both."""
    rows = "process 0 1 100\nprocess 0 1 23\nmps 0 2 7\ngraphics 0 1 123\ngraphics 0 3 max\n"
    driver.set(f"device 0 {GB} 0 500\n{rows}")
    assert read_anew(start())[0].processes == {1: 123, 2: 7, 3: None}


# --- MIG --------------------------------------------------------------------------------------------------------------


def test_a_list_that_there_is_not_hides_no_other(driver: Driver, start: Open) -> None:
    """Those of MPS and of graphics, which not every device has."""
    lists = ("MPSCompute", "Graphics")
    driver.set(
        TWO_GPUS
        + "".join(f"return nvmlDeviceGet{kind}RunningProcesses_{v} 3\n" for kind in lists for v in ("v2", "v3"))
    )
    read = read_anew(start())[1]
    assert (read.processes, read.fault) == ({7001: 5 * GB, 7002: 6 * GB}, None)


def test_slices_are_read_each_for_itself(driver: Driver, start: Open) -> None:
    """Memory and processes by slice; the whole needs privilege, which hides no slice; new slices are found."""
    base = f"device 0 {80 * GB} {GB} {10 * GB}\nmig 0 1\nreturn nvmlDeviceGetMemoryInfo_v2 4 0\n"
    base += f"return nvmlDeviceGetMemoryInfo 4 0\ninstance 0.0 1 0 {40 * GB} 0 {5 * GB}\nprocess 0.0 71 {4 * GB}\n"
    driver.set(base)
    reader = start()
    whole, part = read_anew(reader)
    assert (whole.sliced, whole.total_bytes, whole.processes, whole.fault) == (True, None, None, GpuFault.NO_PERMISSION)
    assert (part.uuid, part.parent, part.fault) == ("MIG-stub-0.0", "GPU-stub-0", None)
    assert (part.total_bytes, part.used_bytes, part.processes) == (40 * GB, 5 * GB, {71: 4 * GB})
    driver.set(base + f"instance 0.3 2 0 {20 * GB} 0 {GB}\nprocess 0.3 72 9\n")
    reading = wait_for(reader, lambda r: len(r.devices) == 3, "the new slice")
    assert (reading.devices[2].uuid, reading.devices[2].processes) == ("MIG-stub-0.3", {72: 9})
    driver.set(f"device 0 {80 * GB} {GB} {10 * GB}\nmig 0 0\nprocess 0 73 5\n")
    reading = wait_for(reader, lambda r: len(r.devices) == 1, "MIG is off")
    assert (reading.devices[0].sliced, reading.devices[0].processes) == (False, {73: 5})


@pytest.mark.parametrize("call", ["MigMode", "MaxMigDeviceCount", "MigDeviceHandleByIndex"])
def test_a_question_about_slices_that_fails_hides_none(driver: Driver, start: Open, call: str) -> None:
    """They are read on, and the whole is not taken for one that is not sliced."""
    base = f"device 0 {80 * GB} {GB} {10 * GB}\nmig 0 1\ninstance 0.0 1 0 {40 * GB} 0 {5 * GB}\n"
    driver.set(base + f"process 0.0 71 {4 * GB}\n")
    reader = start()
    assert len(read_anew(reader)) == 2
    driver.set(base + f"process 0.0 71 {3 * GB}\nreturn nvmlDeviceGet{call} 999 0\n")
    whole, part = read_anew(reader)
    assert (whole.sliced, whole.processes) == (True, None)
    assert (part.uuid, part.used_bytes, part.processes) == ("MIG-stub-0.0", 5 * GB, {71: 3 * GB})


# --- failures that are answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (3, GpuFault.NOT_SUPPORTED),
        (4, GpuFault.NO_PERMISSION),
        (10, GpuFault.TIMEOUT),
        (15, GpuFault.GPU_LOST),
        (16, GpuFault.RESET_REQUIRED),
        (999, GpuFault.FAILED),
    ],
)
def test_a_failing_call_is_a_named_fault(driver: Driver, start: Open, code: int, fault: GpuFault) -> None:
    """In the middle of a run; the other device goes on, and all is well again when the fault is gone."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)[0].fault is None
    calls = ["MemoryInfo", "MemoryInfo_v2", "ComputeRunningProcesses_v2", "ComputeRunningProcesses_v3"]
    driver.set(TWO_GPUS + "".join(f"return nvmlDeviceGet{call} {code} 0\n" for call in calls))
    failed, other = read_anew(reader)
    assert (failed.total_bytes, failed.used_bytes, failed.processes) == (None, None, None)
    assert (failed.fault, failed.call, failed.uuid) == (fault, "nvmlDeviceGetMemoryInfo", "GPU-stub-0")
    assert (other.used_bytes, other.fault) == (20 * GB, None)
    driver.set(TWO_GPUS)
    assert read_anew(reader)[0].used_bytes == 10 * GB


def test_missing_process_figures_leave_memory_readable(driver: Driver, start: Open) -> None:
    """None, and never 0: of one process, and of the whole list."""
    driver.set(f"device 0 {80 * GB} {GB} {10 * GB}\nprocess 0 7001 max\n")
    reader = start()
    device = read_anew(reader)[0]
    assert (device.used_bytes, device.processes, device.fault) == (10 * GB, {7001: None}, None)
    lists = "".join(f"return nvmlDeviceGetComputeRunningProcesses_v{v} 4\n" for v in (2, 3))
    driver.set(f"device 0 {80 * GB} {GB} {10 * GB}\n{lists}")
    device = read_anew(reader)[0]
    assert (device.used_bytes, device.processes, device.fault) == (10 * GB, None, GpuFault.NO_PERMISSION)


def test_a_list_that_failed_stays_failed_until_the_lists_are_read_again() -> None:
    """What reads memory alone says nothing about the lists. A fault of the memory, or of the whole GPU, is over with
    the next reading."""
    known = Known(stale_s=60.0)
    known.open(1, None, None)
    place = known.waiting(0.0)[0]
    well = DeviceReading(index=0, uuid="GPU-0", total_bytes=80 * GB, used_bytes=10 * GB)

    def faults(*readings: tuple[str | None, GpuFault | None, bool]) -> list[GpuFault | None]:
        told = []
        for at, (call, fault, lists) in enumerate(readings, start=1):
            known.take(place, [replace(well, fault=fault, call=call)], lists=lists, now=float(at), due=at + 1.0)
            told.append(known.reading(float(at)).devices[0].fault)
        return told

    compute, memory = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMemoryInfo"
    no, failed, lost = GpuFault.NO_PERMISSION, GpuFault.FAILED, GpuFault.GPU_LOST
    fine = (None, None, False)
    assert faults((compute, no, True), fine, fine, (None, None, True)) == [no, no, no, None]
    assert faults((compute, no, True), (memory, failed, False), fine) == [no, failed, no]
    assert faults((memory, failed, True), fine) == [failed, None]
    assert faults((compute, no, True), (memory, lost, False), fine) == [no, lost, None]
    assert faults((compute, lost, True), fine) == [lost, None]


def test_a_slice_that_is_lost_takes_no_list_of_the_others_with_it() -> None:
    """Between two readings of the lists."""
    known = Known(stale_s=60.0)
    known.open(1, None, None)
    place = known.waiting(0.0)[0]
    slices = [DeviceReading(index=0, uuid=f"MIG-{n}", parent="GPU-0", processes={n: GB}) for n in (1, 2)]
    known.take(place, slices, lists=True, now=1.0, due=2.0)
    bare = [replace(each, processes=None) for each in slices]
    known.take(place, [bare[0].emptied(GpuFault.GPU_LOST), bare[1]], lists=False, now=2.0, due=3.0)
    assert [d.processes for d in known.reading(2.0).devices] == [None, {2: GB}]
    known.take(place, bare, lists=False, now=3.0, due=4.0)
    assert [d.processes for d in known.reading(3.0).devices] == [None, {2: GB}]


@pytest.mark.parametrize("device", ["max 0 0", "0 0 0", f"{GB} 0 {2 * GB}"], ids=["sentinel", "nothing", "too_much"])
def test_an_amount_that_cannot_be_is_refused(driver: Driver, start: Open, device: str) -> None:
    """Broken devices answer such numbers with success."""
    driver.set(f"device 0 {device}\n")
    read = read_anew(start())[0]
    assert (read.total_bytes, read.used_bytes, read.fault) == (None, None, GpuFault.IMPLAUSIBLE)


def test_a_process_cannot_use_more_than_its_device_has(driver: Driver, start: Open) -> None:
    """Some drivers shift the columns of the list. Nor can it by the sum of what two entries say."""
    reader = start()
    for entries in (f"process 0 7001 {2 * GB}\n", 2 * f"process 0 7001 {GB}\n"):
        driver.set(f"device 0 {GB} 0 {GB}\n{entries}process 0 7002 5\n")
        read = read_anew(reader)[0]
        assert (read.processes, read.fault) == ({7001: None, 7002: 5}, GpuFault.IMPLAUSIBLE)


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        ("return nvmlInitWithFlags 9\n", GpuFault.NO_DRIVER),
        ("return nvmlInitWithFlags 18\n", GpuFault.VERSION_MISMATCH),
        ("return nvmlDeviceGetCount_v2 999\n", GpuFault.FAILED),
        ("", GpuFault.NO_DEVICE),
    ],
)
def test_a_machine_without_a_working_gpu_says_why_and_is_looked_at_again(
    driver: Driver, start: Open, scenario: str, why: GpuFault
) -> None:
    """The child ends meanwhile. The driver may be loaded after the daemon has started."""
    driver.set(scenario)
    reader = start()
    assert not reader.available
    assert (reader.why, reader.read().fault, reader.read().devices) == (why, why, ())
    driver.set(TWO_GPUS)
    wait_for(reader, lambda r: r.fault is None and r.devices and r.devices[0].used_bytes == 10 * GB, "the GPUs")


def test_a_machine_without_the_library_is_silent(
    tmp_path: Path, start: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The usual case on a CPU machine: nothing is printed, nothing raised."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    reader = start()
    if reader.available:
        pytest.skip("this machine has NVIDIA's own library in the system's path")
    assert reader.why in (GpuFault.NO_LIBRARY, GpuFault.NO_DRIVER)
    assert reader.read().devices == ()
    assert capfd.readouterr() == ("", "")


# --- a GPU that is lost -----------------------------------------------------------------------------------------------


def test_a_lost_gpu_hides_no_other_and_is_found_again(driver: Driver, start: Open) -> None:
    """By a new handle: the old one never works again. While it is lost it says so, whatever looking it up says."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)[0].fault is None
    driver.set(TWO_GPUS + "lost 0\n")
    for _ in range(2):  # found out by its handle, then by looking it up
        lost, other = read_anew(reader)
        assert (lost.fault, lost.uuid, lost.total_bytes, lost.processes) == (
            GpuFault.GPU_LOST,
            "GPU-stub-0",
            None,
            None,
        )
        assert (other.used_bytes, other.fault) == (20 * GB, None)
    assert not reader.lost
    assert reader.note() == "not read: GPU-stub-0 (gpu_lost)"
    driver.set(TWO_GPUS)
    assert [d.used_bytes for d in read_anew(reader)] == [10 * GB, 20 * GB]
    assert reader.note() is None


def test_a_gpu_that_is_back_is_asked_for_what_it_told_before(driver: Driver, start: Open) -> None:
    """Though by its new handle it does not tell it at first."""
    call = "nvmlDeviceGetTotalEccErrors"
    driver.set(TWO_GPUS + f"value {call}/1/0 0 3\n")
    reader = start(replace(QUICK, suspect_s=60.0))
    assert read_anew(reader)[0].figures["ecc_volatile_uncorrected"] == 3
    driver.set(TWO_GPUS + "lost 0\n")
    wait_for(reader, lambda r: r.devices[0].fault is GpuFault.GPU_LOST, "it is lost")
    driver.set(TWO_GPUS)
    wait_for(reader, lambda r: r.devices[0].figures, "it is back")
    assert read_anew(reader)[0].figures["ecc_volatile_uncorrected"] is None
    driver.set(TWO_GPUS + f"value {call}/1/0 0 3\n")
    assert read_anew(reader)[0].figures["ecc_volatile_uncorrected"] == 3
    assert len(children(driver)) == 1


def test_a_gpu_that_is_no_longer_counted_keeps_its_place(driver: Driver, start: Open) -> None:
    """NVML opened anew does not count a lost GPU, and the next one gets its index. By its UUID it is still missed."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)[1].fault is None
    driver.set(TWO_GPUS + "count 1\nlost 1\n")
    gone = wait_for(reader, lambda r: len(driver.calls("nvmlInitWithFlags")) > 1 and r.fault is None, "opened anew")
    gone = wait_for(reader, lambda r: len(r.devices) == 2 and r.devices[0].used_bytes == 10 * GB, "both are told")
    assert (gone.devices[1].uuid, gone.devices[1].fault) == ("GPU-stub-1", GpuFault.GPU_LOST)
    driver.set(TWO_GPUS)
    wait_for(reader, lambda r: [d.used_bytes for d in r.devices] == [10 * GB, 20 * GB], "it is back")


def test_each_number_is_one_gpus(driver: Driver, start: Open) -> None:
    """A GPU that moves up to the number of a lost one keeps its own until all are back: a verdict is about a number."""

    def at(index: int, uuid: str, used: int) -> str:
        return f"device {index} {80 * GB} {GB} {used}\ntext nvmlDeviceGetUUID {index} {uuid}\n"

    both = at(0, "GPU-a", 10 * GB) + at(1, "GPU-b", 20 * GB)
    driver.set(both)
    reader = start()
    assert [(d.index, d.uuid) for d in read_anew(reader)] == [(0, "GPU-a"), (1, "GPU-b")]
    driver.set(both + "lost 0\n")
    wait_for(reader, lambda r: r.devices[0].fault is GpuFault.GPU_LOST, "it is lost")
    driver.set(at(0, "GPU-b", 20 * GB))
    moved = wait_for(reader, lambda r: [d.uuid for d in r.devices] == ["GPU-b", "GPU-a"], "the other has its place")
    assert [(d.index, d.uuid, d.used_bytes) for d in moved.devices] == [(1, "GPU-b", 20 * GB), (0, "GPU-a", None)]
    driver.set(both)
    wait_for(reader, lambda r: [d.used_bytes for d in r.devices] == [10 * GB, 20 * GB], "it is back")
    assert [(d.index, d.uuid) for d in read_anew(reader)] == [(0, "GPU-a"), (1, "GPU-b")]


# --- a driver that does not answer ------------------------------------------------------------------------------------


def children(driver: Driver) -> list[int]:
    """Pids of those that opened NVML, in order."""
    return list(dict.fromkeys(call.pid for call in driver.calls("nvmlInitWithFlags")))


@pytest.mark.slow
def test_a_call_that_hangs_is_named_and_its_child_is_left_behind_once(driver: Driver, start: Open) -> None:
    """Its successor reads the other device meanwhile, and when it hangs too, it stays: whatever comes, there is no
    third. When the driver answers, the incident is over."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)[0].fault is None
    driver.set(TWO_GPUS + "hang nvmlDeviceGetMemoryInfo_v2 0\n")
    reading = wait_for(reader, lambda r: r.fault is not None, "the hang is noticed")
    assert (reading.fault, reading.call) == (GpuFault.DRIVER_UNRESPONSIVE, "nvmlDeviceGetMemoryInfo")
    assert reading.stuck_s is not None
    assert reading.stuck_s >= QUICK.deadline_s
    device = reading.devices[0]
    assert (device.fault, device.used_bytes, device.uuid) == (GpuFault.DRIVER_UNRESPONSIVE, None, "GPU-stub-0")
    assert "nvmlDeviceGetMemoryInfo has not returned" in str(reader.note())
    wait_until(lambda: len(children(driver)) == 2, "a second child")
    first, second = children(driver)
    count = len(driver.calls("nvmlDeviceGetMemoryInfo_v2", "1"))
    wait_until(lambda: len(driver.calls("nvmlDeviceGetMemoryInfo_v2", "1")) > count + 3, "the other device is read")
    assert reader.read().devices[1].used_bytes == 20 * GB
    assert not reader.available
    wait_until(lambda: second in {c.pid for c in driver.calls("nvmlDeviceGetMemoryInfo_v2", "0")}, "asked again")
    time.sleep(QUICK.deadline_s + 2.0)  # beyond the deadline and a beat: time enough to do something rash
    assert (children(driver), is_running(second)) == ([first, second], True)
    driver.set(TWO_GPUS)
    wait_for(reader, lambda r: r.fault is None and r.devices[0].used_bytes == 10 * GB, "the driver answers again")
    assert (children(driver), reader.note()) == ([first, second], None)


@pytest.mark.slow
def test_a_gpu_that_hung_and_is_no_longer_counted_is_lost(driver: Driver, start: Open) -> None:
    """No answer about it will ever come: the driver does not hang for ever in the eyes of all others."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)[1].fault is None
    driver.set(TWO_GPUS + "hang nvmlDeviceGetMemoryInfo_v2 1\ncount 1\n")
    wait_for(reader, lambda r: r.fault is GpuFault.DRIVER_UNRESPONSIVE, "the hang is noticed")
    reading = wait_for(reader, lambda r: r.fault is None, "the driver answers")
    assert [d.fault for d in reading.devices] == [None, GpuFault.GPU_LOST]
    assert reader.available
    first, _ = children(driver)
    driver.set(TWO_GPUS + "count 1\n")
    wait_until(lambda: not is_running(first), "its child may end")


@pytest.mark.slow
def test_a_hang_while_nvml_is_opened_delays_nobody_for_long(driver: Driver, start: Open) -> None:
    """No first burst waits longer than it may, and reading never waits."""
    driver.set(TWO_GPUS + "hang nvmlInitWithFlags\n")
    reader = start(Rhythm(memory_s=0.05, lists_s=0.15, open_deadline_s=0.5, ready_s=30.0))
    began = time.monotonic()
    reader.read()
    assert time.monotonic() - began < 2.0
    with reader.burst(None):
        assert time.monotonic() - began < 10.0  # and not ready_s: the hang is known by then
    assert (reader.why, reader.read().call) == (GpuFault.DRIVER_UNRESPONSIVE, "nvmlInit")
    driver.set(TWO_GPUS)
    wait_for(reader, lambda r: r.fault is None and r.devices and r.devices[0].used_bytes, "it is opened after all")


@pytest.mark.slow
def test_a_child_that_does_not_end_is_left_alone(driver: Driver, start: Open) -> None:
    """A stopped process stands for one in state D: it says nothing, heeds no SIGTERM and no end of its pipe, and only
    SIGKILL would end it. It gets none, not even when the daemon ends."""
    driver.set(TWO_GPUS)
    reader = start(Rhythm(memory_s=0.05, silent_s=2.0))
    assert read_anew(reader)
    [pid] = children(driver)
    os.kill(pid, signal.SIGSTOP)
    try:
        reading = wait_for(reader, lambda r: r.fault is not None, "the silence is noticed")
        assert (reading.fault, reading.call) == (GpuFault.DRIVER_UNRESPONSIVE, "the whole NVML process")
        wait_for(reader, lambda r: r.fault is None and r.devices[0].used_bytes, "another child answers")
        reader.close()
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_running(pid), "it ends by the end of its pipe")
    reader.close()


def test_a_daemon_that_was_stopped_blames_nobody(driver: Driver, start: Open) -> None:
    """As with all of its container: the child was not silent, nobody listened."""
    driver.set(TWO_GPUS)
    stopped_s, looks = 0.0, 0

    def monotonic() -> float:
        nonlocal looks
        looks += 1
        return time.monotonic() + stopped_s

    reader = start(monotonic=monotonic)
    assert read_anew(reader)[0].fault is None
    [child] = children(driver)
    os.kill(child, signal.SIGSTOP)
    stopped_s, looks = 100.0, 0
    wait_until(lambda: looks > 20, "the thread has looked up several times")
    os.kill(child, signal.SIGCONT)
    wait_for(reader, lambda r: r.fault is None and r.devices[0].fault is None, "it is read on")
    assert children(driver) == [child]


def test_a_child_that_dies_is_started_again(driver: Driver, start: Open) -> None:
    """It was its own end, so this is no replacement."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)
    for _ in range(2):
        pid = children(driver)[-1]
        os.kill(pid, signal.SIGKILL)
        wait_for(reader, lambda r: r.fault is GpuFault.FAILED and r.devices[0].used_bytes is None, "it is missed")
        wait_for(reader, lambda r: r.fault is None and r.devices[0].used_bytes == 10 * GB, "another one reads")
        assert pid != children(driver)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("hang", ["", "hang nvmlDeviceGetMemoryInfo_v2\n"], ids=["idle", "in_a_call"])
def test_the_child_ends_when_the_daemon_is_killed(driver: Driver, hang: str) -> None:
    """But not in the middle of a call, whatever signal a service that is stopped sends to all."""
    driver.set(TWO_GPUS + hang)
    script = "import time; from probes.gpu.reader import GpuReader; GpuReader().read(); time.sleep(60)"
    daemon = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    wait_until(lambda: driver.calls("nvmlDeviceGetMemoryInfo_v2"), "the child reads")
    daemon.kill()
    daemon.wait(10)
    [pid] = children(driver)
    if hang:
        os.kill(pid, signal.SIGTERM)
        time.sleep(4.0)  # longer than it ever waited for a call before it gave up
        assert is_running(pid)
        driver.set(TWO_GPUS)
    wait_until(lambda: not is_running(pid), "it ends")


def test_closing_ends_the_child(driver: Driver, start: Open) -> None:
    """At once, and twice does no harm."""
    driver.set(TWO_GPUS)
    reader = start()
    assert read_anew(reader)
    reader.close()
    reader.close()
    assert not is_running(children(driver)[0])


# --- what the child is ------------------------------------------------------------------------------------------------


def test_the_child_is_small_and_gets_no_secrets(
    driver: Driver, start: Open, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No libraries of the daemon's; what it may say goes to nobody's standard output."""
    monkeypatch.setenv("HOOK_SECRET", "hush")
    driver.set(TWO_GPUS)
    reader = start(withheld=frozenset({"HOOK_SECRET"}))
    assert read_anew(reader)
    [pid] = children(driver)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"NVML_STUB_STATE" in environment
    assert b"HOOK_SECRET" not in environment
    loaded = Path(f"/proc/{pid}/maps").read_text()
    assert "libnvidia-ml" in loaded
    assert not any(heavy in loaded for heavy in ("numpy", "sqlalchemy", "pydantic"))
    resident = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert int(resident.split()[1]) < 32_000  # kB
    reader.close()
    assert capfd.readouterr().out == ""


def test_the_daemon_itself_never_loads_pynvml() -> None:
    """All that it imports stays without it, and a reader that nobody asks starts nothing."""
    script = (
        "import sys, watchdog.daemon, probes.gpu.reader as r; r.GpuReader().close(); sys.exit('pynvml' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


# --- Xids -------------------------------------------------------------------------------------------------------------


def test_each_xid_is_an_event_of_its_own(driver: Driver, start: Open) -> None:
    """A repeat of the same number counts; a lost device's last word is told with its UUID; before the start is over."""
    driver.set(TWO_GPUS + "xid 1 0 13\n")
    reader = start()
    watched = wait_for(reader, lambda r: r.xid_watched, "they are waited for")
    assert watched.xid_watched == {"GPU-stub-0", "GPU-stub-1"}
    began = time.time()
    driver.set(TWO_GPUS + "xid 1 0 13\nxid 2 1 31\nxid 3 1 31\nxid 4 0 79\nlost 0\n")
    reading = wait_for(reader, lambda r: len(r.xids) == 3, "three events")
    assert [(x.device, x.xid) for x in reading.xids] == [("GPU-stub-1", 31), ("GPU-stub-1", 31), ("GPU-stub-0", 79)]
    assert all(began - 1 <= x.at <= time.time() for x in reading.xids)
    assert reading.xid_counts == {("GPU-stub-1", 31): 2, ("GPU-stub-0", 79): 1}


def test_a_wait_for_xids_that_fails_is_said(driver: Driver, start: Open) -> None:
    """Until they are registered for again nobody waits, and no news is none."""
    driver.set(TWO_GPUS)
    reader = start()
    wait_for(reader, lambda r: r.xid_watched, "they are waited for")
    driver.set(TWO_GPUS + "return nvmlEventSetWait_v2 999\n")
    wait_for(reader, lambda r: not r.xid_watched, "they are not waited for")


def test_devices_that_tell_no_xids_are_said(driver: Driver, start: Open) -> None:
    """No news from them is no good news."""
    driver.set(TWO_GPUS + "value nvmlDeviceGetSupportedEventTypes 0 0\n")
    reading = wait_for(start(), lambda r: r.xid_watched, "the other is waited for")
    assert reading.xid_watched == {"GPU-stub-1"}


@pytest.mark.parametrize(
    ("scenario", "ends"),
    [
        ("value nvmlDeviceGetSupportedEventTypes * 0\n", True),
        ("return nvmlDeviceGetSupportedEventTypes 3\n", True),
        ("return nvmlDeviceGetSupportedEventTypes 999 0\nvalue nvmlDeviceGetSupportedEventTypes 1 0\n", False),
    ],
    ids=["no such event", "not supported", "one may yet"],
)
def test_where_no_device_tells_xids_nobody_is_asked_again(driver: Driver, scenario: str, *, ends: bool) -> None:
    """It would only disturb what canaries measure there."""
    driver.set(TWO_GPUS + scenario)
    script = (
        "from probes.gpu.nvml import Nvml; from probes.gpu.xid import XidWatch\n"
        "watch = XidWatch(Nvml.open(), 2, may_register=int, on_watched=print, on_xid=print, again_s=0.01)\n"
        "watch.start(); watch.join(1.0); print(watch.is_alive())\n"
    )
    argv = [sys.executable, "-c", script]
    said = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=30).stdout.split("\n")
    assert said[-2] == str(not ends)
    assert (len(driver.calls("nvmlEventSetCreate")) == 1) is ends


@pytest.mark.slow
def test_a_wait_for_xids_that_hangs_is_no_silence_of_the_gpus(driver: Driver, start: Open) -> None:
    """They are read on, by the same child; but nobody may believe that there are no Xids."""
    driver.set(TWO_GPUS)
    reader = start()
    wait_for(reader, lambda r: r.xid_watched, "they are waited for")
    driver.set(TWO_GPUS + "hang nvmlEventSetWait_v2\n")
    reading = wait_for(reader, lambda r: not r.xid_watched, "they are not waited for")
    assert reading.fault is None
    assert [d.used_bytes for d in read_anew(reader)] == [10 * GB, 20 * GB]
    assert len(children(driver)) == 1


# --- canaries ---------------------------------------------------------------------------------------------------------


def test_nothing_is_read_during_a_burst_on_the_device(driver: Driver, start: Open) -> None:
    """Of the other device everything is, and afterwards of this one too."""
    driver.set(TWO_GPUS)
    reader = start(Rhythm(memory_s=0.02, lists_s=0.05, patience_s=20.0))
    read_anew(reader)
    with reader.burst(frozenset({"GPU-stub-0"})):
        began = time.monotonic()
        wait_until(lambda: len([c for c in driver.calls(device="1") if c.at_s > began]) > 10, "the other is read")
        ended = time.monotonic()
    assert not [c for c in driver.calls(device="0") if began <= c.at_s <= ended]
    wait_until(lambda: [c for c in driver.calls(device="0") if c.at_s > ended], "it is read again")


def hang_a_reading(driver: Driver) -> None:
    """From now on; until one hangs."""
    before = sum(call.hangs for call in driver.calls())
    driver.set(TWO_GPUS + "hang nvmlDeviceGetMemoryInfo_v2\n")
    wait_until(lambda: sum(call.hangs for call in driver.calls()) > before, "a reading is under way")


def test_a_burst_waits_for_a_reading_that_is_under_way(driver: Driver, start: Open) -> None:
    """But not for one that hangs."""
    driver.set(TWO_GPUS)
    reader = start(Rhythm(memory_s=0.05, lists_s=0.05, deadline_s=20.0))
    read_anew(reader)
    hang_a_reading(driver)
    began = time.monotonic()
    threading.Timer(0.15, driver.set, [TWO_GPUS]).start()
    with reader.burst(None):
        waited_s = time.monotonic() - began
    assert waited_s > 0.1
    hang_a_reading(driver)
    began = time.monotonic()
    with reader.burst(None):
        assert time.monotonic() - began < 2.0
    driver.set(TWO_GPUS)


def test_a_canary_that_hangs_starves_no_reader(driver: Driver, start: Open) -> None:
    """A reading waits as long as it may, and comes then."""
    driver.set(TWO_GPUS)
    reader = start()
    read_anew(reader)
    with reader.burst(None):
        began = time.monotonic()
        wait_until(lambda: [c for c in driver.calls(device="0") if c.at_s > began + 0.1], "it is read all the same")
        assert time.monotonic() - began > QUICK.patience_s / 2


# --- a real one -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_real_gpu_is_read() -> None:
    """Total, used and the versions of a device that is really there."""
    reader = GpuReader()
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
        with suppress(OSError):
            reader.close()
