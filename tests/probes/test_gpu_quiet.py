"""What concerns all GPUs, to open NVML and to register for Xids, keeps clear of canaries as readings do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from builders import wait_until
from nvml_stage import Call, Driver, driver, library

from probes.gpu.helper import Helper
from probes.gpu.reader import GpuReader
from probes.gpu.rhythm import Rhythm

__all__ = ["driver", "library"]

TWO_GPUS = "device 0 1000 10 100\ndevice 1 1000 10 100\n"
LOST = TWO_GPUS + "lost 0\n"
INIT, REGISTER = "nvmlInitWithFlags", "nvmlDeviceRegisterEvents"
OTHER = frozenset({"GPU-stub-1"})

Open = Callable[[Rhythm], GpuReader]


@pytest.fixture
def start(driver: Driver) -> Iterator[Open]:
    driver.set(TWO_GPUS)
    readers: list[GpuReader] = []

    def begin(rhythm: Rhythm) -> GpuReader:
        readers.append(GpuReader(rhythm=rhythm))
        return readers[-1]

    yield begin
    for reader in readers:
        reader.close()


def settled(reader: GpuReader, driver: Driver) -> GpuReader:
    """Opened, read, and registered for Xids."""
    wait_until(lambda: len(reader.read().xid_watched) == 2, "Xids are waited for")
    assert len(driver.calls(INIT)) == 1
    return reader


def looks(driver: Driver) -> int:
    """How often a GPU was looked up, as a lost one is at each reading."""
    return len(driver.calls("nvmlDeviceGetHandleByIndex_v2"))


def test_a_lost_gpu_is_looked_for_anew_in_no_burst_on_another(driver: Driver, start: Open) -> None:
    """The GPU that is measured is left alone until the burst is over: NVML is not opened, no Xid registered for."""
    reader = settled(start(Rhythm(memory_s=0.02, lists_s=0.05, suspect_s=0.3, patience_s=30.0)), driver)
    with reader.burst(OTHER):
        began = time.monotonic()
        driver.set(LOST)
        before = looks(driver)
        wait_until(
            lambda: looks(driver) > before + 5 and time.monotonic() > began + 1.0,
            "the lost GPU is looked up again and again, for longer than until it is looked for anew",
        )
        ended = time.monotonic()
    assert [c for c in driver.calls(device="1") if began <= c.at_s <= ended] == []
    assert [c for c in driver.calls(INIT) if began <= c.at_s <= ended] == []
    wait_until(lambda: len(driver.calls(INIT)) > 1, "NVML is opened anew")
    wait_until(lambda: driver.calls(REGISTER, "1")[-1].at_s > ended, "and Xids are registered for")
    driver.set(TWO_GPUS)
    wait_until(lambda: [d.fault for d in reader.read().devices] == [None, None], "the GPU is found")


def test_a_canary_that_hangs_keeps_no_gpu_lost(driver: Driver, start: Open) -> None:
    """NVML is opened anew after the patience that readings have."""
    reader = settled(start(Rhythm(memory_s=0.02, lists_s=0.05, suspect_s=0.2, patience_s=0.5)), driver)
    with reader.burst(OTHER):
        driver.set(LOST)
        wait_until(lambda: len(driver.calls(INIT)) > 1, "NVML is opened anew all the same")
        wait_until(
            lambda: driver.calls(REGISTER, "1")[-1].at_s > driver.calls(INIT)[-1].at_s, "and Xids registered for"
        )


def test_a_burst_waits_for_nvml_to_be_opened(driver: Driver, start: Open) -> None:
    """As for a reading: no longer than half a second."""
    reader = settled(start(Rhythm(memory_s=0.02, lists_s=0.05, suspect_s=0.2, open_deadline_s=60.0)), driver)
    for release in (True, False):
        before = len(driver.calls(INIT))
        driver.set(LOST + f"hang {INIT}\n")
        wait_until(lambda before=before: driver.calls(INIT)[before:], "NVML is being opened")
        began = time.monotonic()
        if release:
            threading.Timer(0.15, driver.set, [TWO_GPUS]).start()
        with reader.burst(OTHER):
            waited_s = time.monotonic() - began
        assert waited_s > 0.1
        assert release or waited_s < 5.0
        driver.set(TWO_GPUS)
        wait_until(lambda: len(reader.read().xid_watched) == 2, "all is well again")


def test_a_burst_waits_while_xids_are_registered_for(driver: Driver, start: Open) -> None:
    """And a registration that hangs keeps no reading waiting for longer than a call may take."""
    driver.set(TWO_GPUS + f"hang {REGISTER}\n")
    reader = start(Rhythm(memory_s=0.05, lists_s=0.1, deadline_s=3.0))
    wait_until(lambda: reader.read() and [c for c in driver.calls(REGISTER) if c.hangs], "a registration hangs")
    began = time.monotonic()
    with reader.burst(OTHER):
        assert time.monotonic() - began > 0.1
    count = len(driver.calls("nvmlDeviceGetMemoryInfo_v2"))
    wait_until(lambda: len(driver.calls("nvmlDeviceGetMemoryInfo_v2")) > count + 4, "the GPUs are read on")
    assert reader.read().fault is None
    driver.set(TWO_GPUS)
    wait_until(lambda: len(reader.read().xid_watched) == 2, "it has returned")


def test_the_child_registers_for_xids_when_it_is_told_to(driver: Driver) -> None:
    """Not by itself: only the daemon knows of its canaries."""
    driver.set(TWO_GPUS)
    helper = Helper()
    said: list[str] = []

    def hears(kind: str) -> bool:
        said.extend(each["kind"] for each in helper.hear(0.1))
        return kind in said

    try:
        wait_until(lambda: hears("registering"), "it would")
        helper.ask("read", index=1, processes=True, health=True)
        wait_until(lambda: hears("reading"), "it reads meanwhile")
        assert not driver.calls("nvmlEventSetCreate")
        assert "watched" not in said
        helper.ask("register")
        wait_until(lambda: hears("watched"), "it does")
        registered: list[Call] = driver.calls(REGISTER)
        assert [call.device for call in registered] == ["0", "1"]
    finally:
        helper.let_go()
        helper.wait(10.0)
