"""Rules about GPUs: each row of the table fires on what it says, and on nothing less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from builders import NOW
from devices import OTHER, judge, over, sample, xid

from baselines.device import DeviceWatch, finding_of, judge_driver
from baselines.gpu_signals import CONTEXT, SIGNALS, Recycle, standing_in_the_way
from baselines.gpu_view import Around
from baselines.hardware import RULES
from baselines.verdict import Cause, Level, Reason, Status
from baselines.xid import XIDS, Remedy, look_up
from probes.gpu import health
from probes.gpu.sample import DeviceSample, GpuSample

STARTED = Around(worker_since=NOW - 3600, alone=True, good_at=NOW - 60)  # before what happens at NOW
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def reason_of(*figures: DeviceSample, **about: Any) -> Reason:
    return judge(figures, **about).reason


# --- the table ----------------------------------------------------------------------------------------------------


def test_every_row_has_a_rule_and_every_rule_a_row() -> None:
    """The driver's own row is judged apart, since no device can be asked then."""
    assert set(SIGNALS) == {*RULES, Reason.DRIVER_UNRESPONSIVE}


def test_every_figure_that_is_read_has_a_meaning() -> None:
    """In a row, or as the context of the rows; and none is named that is not read."""
    named = {name for row in SIGNALS.values() for name in row.figures} | {name for names in CONTEXT for name in names}
    assert {*health.NUMBERS, *health.TEXTS} <= named
    assert named - {*health.NUMBERS, *health.TEXTS} == {"xid", "others", "call"}


def test_only_what_a_recycle_helps_may_blame_the_model() -> None:
    """Cause `model` is the one that may recycle; it must never be named for what a recycle cannot help."""
    for row in SIGNALS.values():
        assert (row.cause is Cause.MODEL) == (row.recycle is Recycle.HELPS), row.reason
        assert (row.cause is Cause.ENVIRONMENT) == (row.level is Level.INFO), row.reason


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(13, "restart_app"), (31, "restart_app"), (94, "restart_app"), (79, "reboot"), (119, "reset_gpu"), (43, "ignore")],
)
def test_xids_ask_for_what_the_catalogue_says(code: int, remedy: str) -> None:
    """A spot check of the table of codes; an unknown one asks for nothing certain."""
    assert XIDS[code].remedy == remedy
    assert look_up(7, {}).remedy is Remedy.UNKNOWN


def test_configuration_goes_before_the_table() -> None:
    """Of 109 the catalogue and Kubernetes' device plugin disagree."""
    assert look_up(109, {}).remedy is Remedy.RESET_GPU
    assert look_up(109, {109: Remedy.IGNORE}).remedy is Remedy.IGNORE
    assert look_up(7, {7: Remedy.REBOOT}).remedy is Remedy.REBOOT


# --- healthy, and not known -----------------------------------------------------------------------------------------


def test_a_healthy_device_is_ok() -> None:
    """Also one at its power limit, under full load, whose counters of past troubles stand still."""
    verdict = judge(over(12))
    assert (verdict.status, verdict.reason, verdict.subject) == (Status.OK, Reason.GOOD, "gpu 0")


@pytest.mark.parametrize("fault", ["failed", "not_ready", "timeout"])
def test_a_device_that_cannot_be_read_is_unknown(fault: str) -> None:
    """Never OK, and never a reason to act."""
    verdict = judge([sample(fault=fault)])
    assert (verdict.status, verdict.reason, verdict.evidence["fault"]) == (Status.UNKNOWN, Reason.GPU_NOT_READ, fault)


def test_a_device_that_was_not_read_is_unknown() -> None:
    """No figure, no fault: it should be read and is not."""
    assert judge([DeviceSample(index=0, at=NOW)]).status is Status.UNKNOWN


def test_of_a_device_without_any_health_nothing_is_said() -> None:
    """It answers, and has no such figure: what it cannot have is not asked for, and nobody waits for it."""
    watch = DeviceWatch("chat")
    watch.take(DeviceSample(index=0, at=NOW, figures=dict.fromkeys(health.NUMBERS)))
    assert watch.judge([], Around(), now=NOW) is None


def test_what_is_not_told_breaks_no_rule() -> None:
    """A consumer card has no ECC, no remapping, no links: what it does tell is judged."""
    assert judge([sample(NOW, **dict.fromkeys(("ecc_volatile_uncorrected", "nvlinks_up", "pcie_width")))]).status is (
        Status.OK
    )


# --- the device as a whole, and its memory --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"recovery_action": 1}, Reason.GPU_RESET_NEEDED),
        ({"recovery_action": 2}, Reason.REBOOT_NEEDED),
        ({"recovery_action": 3}, Reason.GPU_RESET_NEEDED),
        ({"recovery_action": 4}, Reason.GPU_RESET_NEEDED),
        ({"recovery_action": 6}, Reason.GPU_RESET_NEEDED),
        ({"recovery_action": 7}, Reason.REBOOT_NEEDED),
        ({"fault": "reset_required"}, Reason.GPU_RESET_NEEDED),
        ({"fault": "gpu_lost"}, Reason.GPU_LOST),
        ({"fault": "power_cable"}, Reason.GPU_FAULTY),
        ({"row_remap_failed": 1}, Reason.GPU_FAULTY),
        ({"memory_unrepairable": 1}, Reason.GPU_FAULTY),
        ({"sram_threshold_exceeded": 1}, Reason.GPU_FAULTY),
        ({"rows_remapped_uncorrected": 512}, Reason.GPU_FAULTY),
        ({"pages_retired_single_bit": 40, "pages_retired_double_bit": 23}, Reason.GPU_FAULTY),
        ({"ecc_volatile_uncorrected": 1}, Reason.ECC_UNCORRECTED),
        ({"row_remap_pending": 1}, Reason.MEMORY_REPAIR_PENDING),
        ({"pages_retirement_pending": 1}, Reason.MEMORY_REPAIR_PENDING),
        ({"repair_pending": 1}, Reason.MEMORY_REPAIR_PENDING),
    ],
)
def test_faults_are_the_hardware_and_a_page(figures: dict[str, Any], reason: Reason) -> None:
    """At once: the driver is sure of them."""
    verdict = judge([sample(**figures)])
    assert (verdict.status, verdict.reason, verdict.cause, verdict.level) == (
        Status.WORSE,
        reason,
        Cause.HARDWARE,
        Level.PAGE,
    )
    assert verdict.strikes == 1


@pytest.mark.parametrize(
    "figures",
    [
        {"rows_remapped_uncorrected": 511},
        {"pages_retired_single_bit": 62, "pages_retired_double_bit": 0},
        {"rows_remapped_corrected": 600},
        {"ecc_volatile_corrected": 100_000},
        {"ecc_aggregate_uncorrected": 12},  # of the card's whole life: repaired since
        {"recovery_action": 99},
    ],
)
def test_less_than_the_rule_says_is_ok(figures: dict[str, Any]) -> None:
    """Memory that repairs itself, and a recovery action that nobody knows."""
    assert judge([sample(**figures)]).status is Status.OK


def test_the_most_serious_comes_first_and_names_the_others() -> None:
    """One verdict for a device; what else is wrong stands in the evidence."""
    verdict = judge([sample(pcie_width=8, row_remap_pending=1, recovery_action=2)])
    assert verdict.reason is Reason.REBOOT_NEEDED
    assert verdict.evidence["also"] == "memory repair pending, pcie degraded"


def test_a_lost_device_is_lost_though_other_figures_are_there() -> None:
    """The fault of one call among many."""
    assert judge([sample(power_w=None)]).status is Status.OK
    half = DeviceSample(index=0, at=NOW, uuid="GPU-0", figures={"power_w": 1.0, "fault": "gpu_lost"})
    assert judge([half]).reason is Reason.GPU_LOST


# --- Xid --------------------------------------------------------------------------------------------------------------


def test_a_poisoned_context_is_the_models_and_may_be_recycled() -> None:
    """Xid 31 while the worker ran, alone on the device, and no good answer since."""
    verdict = judge([sample(NOW + 15)], xid(31), around=STARTED)
    assert (verdict.reason, verdict.cause, verdict.level) == (Reason.CONTEXT_POISONED, Cause.MODEL, Level.PAGE)
    assert verdict.since == NOW
    assert "Xid 31" in str(verdict.evidence["detail"])


@pytest.mark.parametrize(
    ("around", "others"),
    [
        pytest.param(Around(), 0, id="processes are not watched"),
        pytest.param(STARTED, 1, id="it may have hit somebody else"),
        pytest.param(STARTED, None, id="it cannot be told who is on the device"),
        pytest.param(Around(worker_since=NOW - 60, alone=True, good_at=NOW + 5), 0, id="it answered well since"),
    ],
)
def test_an_error_that_may_be_somebody_elses_blames_nobody(around: Around, others: int | None) -> None:
    """It is told, with cause unknown, which nothing acts on."""
    verdict = judge([sample(NOW + 15, others=others)], xid(31), around=around)
    assert (verdict.reason, verdict.cause, verdict.level) == (Reason.XID_SEEN, Cause.UNKNOWN, Level.WATCH)


def test_a_good_answer_of_one_worker_says_nothing_of_the_others() -> None:
    """Of two workers the one that answered may be the one that is well."""
    two = Around(worker_since=NOW - 60, alone=False, good_at=NOW + 5)
    assert judge([sample(NOW + 15)], xid(31), around=two).reason is Reason.CONTEXT_POISONED


def test_a_new_worker_has_a_new_context() -> None:
    """After the recycle the error is history."""
    restarted = Around(worker_since=NOW + 30, alone=True)
    assert judge([sample(NOW + 60)], xid(31), around=restarted).status is Status.OK


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (46, Reason.GPU_RESET_NEEDED),
        (119, Reason.GPU_RESET_NEEDED),
        (79, Reason.GPU_LOST),
        (151, Reason.REBOOT_NEEDED),
        (74, Reason.NVLINK_ERRORS),
        (149, Reason.NVLINK_ERRORS),
        (48, Reason.XID_SEEN),
        (7, Reason.XID_SEEN),
    ],
)
def test_each_remedy_has_its_reason(code: int, reason: Reason) -> None:
    """Also a code that is in no table."""
    assert judge([sample(NOW + 15)], xid(code), around=STARTED).reason is reason


@pytest.mark.parametrize("code", [43, 45, 63, 92, 137])
def test_what_is_to_be_ignored_is(code: int) -> None:
    """And 45, which only follows another."""
    assert judge([sample(NOW + 15)], xid(code), around=STARTED).status is Status.OK


def test_a_code_is_ignored_where_the_configuration_says_so() -> None:
    """Kubernetes' users ask for it, per code."""
    ignoring = Around(xid={119: Remedy.IGNORE})
    assert judge([sample(NOW + 15)], xid(119), around=ignoring).status is Status.OK


def test_an_error_of_another_device_is_not_this_ones() -> None:
    """By UUID."""
    assert judge([sample(NOW + 15)], xid(119, device=OTHER)).status is Status.OK


def test_a_reset_that_was_done_ends_what_asked_for_it() -> None:
    """A minute after the error the driver asks for nothing: not a gauge that sticks to the last value."""
    assert judge(over(0.5, since=NOW), xid(119)).reason is Reason.GPU_RESET_NEEDED
    assert judge(over(2, since=NOW), xid(119)).status is Status.OK
    assert judge(over(2, since=NOW, recovery_action=1), xid(119)).reason is Reason.GPU_RESET_NEEDED


def test_without_a_recovery_action_an_error_stands_for_a_day_or_until_a_reboot() -> None:
    """An older driver never says that it is over."""
    samples = over(2, since=NOW + HOUR, recovery_action=None)
    assert judge(samples, xid(119)).reason is Reason.GPU_RESET_NEEDED
    assert judge(samples, xid(119), around=Around(booted_at=NOW + 60)).status is Status.OK
    assert judge(over(2, since=NOW + DAY, recovery_action=None), xid(119)).status is Status.OK


@pytest.mark.parametrize("newest", [{"recovery_action": None}, {"fault": "failed"}], ids=["not told", "failed"])
def test_an_error_that_is_over_does_not_come_back_with_a_reading_that_fails(newest: dict[str, Any]) -> None:
    """The driver has said that nothing is to be done; that it says nothing now asks for nothing."""
    settled = over(2, since=NOW + HOUR, recovery_action=0)
    at = settled[-1].at + 15
    assert judge([*settled, sample(at, **newest)], xid(119)).reason is not Reason.GPU_RESET_NEEDED
    assert judge([*settled, sample(at, recovery_action=1)], xid(119)).reason is Reason.GPU_RESET_NEEDED


@pytest.mark.parametrize("code", [13, 31])
def test_alone_the_application_again_and_again_the_device(code: int) -> None:
    """Three times in a day on this GPU and on no other; what comes in one second came once."""
    burst = [xid(code, NOW + each) for each in (0.0, 0.1, 0.2, 5.0)]
    assert judge([sample(NOW + 15)], *burst, around=STARTED).reason is Reason.CONTEXT_POISONED
    apart = [xid(code, NOW - hours * HOUR) for hours in (20, 9, 0)]
    verdict = judge([sample(NOW + 15)], *apart, around=STARTED)
    assert (verdict.reason, verdict.cause) == (Reason.XID_REPEATED, Cause.HARDWARE)
    everywhere = [*apart, xid(code, NOW - 60, device=OTHER)]
    assert judge([sample(NOW + 15)], *everywhere, around=STARTED).reason is Reason.CONTEXT_POISONED
    long_ago = [xid(code, NOW - hours * HOUR) for hours in (50, 30, 0)]
    assert judge([sample(NOW + 15)], *long_ago, around=STARTED).reason is Reason.CONTEXT_POISONED


# --- clocks, heat, power ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "reason", "cause", "level"),
    [
        ("hw_thermal_s", Reason.THROTTLED, Cause.HARDWARE, Level.WATCH),
        ("power_brake_s", Reason.THROTTLED, Cause.HARDWARE, Level.WATCH),
        ("sw_thermal_s", Reason.HOT, Cause.ENVIRONMENT, Level.INFO),
    ],
)
def test_throttling_is_judged_by_its_duration(figure: str, reason: Reason, cause: Cause, level: Level) -> None:
    """A fifth of the time is; a twentieth is not; neither is what happened before anybody looked."""
    verdict = judge(over(10, **{figure: lambda s: 500 + 0.2 * s}))
    assert (verdict.reason, verdict.cause, verdict.level) == (reason, cause, level)
    assert verdict.evidence["throttled_ratio"] == pytest.approx(0.2, rel=0.01)
    assert judge(over(10, **{figure: lambda s: 500 + 0.05 * s})).status is Status.OK


def test_older_drivers_tell_one_duration_for_heat() -> None:
    """Without saying who slows down for it; it is not looked at where they do say."""
    older = {"sw_thermal_s": None, "hw_thermal_s": None, "power_brake_s": None}
    assert judge(over(10, thermal_s=lambda s: 0.2 * s, **older)).reason is Reason.HOT
    assert judge(over(10, thermal_s=lambda s: 0.2 * s)).status is Status.OK


def test_throttling_is_told_after_two_minutes_and_ends_after_ten() -> None:
    """Since it began, not since it was seen; and no longer than the window remembers it."""
    began = over(2, hw_thermal_s=lambda s: 100 + s)
    assert judge(began).since == NOW
    assert judge(over(1.5, hw_thermal_s=lambda s: 100 + s)).status is Status.OK
    watch = DeviceWatch("chat")
    judge(began, watch=watch)
    calm = over(7, since=NOW + 135, hw_thermal_s=220.0)
    assert judge(calm, watch=watch).reason is Reason.THROTTLED
    assert judge(over(2, since=NOW + 700, hw_thermal_s=220.0), watch=watch).status is Status.OK


def test_a_counter_that_begins_again_is_not_negative_and_not_everything() -> None:
    """The driver was loaded anew in between."""
    calm: Callable[[float], float] = lambda s: 5000.0 if s < 300 else 0.1  # noqa: E731
    assert judge(over(10, hw_thermal_s=calm)).status is Status.OK


def test_a_duration_that_grows_faster_than_time_is_refused() -> None:
    """A driver that counts in another unit would else always throttle."""
    assert judge(over(10, hw_thermal_s=lambda s: 1000 * s)).status is Status.OK


def test_where_no_duration_is_told_sightings_count() -> None:
    """0.6 a minute over ten minutes; a device that has durations is not judged by what a sample happened to see."""
    untold = {"hw_thermal_s": None, "power_brake_s": None}
    assert judge(over(10, **untold, clock_event_reasons=0x40)).reason is Reason.THROTTLED
    assert judge(over(8, **untold, clock_event_reasons=0x40)).status is Status.OK
    seldom: Callable[[float], int] = lambda s: 0x80 if s % 150 == 0 else 0  # noqa: E731  # 5 in 10 minutes
    assert judge(over(10, **untold, clock_event_reasons=seldom)).status is Status.OK
    assert judge(over(10, clock_event_reasons=0x40)).status is Status.OK


@pytest.mark.parametrize("bits", [0x1, 0x2, 0x4, 0x10, 0x100])
def test_idle_and_power_cap_are_normal(bits: int) -> None:
    """So are clocks set by an application, by sync boost and by a display."""
    assert judge(over(10, clock_event_reasons=bits, hw_thermal_s=None, power_brake_s=None)).status is Status.OK


def test_heat_is_judged_by_the_types_own_figures() -> None:
    """Five minutes without more margin than its slowdown offset; where it has none, at its slowdown temperature."""
    assert judge(over(6, temperature_margin_c=2)).reason is Reason.HOT
    assert judge(over(6, temperature_margin_c=3)).status is Status.OK
    assert judge(over(6, temperature_margin_c=3, slowdown_offset_c=-3)).reason is Reason.HOT
    assert judge(over(3, temperature_margin_c=2)).status is Status.OK
    older = {"temperature_margin_c": None, "slowdown_offset_c": None, "slowdown_c": 90}
    assert judge(over(6, **older, temperature_c=90)).reason is Reason.HOT
    assert judge(over(6, **older, temperature_c=89)).status is Status.OK
    assert judge(over(6, temperature_c=99)).status is Status.OK  # with margin left, no temperature is too hot


def test_a_lowered_power_limit_is_told_for_a_day() -> None:
    """Then it is the new normal; what was always low is nothing new."""
    watch = DeviceWatch("chat")
    judge([sample()], watch=watch)
    verdict = judge([sample(NOW + 15, power_limit_w=500.0)], watch=watch)
    assert (verdict.reason, verdict.cause, verdict.level) == (Reason.POWER_CAPPED, Cause.ENVIRONMENT, Level.INFO)
    assert verdict.evidence["detail"] == "the power limit fell from 700 W to 500 W"
    assert judge([sample(NOW + DAY + 10, power_limit_w=500.0)], watch=watch).reason is Reason.POWER_CAPPED
    assert judge([sample(NOW + DAY + 30, power_limit_w=500.0)], watch=watch).status is Status.OK
    assert judge([sample(power_limit_w=500.0, power_default_limit_w=700.0)]).status is Status.OK


def test_a_power_limit_that_is_raised_again_is_over_at_once() -> None:
    """And a higher one is the new normal at once."""
    watch = DeviceWatch("chat")
    judge([sample(power_limit_w=500.0), sample(NOW + 15, power_limit_w=400.0)], watch=watch)
    assert judge([sample(NOW + 30, power_limit_w=700.0)], watch=watch).status is Status.OK
    assert judge([sample(NOW + 45, power_limit_w=500.0)], watch=watch).reason is Reason.POWER_CAPPED


def test_clocks_that_were_locked_show_under_load() -> None:
    """Lower clocks when idle, and those that power or heat takes, have nothing to do with it."""
    locked: Callable[[float], int] = lambda s: 1755 if s < 300 else 1200  # noqa: E731
    assert judge(over(10, sm_clock_mhz=locked, clock_event_reasons=0)).reason is Reason.CLOCKS_LOWERED
    assert judge(over(10, sm_clock_mhz=locked, clock_event_reasons=0x4)).status is Status.OK
    idle: Callable[[float], int] = lambda s: 90 if s < 300 else 3  # noqa: E731
    assert judge(over(10, sm_clock_mhz=locked, clock_event_reasons=0, utilisation_percent=idle)).status is Status.OK


def test_a_neighbour_that_was_always_there_is_nothing_new() -> None:
    """One more is, until it leaves."""
    watch = DeviceWatch("chat")
    assert judge([sample(others=1)], watch=watch).status is Status.OK
    verdict = judge([sample(NOW + 15, others=2)], watch=watch)
    assert (verdict.reason, verdict.cause, verdict.level) == (Reason.NEIGHBOUR, Cause.ENVIRONMENT, Level.INFO)
    assert judge([sample(NOW + 30, others=1)], watch=watch).status is Status.OK
    assert judge([sample(NOW + 45, others=None)], watch=watch).status is Status.OK
    isolated = replace(sample(NOW + 60, others=2), canaries=1)  # the watchdog's own worker of a torch canary
    assert judge([isolated], watch=watch).status is Status.OK


# --- links ------------------------------------------------------------------------------------------------------------


def test_pcie_width_always_generation_only_under_load() -> None:
    """A link that slows down when it is idle does so by design."""
    assert judge([sample(pcie_width=8, utilisation_percent=0)]).reason is Reason.PCIE_DEGRADED
    assert judge(over(5, pcie_generation=1, utilisation_percent=0)).status is Status.OK
    assert judge(over(5, pcie_generation=1, utilisation_percent=None)).status is Status.OK
    assert judge(over(5, pcie_generation=3)).reason is Reason.PCIE_DEGRADED
    rising: Callable[[float], int] = lambda s: 1 if s < 30 else 5  # noqa: E731
    assert judge(over(5, pcie_generation=rising)).status is Status.OK


@pytest.mark.parametrize(("generation", "limit"), [(1, 3), (3, 8), (4, 16), (5, 31), (6, 62)])
def test_pcie_replays_are_judged_a_minute_by_the_links_speed(generation: int, limit: int) -> None:
    """DCGM's limits for sixteen lanes, rounded up."""
    speed = {"pcie_generation": generation, "pcie_generation_max": generation}
    assert judge(over(10, pcie_replays=lambda s: 7 + limit * s / 60, **speed)).status is Status.OK
    verdict = judge(over(10, pcie_replays=lambda s: 7 + (limit + 1) * s / 60, **speed))
    assert (verdict.reason, verdict.level) == (Reason.PCIE_ERRORS, Level.WATCH)


def test_links_that_go_down_and_errors_on_them() -> None:
    """One that was never up is none; one replay is one too many; checksums may fail now and then."""
    assert judge([sample(nvlinks_up=12)]).status is Status.OK
    assert judge([sample(), sample(NOW + 15, nvlinks_up=17)]).reason is Reason.NVLINK_DOWN
    assert judge([sample(), sample(NOW + 15, nvlink_errors=4)]).reason is Reason.NVLINK_ERRORS
    assert judge(over(5, nvlink_crc_errors=lambda s: 1000 + 99 * s)).status is Status.OK
    assert judge(over(5, nvlink_crc_errors=lambda s: 1000 + 101 * s)).reason is Reason.NVLINK_ERRORS


# --- the driver -------------------------------------------------------------------------------------------------------


def test_a_driver_that_does_not_answer_is_a_page_once_it_has_lasted() -> None:
    """Until a minute is over it may only be slow: unknown, which is not told but holds every recycle back."""
    hung = GpuSample(target="chat", at=NOW, fault="driver_unresponsive", call="nvmlDeviceGetMemoryInfo", stuck_s=20.0)
    verdict = judge_driver(hung, now=NOW)
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.DRIVER_UNRESPONSIVE)
    lasting = GpuSample(target="chat", at=NOW, fault=hung.fault, call=hung.call, stuck_s=61.0)
    verdict = judge_driver(lasting, now=NOW)
    assert (verdict.status, verdict.cause, verdict.level) == (Status.WORSE, Cause.HARDWARE, Level.PAGE)
    assert (verdict.since, verdict.evidence["detail"]) == (NOW - 61, "nvmlDeviceGetMemoryInfo does not return")
    finding = finding_of(verdict)
    assert finding is not None
    assert (finding.reason, finding.since) == (Reason.DRIVER_UNRESPONSIVE, NOW - 61)
    assert finding_of(judge_driver(GpuSample(target="chat", at=NOW), now=NOW)) is None


@pytest.mark.parametrize("fault", ["no_library", "version_mismatch", "failed"])
def test_a_library_that_cannot_be_used_is_unknown(fault: str) -> None:
    """The serving process may be well: degrade, do not alarm."""
    verdict = judge_driver(GpuSample(target="chat", at=NOW, fault=fault), now=NOW)
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.GPU_NOT_READ)


# --- what it means for a recycle --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "any_incident", "leak"),
    [
        (Reason.GPU_LOST, True, True),
        (Reason.DRIVER_UNRESPONSIVE, True, True),
        (Reason.GPU_RESET_NEEDED, True, True),
        (Reason.ECC_UNCORRECTED, True, False),
        (Reason.MEMORY_REPAIR_PENDING, True, False),
        (Reason.XID_REPEATED, False, False),  # on the only GPU it may be the application's all the same
        (Reason.THROTTLED, False, False),
        (Reason.CONTEXT_POISONED, False, False),
        (Reason.GPU_NOT_READ, False, False),
    ],
)
def test_what_holds_a_recycle_back(reason: Reason, any_incident: bool, leak: bool) -> None:
    """A leak is not explained by a GPU that waits for a repair; on one that is lost no worker can start."""
    held = (
        standing_in_the_way(frozenset({reason}), for_memory=False),
        standing_in_the_way(frozenset({reason}), for_memory=True),
    )
    assert held == (reason if any_incident else None, reason if leak else None)


# --- over time --------------------------------------------------------------------------------------------------------


def test_what_was_normal_outlives_a_restart() -> None:
    """The limit was lowered, a link went down and a counter rose while nobody looked."""
    watch = DeviceWatch("chat")
    judge([sample()], watch=watch)
    remembered = watch.remember()
    later = sample(NOW + HOUR, power_limit_w=500.0, nvlinks_up=17, nvlink_errors=9)
    verdict = judge([later], watch=DeviceWatch("chat", remembered))
    assert verdict.reason is Reason.NVLINK_DOWN
    assert verdict.evidence["also"] == "nvlink errors, power capped"
    assert judge([later]).status is Status.OK


def test_a_restart_dilutes_no_rate() -> None:
    """The hours in which nobody looked are no part of the time of which a device was throttled a tenth."""
    watch = DeviceWatch("chat")
    judge([sample()], watch=watch)
    after = DeviceWatch("chat", watch.remember())
    verdict = judge(over(3, since=NOW + 5 * HOUR, hw_thermal_s=lambda s: 100 + 0.5 * s), watch=after)
    assert verdict.reason is Reason.THROTTLED
    assert verdict.since == NOW + 5 * HOUR


def test_since_when_outlives_a_restart() -> None:
    """A trouble of yesterday does not begin today."""
    watch = DeviceWatch("chat")
    judge([sample(pcie_width=8)], watch=watch)
    after = DeviceWatch("chat", watch.remember())
    judge([sample(NOW + HOUR, pcie_width=8)], watch=after)
    assert [finding.since for finding in after.findings] == [NOW]


def test_it_is_remembered_once_a_minute_or_when_something_changed() -> None:
    """Not with every reading."""
    watch = DeviceWatch("chat")
    judge([sample()], watch=watch)
    assert watch.remember() is not None
    judge([sample(NOW + 15)], watch=watch)
    assert watch.remember() is None
    judge([sample(NOW + 30, power_limit_w=500.0)], watch=watch)
    assert watch.remember() is not None
    judge([sample(NOW + 91, power_limit_w=500.0)], watch=watch)
    assert watch.remember() is not None


def test_a_clock_set_back_makes_no_rate() -> None:
    """What was measured by the other clock is forgotten; what is normal is not."""
    watch = DeviceWatch("chat")
    judge(over(10), watch=watch)
    back = sample(NOW - HOUR, hw_thermal_s=700.0, power_limit_w=500.0)
    assert judge([back], watch=watch).reason is Reason.POWER_CAPPED


def test_the_same_reading_twice_is_one() -> None:
    """Whoever asks more often than the driver is read learns nothing new."""
    watch = DeviceWatch("chat")
    once = sample()
    judge([once, sample(NOW + 0.002), sample(NOW - 0.002)], watch=watch)
    assert watch.newest is once
