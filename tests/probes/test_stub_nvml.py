"""The stub library itself, driven by the real pynvml: what a scenario says is what a program sees."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from nvml_stage import OLD_DRIVER, Driver, build_stub, driver, library

__all__ = ["driver", "library"]

ONE_GPU = "device 0 1000 10 100\n"
PROLOGUE = """
import json, sys, pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(0)
def code(call, *args):
    try:
        return call(*args)
    except n.NVMLError as error:
        return -error.value
def show(*answers):
    print(json.dumps(answers), flush=True)
"""


def ask(script: str) -> Any:
    """What the script shows."""
    argv = [sys.executable, "-c", PROLOGUE + script]
    return json.loads(subprocess.run(argv, check=True, timeout=30, stdout=subprocess.PIPE, text=True).stdout)


def start(script: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", PROLOGUE + script]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_numbers_may_change_with_every_call_and_with_time(driver: Driver) -> None:
    """A series ends in its last value; another grows by the second."""
    driver.set(
        ONE_GPU.replace("100\n", "100,200,max\n")
        + "value nvmlDeviceGetPowerUsage 0 5+1000/s\nvalue nvmlDeviceGetPcieReplayCounter 0 1,2/s\n"
    )
    seen, power, counter = ask("""
import time
used = [n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).used for _ in range(4)]
first, begun = n.nvmlDeviceGetPowerUsage(h), n.nvmlDeviceGetPcieReplayCounter(h)
time.sleep(1.1)
show(used, [first, n.nvmlDeviceGetPowerUsage(h)], [begun, n.nvmlDeviceGetPcieReplayCounter(h)])""")
    assert seen == [100, 200, 2**64 - 1, 2**64 - 1]
    assert 5 <= power[0] < power[1] - 1000
    assert counter == [1, 2]


def test_getters_answer_what_a_line_says_and_else_that_they_are_not_supported(driver: Driver) -> None:
    """By device, by argument, several at once, strings, and field values with a code of their own."""
    driver.set(
        "device 0 1000 10 100\ndevice 1 1000 10 100\n"
        "value nvmlDeviceGetClockInfo/1 0 1980\nvalue nvmlDeviceGetRemappedRows 0 1 2 0 1\n"
        "value nvmlDeviceGetTotalEccErrors/1/0 0 7\nvalue nvmlDeviceGetCurrentClocksEventReasons * 0x48\n"
        "value nvmlDeviceGetTemperatureV/0 0 61\nvalue nvmlDeviceGetMarginTemperature 0 -2\n"
        "value nvmlDeviceGetRetiredPages/0 0 4096 8192\nvalue nvmlDeviceGetUtilizationRates 0 97 40\n"
        "value nvmlDeviceGetSramEccErrorStatus 0 0 0 0 0 0 0 0 0 0 0 0 1\n"
        "text nvmlDeviceGetName 0 NVIDIA H200 NVL\nfield 0 230 1\nfield 0 194 9 999\n"
    )
    found = ask("""
other = n.nvmlDeviceGetHandleByIndex(1)
sram = n.c_nvmlEccSramErrorStatus_v1_t()
n.nvmlDeviceGetSramEccErrorStatus(h, n.byref(sram))
fields = n.nvmlDeviceGetFieldValues(h, [230, 194, 5])
show(
    code(n.nvmlDeviceGetClockInfo, h, 1), code(n.nvmlDeviceGetClockInfo, h, 0),
    code(n.nvmlDeviceGetClockInfo, other, 1),
    n.nvmlDeviceGetRemappedRows(h), n.nvmlDeviceGetTotalEccErrors(h, 1, 0),
    n.nvmlDeviceGetCurrentClocksEventReasons(other),
    n.nvmlDeviceGetTemperatureV(h, 0), n.nvmlDeviceGetMarginTemperature(h), n.nvmlDeviceGetRetiredPages(h, 0),
    n.nvmlDeviceGetUtilizationRates(h).gpu, sram.bThresholdExceeded,
    n.nvmlDeviceGetName(h), n.nvmlDeviceGetName(other), [[f.value.ullVal, f.nvmlReturn] for f in fields])""")
    assert found[:3] == [1980, -3, -3]
    assert found[3:6] == [[1, 2, 0, 1], 7, 0x48]
    assert found[6:11] == [61, -2, [4096, 8192], 97, 1]
    assert found[11:] == ["NVIDIA H200 NVL", "Stub GPU 1", [[1, 0], [9, 999], [0, 3]]]


def test_a_lost_device_is_found_again_only_by_a_new_handle(driver: Driver) -> None:
    """And other devices do not notice."""
    both = "device 0 1000 10 100\ndevice 1 1000 10 100\n"
    driver.set(both)
    child = start("""
other = n.nvmlDeviceGetHandleByIndex(1)
for line in sys.stdin:
    memory = lambda handle: n.nvmlDeviceGetMemoryInfo(handle).total
    show(code(memory, h), code(memory, other), code(lambda: memory(n.nvmlDeviceGetHandleByIndex(0))))""")
    assert child.stdin is not None
    assert child.stdout is not None
    seen = []
    for scenario in (both, both + "lost 0\n", both):
        driver.set(scenario)
        child.stdin.write("look\n")
        child.stdin.flush()
        seen.append(json.loads(child.stdout.readline()))
    child.communicate(timeout=20)
    assert seen == [[1000, 1000, 1000], [-15, 1000, -999], [-15, 1000, 1000]]


def test_a_call_hangs_until_the_scenario_lets_it_go(driver: Driver) -> None:
    """Other threads and other devices go on meanwhile."""
    driver.set(ONE_GPU + "hang nvmlDeviceGetMemoryInfo 0\n")
    child = start("""
import threading
threading.Thread(target=lambda: show("memory", n.nvmlDeviceGetMemoryInfo(h).total)).start()
show("name", n.nvmlDeviceGetName(h))""")
    assert child.stdout is not None
    assert json.loads(child.stdout.readline()) == ["name", "Stub GPU 0"]
    while not driver.calls("nvmlDeviceGetMemoryInfo"):
        time.sleep(0.01)
    driver.set(ONE_GPU)
    assert json.loads(child.stdout.readline()) == ["memory", 1000]
    child.communicate(timeout=20)


def test_each_event_is_delivered_once_and_an_idle_wait_times_out(driver: Driver) -> None:
    """What happened before the device was registered is not delivered, and a hundred milliseconds last that long."""
    driver.set(ONE_GPU + "xid 1 0 13\n")
    child = start("""
import time
events = n.nvmlEventSetCreate()
n.nvmlDeviceRegisterEvents(h, n.nvmlEventTypeXidCriticalError, events)
began = time.monotonic()
idle = code(n.nvmlEventSetWait_v2, events, 100)
show(idle, time.monotonic() - began)
event = n.nvmlEventSetWait_v2(events, 20000)
show(event.eventType, event.eventData, n.nvmlDeviceGetUUID(event.device), code(n.nvmlEventSetWait_v2, events, 0))""")
    assert child.stdout is not None
    idle, waited_s = json.loads(child.stdout.readline())
    assert (idle, waited_s >= 0.1) == (-10, True)
    threading.Timer(0.1, driver.set, [ONE_GPU + "xid 1 0 13\nxid 2 0 79\n"]).start()
    assert json.loads(child.stdout.readline()) == [8, 79, "GPU-stub-0", -10]
    child.communicate(timeout=20)


def test_mig_devices_have_memory_and_processes_of_their_own(driver: Driver) -> None:
    """Empty slots are not found; the whole GPU lists everybody's processes, with their instances."""
    driver.set(
        ONE_GPU
        + "mig 0 1\ninstance 0.0 1 0 400 5 50\ninstance 0.2 3 0 500 5 60\nprocess 0.0 71 40\nprocess 0.2 72 50\n"
    )
    found = ask("""
slots = [code(n.nvmlDeviceGetMigDeviceHandleByIndex, h, i) for i in range(n.nvmlDeviceGetMaxMigDeviceCount(h))]
handles = [s for s in slots if not isinstance(s, int)]
listed = lambda handle: [[p.pid, p.usedGpuMemory, p.gpuInstanceId]
                         for p in n.nvmlDeviceGetComputeRunningProcesses_v3(handle)]
show(n.nvmlDeviceGetMigMode(h), [s for s in slots if isinstance(s, int)],
     [[n.nvmlDeviceGetUUID(x), n.nvmlDeviceGetMemoryInfo(x).total, listed(x)] for x in handles], listed(h),
     n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handles[1])))""")
    assert found[:2] == [[1, 1], [-6] * 5]
    assert found[2] == [["MIG-stub-0.0", 400, [[71, 40, 1]]], ["MIG-stub-0.2", 500, [[72, 50, 3]]]]
    assert found[3:] == [[[71, 40, 1], [72, 50, 3]], "GPU-stub-0"]


def test_functions_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pynvml finds them missing, in its two ways."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "old", *OLD_DRIVER))
    driver.set(ONE_GPU + "return nvmlDeviceGetUUID 4 0\n")
    found = ask("""
try:
    n.nvmlDeviceGetComputeRunningProcesses(h)
except n.NVMLLibraryMismatchError:
    show(code(n.nvmlDeviceGetMemoryInfo, h, n.nvmlMemory_v2), n.nvmlDeviceGetMemoryInfo(h).used,
         code(n.nvmlDeviceGetUUID, h))""")
    assert found == [-13, 110, -4]
