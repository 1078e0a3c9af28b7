"""The figures of a device's health, read by the real pynvml from the stub library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nvml_stage import Driver, build_stub

from probes.gpu import health
from probes.gpu.nvml import Nvml

ROOT = Path(__file__).parents[2]
ONE_GPU = "device 0 1000 10 100\n"
HEALTHY = (
    ONE_GPU
    + """
text nvmlDeviceGetVbiosVersion 0 96.00.A5.00.01
text nvmlDeviceGetGspFirmwareVersion 0 580.65.06
field 0 230 0
field 0 74 5000000000
field 0 75 2500000000
field 0 269 1500000000
field 0 270 0
field 0 271 0
field 0 194 -2
field 0 91 2
field 0 165 1
field 0 38 0
field 0 45 3
field 0 52 7
field 0 59 1
value nvmlDeviceGetTotalEccErrors/1/0 0 0
value nvmlDeviceGetTotalEccErrors/0/0 0 4
value nvmlDeviceGetTotalEccErrors/1/1 0 1
value nvmlDeviceGetTotalEccErrors/0/1 0 9
value nvmlDeviceGetSramEccErrorStatus 0 0 0 0 0 0 0 0 0 0 0 0 0
value nvmlDeviceGetRemappedRows 0 2 1 0 0
value nvmlDeviceGetRepairStatus 0 0 0
value nvmlDeviceGetCurrentClocksEventReasons 0 0x4
value nvmlDeviceGetTemperatureV/0 0 61
value nvmlDeviceGetMarginTemperature 0 24
value nvmlDeviceGetTemperatureThreshold/1 0 90
value nvmlDeviceGetPowerUsage 0 412500
value nvmlDeviceGetEnforcedPowerLimit 0 700000
value nvmlDeviceGetPowerManagementDefaultLimit 0 700000
value nvmlDeviceGetClockInfo/1 0 1755
value nvmlDeviceGetClockInfo/2 0 2619
value nvmlDeviceGetMaxClockInfo/1 0 1980
value nvmlDeviceGetMaxClockInfo/2 0 2619
value nvmlDeviceGetPerformanceState 0 0
value nvmlDeviceGetCurrPcieLinkWidth 0 16
value nvmlDeviceGetMaxPcieLinkWidth 0 16
value nvmlDeviceGetCurrPcieLinkGeneration 0 5
value nvmlDeviceGetMaxPcieLinkGeneration 0 5
value nvmlDeviceGetPcieReplayCounter 0 12
value nvmlDeviceGetUtilizationRates 0 87 40
"""
)
SCRIPT = """
import json, sys
from probes.gpu.health import read_health
from probes.gpu.nvml import Nvml
nvml, memo, handles = Nvml.open(), {}, {}
handle, why = nvml.call("nvmlDeviceGetHandleByIndex", 0)
for line in sys.stdin:
    print(json.dumps(dict(read_health(nvml, handle, memo))), flush=True)
"""
BLANK_64, BLANK_32 = 2**63 - 16, 2**31 - 16


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver(tmp_path)
    driver.use(monkeypatch, library)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return driver


def read(times: int = 1) -> list[dict[str, Any]]:
    """So many readings by one process."""
    argv = [sys.executable, "-W", "error", "-c", SCRIPT]
    done = subprocess.run(argv, input="\n" * times, check=True, timeout=30, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_each(driver: Driver, *scenarios: str) -> list[dict[str, Any]]:
    """A reading of each of these, by one process with one handle."""
    argv = [sys.executable, "-W", "error", "-c", SCRIPT]
    found = []
    driver.set(scenarios[0])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for scenario in scenarios:
            driver.set(scenario)
            child.stdin.write("\n")
            child.stdin.flush()
            found.append(json.loads(child.stdout.readline()))
        child.stdin.close()
    return found


def test_every_figure_of_a_healthy_device(driver: Driver) -> None:
    """Each is what the driver says, in the unit of its name."""
    driver.set(HEALTHY)
    (figures,) = read()
    assert figures == pytest.approx(
        {
            "recovery_action": 0,
            "power_cap_s": 5.0,
            "thermal_s": 2.5,
            "sw_thermal_s": 1.5,
            "hw_thermal_s": 0,
            "power_brake_s": 0,
            "slowdown_offset_c": -2,
            "nvlinks": 2,
            "nvlinks_up": 2,
            "nvlink_errors": 8,
            "nvlink_crc_errors": 3,
            "nvlink_crc_flit_errors": 0,
            "nvlink_crc_data_errors": 3,
            "nvlink_replays": 7,
            "nvlink_recoveries": 1,
            "pages_retired_single_bit": None,
            "pages_retired_double_bit": None,
            "pages_retirement_pending": None,
            "ecc_volatile_uncorrected": 0,
            "ecc_volatile_corrected": 4,
            "ecc_aggregate_uncorrected": 1,
            "ecc_aggregate_corrected": 9,
            "memory_unrepairable": None,
            "sram_threshold_exceeded": 0,
            "rows_remapped_corrected": 2,
            "rows_remapped_uncorrected": 1,
            "row_remap_pending": 0,
            "row_remap_failed": 0,
            "repair_pending": 0,
            "clock_event_reasons": 4,
            "temperature_c": 61,
            "temperature_margin_c": 24,
            "slowdown_c": 90,
            "power_w": 412.5,
            "power_limit_w": 700,
            "power_default_limit_w": 700,
            "sm_clock_mhz": 1755,
            "sm_clock_max_mhz": 1980,
            "memory_clock_mhz": 2619,
            "memory_clock_max_mhz": 2619,
            "performance_state": 0,
            "pcie_width": 16,
            "pcie_width_max": 16,
            "pcie_generation": 5,
            "pcie_generation_max": 5,
            "pcie_replays": 12,
            "utilisation_percent": 87,
            "driver_version": "580.65.06",
            "cuda_version": "13.1",
            "nvml_version": figures["nvml_version"],
            "vbios_version": "96.00.A5.00.01",
            "gsp_version": "580.65.06",
            "fault": None,
        }
    )
    assert set(figures) == {*health.NUMBERS, *health.TEXTS}


def test_what_a_device_does_not_have_is_none_and_no_fault(driver: Driver) -> None:
    """A consumer card tells next to nothing; nothing of it becomes a zero."""
    driver.set(ONE_GPU)
    (figures,) = read()
    assert {name for name in health.NUMBERS if figures[name] is not None} == set()
    assert figures["fault"] is None


def test_what_is_not_supported_is_asked_once(driver: Driver) -> None:
    """Each call takes the driver's lock: the second reading makes only the calls that the first could use."""
    driver.set(ONE_GPU + "value nvmlDeviceGetPowerUsage 0 100000\n")
    first, second = read(2)
    assert first == second
    asked = [call.function for call in driver.calls()]
    assert asked.count("nvmlDeviceGetPowerUsage") == 2
    assert asked.count("nvmlDeviceGetTemperatureV") == asked.count("nvmlDeviceGetSramEccErrorStatus") == 1


@pytest.mark.parametrize("code", [3, 4, 26])
@pytest.mark.parametrize(
    ("call", "figure"),
    [
        ("nvmlDeviceGetTotalEccErrors", "ecc_volatile_uncorrected"),
        ("nvmlDeviceGetSramEccErrorStatus", "sram_threshold_exceeded"),
        ("nvmlDeviceGetRemappedRows", "row_remap_pending"),
    ],
)
def test_what_answered_once_is_asked_on(driver: Driver, call: str, figure: str, code: int) -> None:
    """A driver that takes back what it supports, or permits, may give it again."""
    figures = read_each(driver, HEALTHY, HEALTHY + f"return {call} {code}\n", HEALTHY)
    assert [(each[figure], each["fault"]) for each in figures] == [(0, None), (None, None), (0, None)]


def test_what_cannot_change_is_asked_once(driver: Driver) -> None:
    """Versions and maxima."""
    driver.set(HEALTHY)
    read(3)
    asked = [call.function for call in driver.calls()]
    assert asked.count("nvmlDeviceGetVbiosVersion") == asked.count("nvmlDeviceGetMaxPcieLinkWidth") == 1
    assert asked.count("nvmlDeviceGetCurrPcieLinkWidth") == 3


@pytest.mark.parametrize("sentinel", ["max", str(BLANK_64), str(2**63)])
@pytest.mark.parametrize(
    ("line", "figure"),
    [
        ("field 0 230", "recovery_action"),
        ("field 0 270", "hw_thermal_s"),
        ("value nvmlDeviceGetTotalEccErrors/1/0 0", "ecc_volatile_uncorrected"),
        ("value nvmlDeviceGetCurrentClocksEventReasons 0", "clock_event_reasons"),
    ],
)
def test_sentinels_of_64_bits_are_no_figures(driver: Driver, line: str, figure: str, sentinel: str) -> None:
    """A broken device answers them without an error."""
    driver.set(ONE_GPU + f"{line} {sentinel}\n")
    (figures,) = read()
    assert (figures[figure], figures["fault"]) == (None, "implausible")


@pytest.mark.parametrize(
    ("line", "figure", "refused"),
    [
        ("value nvmlDeviceGetPcieReplayCounter 0", "pcie_replays", BLANK_32),
        ("value nvmlDeviceGetPcieReplayCounter 0", "pcie_replays", 2**32 - 1),
        ("value nvmlDeviceGetMarginTemperature 0", "temperature_margin_c", 0),
        ("value nvmlDeviceGetMarginTemperature 0", "temperature_margin_c", 2**32 - 5),  # -5
        ("value nvmlDeviceGetTemperatureV/0 0", "temperature_c", 0),
        ("value nvmlDeviceGetPowerUsage 0", "power_w", 0),
        ("value nvmlDeviceGetPerformanceState 0", "performance_state", 32),  # NVML_PSTATE_UNKNOWN
        ("value nvmlDeviceGetUtilizationRates 0 101", "utilisation_percent", 0),
        ("value nvmlDeviceGetCurrPcieLinkWidth 0", "pcie_width", 0),
        ("value nvmlDeviceGetClockInfo/1 0", "sm_clock_mhz", 2**32 - 1),
    ],
)
def test_what_cannot_be_true_is_no_figure(driver: Driver, line: str, figure: str, refused: int) -> None:
    """Zeros and blanks of 32 bits; margins that are not positive, as an H100 tells them. Only blanks are faults."""
    driver.set(ONE_GPU + f"{line} {refused}\n")
    (figures,) = read()
    assert figures[figure] is None
    assert figures["fault"] == ("implausible" if refused >= BLANK_32 and "Margin" not in line else None)


@pytest.mark.parametrize(
    ("said", "offset"), [("-3", -3), (str(2**64 - 3), -3), ("0", 0), ("max", None), ("4000", None)]
)
def test_an_offset_may_be_negative(driver: Driver, said: str, offset: int | None) -> None:
    """Whatever type the driver says that it has."""
    driver.set(ONE_GPU + f"field 0 194 {said}\n")
    assert read()[0]["slowdown_offset_c"] == offset


@pytest.mark.parametrize(
    ("code", "fault"),
    [(999, "failed"), (15, "gpu_lost"), (16, "reset_required"), (3, None), (4, None), (2, None), (13, None)],
)
def test_each_field_has_a_return_code_of_its_own(driver: Driver, code: int, fault: str | None) -> None:
    """The call succeeds; a field that failed in it holds a number that means nothing, and its failure is a fault like
    that of a call. A driver that is older than the field says 2, 3 or 13."""
    driver.set(ONE_GPU + f"field 0 230 1 {code}\nfield 0 74 1000000000\n")
    (figures,) = read()
    assert (figures["recovery_action"], figures["fault"]) == (None, fault)
    assert figures["power_cap_s"] == pytest.approx(1.0)


def test_of_several_faults_the_gravest_is_named(driver: Driver) -> None:
    """That the device is lost is not hidden by what went wrong before."""
    driver.set(ONE_GPU + "value nvmlDeviceGetTotalEccErrors/1/0 0 max\nfield 0 74 0 999\nfield 0 230 0 15\n")
    assert read()[0]["fault"] == "gpu_lost"


def test_older_drivers_are_asked_by_older_names(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 535: no event reasons, no versioned temperature, no field values, no flags of a repair."""
    gone = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetFieldValues")
    repair = ("nvmlDeviceGetRepairStatus", "nvmlDeviceGetUnrepairableMemoryFlag_v1")
    driver.use(monkeypatch, build_stub(tmp_path / "old", *gone, *repair))
    driver.set(
        ONE_GPU
        + "value nvmlDeviceGetCurrentClocksThrottleReasons 0 0x40\nvalue nvmlDeviceGetTemperature/0 0 93\n"
        + "value nvmlDeviceGetPowerState 0 2\n"
    )
    (figures,) = read()
    assert (figures["clock_event_reasons"], figures["temperature_c"], figures["performance_state"]) == (0x40, 93, 2)
    assert (figures["recovery_action"], figures["repair_pending"], figures["memory_unrepairable"]) == (None, None, None)
    assert figures["fault"] is None


def test_pages_retired_before_ampere(driver: Driver) -> None:
    """By fields, which older cards have."""
    driver.set(ONE_GPU + "field 0 29 3\nfield 0 30 1\nfield 0 31 1\n")
    (figures,) = read()
    wanted = ("pages_retired_single_bit", "pages_retired_double_bit", "pages_retirement_pending")
    assert [figures[name] for name in wanted] == [3, 1, 1]


def test_links_are_asked_one_by_one_where_there_is_no_field(driver: Driver) -> None:
    """It stops at the first link that is not there; errors that are not told are None."""
    driver.set(ONE_GPU + "field 0 91 18\nvalue nvmlDeviceGetNvLinkState/0 0 1\nvalue nvmlDeviceGetNvLinkState/1 0 0\n")
    (figures,) = read()
    assert (figures["nvlinks"], figures["nvlinks_up"], figures["nvlink_errors"]) == (2, 1, None)


def test_a_link_that_cannot_be_read_is_not_down(driver: Driver) -> None:
    """The second of three tells a blank: how many are up is not known now."""
    driver.set(ONE_GPU + "field 0 91 3\nfield 0 165 1,max,1\n")
    (figures,) = read()
    assert (figures["nvlinks"], figures["nvlinks_up"], figures["fault"]) == (None, None, "implausible")


def test_errors_of_links_are_added_up_where_there_is_no_total(driver: Driver) -> None:
    """From the fourth generation on only each link tells its own: the stub's three all say the same."""
    driver.set(ONE_GPU + "field 0 91 3\nfield 0 165 1\nfield 0 161 5\nfield 0 162 1\nfield 0 163 100\n")
    (figures,) = read()
    wanted = ("nvlinks", "nvlinks_up", "nvlink_errors", "nvlink_crc_errors")
    assert [figures[name] for name in wanted] == [3, 3, 18, 300]


@pytest.mark.parametrize("recoveries", ["field 0 59 max\n", "field 0 59 0 999\n", ""])
def test_a_sum_of_counters_is_not_told_without_one_of_them(driver: Driver, recoveries: str) -> None:
    """It would fall, and rise by all of the missing one when that is back: errors that never were."""
    links = ONE_GPU + "field 0 91 2\nfield 0 165 1\nfield 0 52 7\n"
    courses = read_each(driver, *(links + one for one in ("field 0 59 40\n", recoveries, "field 0 59 40\n")))
    assert [figures["nvlink_errors"] for figures in courses] == [47, None, 47]


def test_the_first_sum_waits_for_a_counter_that_failed(driver: Driver) -> None:
    """Else it would begin too low; nor are the links' own counters, which are others, taken instead."""
    links = ONE_GPU + "field 0 91 2\nfield 0 165 1\nfield 0 52 7\nfield 0 161 5\nfield 0 162 1\n"
    courses = read_each(driver, *(links + one for one in ("field 0 59 0 999\n", "field 0 59 40\n")))
    assert [figures["nvlink_errors"] for figures in courses] == [None, 47]


def test_links_are_not_added_up_while_one_is_not_told(driver: Driver) -> None:
    """Of three links the second one's replays are a blank."""
    driver.set(ONE_GPU + "field 0 91 3\nfield 0 165 1\nfield 0 161 5,max,5\nfield 0 162 1\n")
    (figures,) = read()
    assert (figures["nvlinks_up"], figures["nvlink_errors"]) == (3, None)


@pytest.mark.parametrize(
    ("scenario", "fault"),
    [
        ("lost 0\n", "gpu_lost"),
        ("return nvmlDeviceGetTotalEccErrors 16\n", "reset_required"),
        ("return nvmlDeviceGetFieldValues 999\n", "failed"),
        ("return nvmlDeviceGetPowerUsage 4\n", None),  # no permission is no fault of the device
    ],
)
def test_a_fault_is_named_and_hides_no_other_figure(driver: Driver, scenario: str, fault: str | None) -> None:
    """What went wrong, beside what could be read."""
    before, figures = read_each(driver, HEALTHY, HEALTHY + scenario)
    assert (before["fault"], figures["fault"]) == (None, fault)
    if "lost" not in scenario:
        assert figures["temperature_c"] == 61


@pytest.mark.gpu
def test_a_real_device_tells_what_the_rules_need() -> None:
    """Plausible figures from NVIDIA's own driver; counters that stand or grow; within milliseconds."""
    nvml = Nvml.open()
    if nvml.why is not None:
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail(f"REQUIRE_GPU=1 and NVML cannot be used: {nvml.why}")
        pytest.skip(f"NVML cannot be used: {nvml.why}")
    handle, fault = nvml.call("nvmlDeviceGetHandleByIndex", 0)
    assert fault is None
    memo: health.Memo = {}
    first = health.read_health(nvml, handle, memo)
    began = time.monotonic()
    second = health.read_health(nvml, handle, memo)
    took_s = time.monotonic() - began
    nvml.close()
    print(json.dumps(dict(second), indent=1), f"read in {took_s * 1e3:.1f} ms")
    assert first["fault"] is None
    assert first["driver_version"]
    assert first["cuda_version"]
    assert 10 <= float(first["temperature_c"] or 0) <= 100
    for name in ("power_cap_s", "hw_thermal_s", "power_brake_s", "pcie_replays", "ecc_aggregate_corrected"):
        before, after = first[name], second[name]
        assert before is None or float(before) <= float(after or 0), name
    assert took_s < 0.1
