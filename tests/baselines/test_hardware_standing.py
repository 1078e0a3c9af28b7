"""What was found wrong with a GPU ends only on evidence that it is over: a figure that is missing is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import NOW
from devices import judge, sample, xid
from hypothesis import given
from hypothesis import strategies as st

from baselines.device import DeviceWatch
from baselines.gpu_signals import standing_in_the_way
from baselines.gpu_view import Around
from baselines.verdict import Level, Reason, Status, Verdict
from probes.gpu import health
from probes.gpu.sample import DeviceSample

Told = tuple[Status, Reason]
HOUR = 3600.0


def partly(at: float = NOW, fault: str | None = "failed", **figures: Any) -> DeviceSample:
    """A reading in which something went wrong; a figure that is None is not told."""
    whole = sample(at, **figures)
    return replace(whole, figures={**whole.figures, "fault": fault})


def told(verdict: Verdict) -> Told:
    return verdict.status, verdict.reason


def course(*samples: DeviceSample, watch: DeviceWatch | None = None) -> list[Told]:
    """The verdict after each of these, a reading interval apart."""
    watch = watch or DeviceWatch("chat")
    return [told(judge([replace(each, at=NOW + 15 * i)], watch=watch)) for i, each in enumerate(samples)]


def test_what_was_found_stands_while_its_figures_cannot_be_read() -> None:
    """The reason stays, as UNKNOWN and since when it began, until the figure is there again."""
    watch = DeviceWatch("chat")
    found = judge([sample(row_remap_pending=1)], watch=watch)
    assert told(found) == (Status.WORSE, Reason.MEMORY_REPAIR_PENDING)
    unreadable = [
        (partly(NOW + 15, row_remap_pending=None), "failed"),
        (sample(NOW + 30, fault="timeout"), "timeout"),
        (sample(NOW + 35, row_remap_pending=None), "not told"),
        (DeviceSample(index=0, at=NOW + 36, uuid="GPU-0"), "not told"),
    ]
    for unread, why in unreadable:
        verdict = judge([unread], watch=watch)
        assert told(verdict) == (Status.UNKNOWN, Reason.MEMORY_REPAIR_PENDING)
        assert (verdict.since, verdict.evidence["fault"]) == (NOW, why)
    silent = watch.cannot_tell(Reason.GPU_NOT_READ, now=NOW + 38)
    assert silent is not None
    assert told(silent) == (Status.UNKNOWN, Reason.MEMORY_REPAIR_PENDING)
    stands = judge([partly(NOW + 40, row_remap_pending=1)], watch=watch)
    assert (stands.status, stands.since) == (Status.WORSE, NOW)
    assert judge([partly(NOW + 45, row_remap_pending=0)], watch=watch).status is Status.OK


@pytest.mark.parametrize("fault", [None, "failed", "implausible"])
@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"recovery_action": 1}, Reason.GPU_RESET_NEEDED),
        ({"recovery_action": 2}, Reason.REBOOT_NEEDED),
        ({"row_remap_failed": 1}, Reason.GPU_FAULTY),
        ({"rows_remapped_uncorrected": 512}, Reason.GPU_FAULTY),
        ({"ecc_volatile_uncorrected": 3}, Reason.ECC_UNCORRECTED),
        ({"row_remap_pending": 1}, Reason.MEMORY_REPAIR_PENDING),
        ({"pcie_width": 8}, Reason.PCIE_DEGRADED),
    ],
)
def test_a_figure_that_is_gone_is_no_recovery(figures: dict[str, Any], reason: Reason, fault: str | None) -> None:
    """Whether something went wrong or not, and whatever else is told."""
    gone = partly(fault=fault, **dict.fromkeys(figures))
    assert course(sample(**figures), gone, gone, sample(**figures), gone, sample()) == [
        (Status.WORSE, reason),
        (Status.UNKNOWN, reason),
        (Status.UNKNOWN, reason),
        (Status.WORSE, reason),
        (Status.UNKNOWN, reason),
        (Status.OK, Reason.GOOD),
    ]


def test_what_a_finding_does_not_rest_on_holds_nothing_up() -> None:
    """A figure of another rule, and one that this device never told."""
    bad = sample(ecc_volatile_uncorrected=3, row_remap_pending=None)
    assert course(bad, partly(temperature_c=None, row_remap_pending=None)) == [
        (Status.WORSE, Reason.ECC_UNCORRECTED),
        (Status.OK, Reason.GOOD),
    ]
    never = dict.fromkeys(("ecc_volatile_uncorrected", "recovery_action", "nvlinks_up", "pcie_width"))
    assert course(sample(**never), partly(**never)) == [(Status.OK, Reason.GOOD)] * 2


@given(
    readings=st.lists(
        st.tuples(st.sampled_from((0, 1, None)), st.sampled_from((None, "failed", "not_found"))), min_size=1, max_size=8
    )
)
def test_a_fault_ends_only_on_positive_evidence(readings: list[tuple[int | None, str | None]]) -> None:
    """Whatever is told and missing in whatever order: OK means that the last figure that was told is good."""
    samples = [partly(fault=fault, row_remap_pending=pending) for pending, fault in readings]
    last: int | None = None
    for (pending, _), (status, _) in zip(readings, course(*samples), strict=True):
        last = last if pending is None else pending
        assert (status is Status.OK) == (last != 1)
        assert (status is Status.WORSE) == (pending == 1)


# --- a fault of the device as a whole ---------------------------------------------------------------------------------


def test_a_gpu_that_was_lost_is_back_when_nothing_fails() -> None:
    """Half a reading does not show that: it said so before beside other figures."""
    lost = Reason.GPU_LOST
    assert course(partly(fault="gpu_lost"), partly(), sample(fault="timeout"), partly(), sample()) == [
        (Status.WORSE, lost),
        (Status.UNKNOWN, lost),
        (Status.UNKNOWN, lost),
        (Status.UNKNOWN, lost),
        (Status.OK, Reason.GOOD),
    ]


def test_a_device_that_cannot_be_read_disproves_nothing() -> None:
    """An Xid is forgotten after a day; that the GPU fell off the bus is not, while it does not answer."""
    watch = DeviceWatch("chat")
    assert judge([sample(NOW + 15)], xid(79), watch=watch).reason is Reason.GPU_LOST
    silent = judge([sample(NOW + 25 * HOUR, fault="timeout")], xid(79), watch=watch)
    assert told(silent) == (Status.UNKNOWN, Reason.GPU_LOST)
    assert judge([sample(NOW + 26 * HOUR)], xid(79), watch=watch).status is Status.OK


def test_what_always_fails_on_a_device_keeps_it_from_nothing() -> None:
    """A figure that is a blank in every reading is no sign that the device is still lost."""
    blank = partly(fault="implausible")
    assert course(blank, blank, sample(fault="gpu_lost"), blank)[2:] == [
        (Status.WORSE, Reason.GPU_LOST),
        (Status.OK, Reason.GOOD),
    ]
    assert course(sample(), blank, sample(fault="gpu_lost"), blank)[2:] == [
        (Status.WORSE, Reason.GPU_LOST),
        (Status.UNKNOWN, Reason.GPU_LOST),
    ]


def test_a_device_without_figures_waits_for_none() -> None:
    """In some virtual machines it tells Xids and nothing else."""
    watch = DeviceWatch("chat")
    bare = DeviceSample(index=0, at=NOW, uuid="GPU-0", figures=dict.fromkeys(health.NUMBERS), others=1)
    assert judge([bare], xid(7), watch=watch).reason is Reason.XID_SEEN
    later = replace(bare, at=NOW + 2 * HOUR)
    watch.take(later)
    assert watch.judge([xid(7)], Around(), now=later.at) is None


# --- what is unread beside what is known ------------------------------------------------------------------------------


def test_what_holds_recycles_back_holds_them_also_while_it_is_unread() -> None:
    """It is the reason of the verdict, which is what the gate sees, whatever lesser thing is found beside it."""
    asked = {"recovery_action": 1}
    assert course(sample(**asked), sample(recovery_action=None, ecc_volatile_uncorrected=1))[1] == (
        Status.UNKNOWN,
        Reason.GPU_RESET_NEEDED,
    )
    broken = {"ecc_volatile_uncorrected": 1}
    assert course(sample(**broken), sample(ecc_volatile_uncorrected=None, nvlinks_up=17))[1] == (
        Status.UNKNOWN,
        Reason.ECC_UNCORRECTED,
    )


def test_what_is_known_is_said_first_where_it_holds_as_much() -> None:
    """The driver does not say any longer that the GPU is lost, but that it needs a reset."""
    assert course(sample(fault="gpu_lost"), partly(fault="reset_required"))[1] == (
        Status.WORSE,
        Reason.GPU_RESET_NEEDED,
    )


def test_what_holds_nothing_back_stands_in_nobodys_way() -> None:
    """Links of which it is not known whether they are down still are no reason not to recycle a poisoned context."""
    watch = DeviceWatch("chat")
    assert course(sample(), sample(nvlinks_up=17), sample(nvlinks_up=None), watch=watch)[1:] == [
        (Status.WORSE, Reason.NVLINK_DOWN),
        (Status.UNKNOWN, Reason.NVLINK_DOWN),
    ]
    around = Around(worker_since=NOW - HOUR, alone=True)
    verdict = judge([sample(NOW + 60, nvlinks_up=None)], xid(31, NOW + 50), around=around, watch=watch)
    assert told(verdict) == (Status.WORSE, Reason.CONTEXT_POISONED)
    assert verdict.evidence["also"] == "nvlink down"


def test_a_neighbour_of_whom_nobody_can_tell_has_not_left() -> None:
    """Known to nobody as a good device, and in no recycle's way."""
    assert course(sample(others=1), sample(others=2), sample(others=None), sample(others=1))[1:] == [
        (Status.WORSE, Reason.NEIGHBOUR),
        (Status.UNKNOWN, Reason.NEIGHBOUR),
        (Status.OK, Reason.GOOD),
    ]
    assert standing_in_the_way(frozenset({Reason.NEIGHBOUR}), for_memory=False) is None


def test_what_is_unread_changes_no_order_between_levels() -> None:
    """A page that is not refuted goes before a remark that is sure."""
    watch = DeviceWatch("chat")
    lowered = sample(nvlinks_up=None, power_limit_w=500.0)
    assert course(sample(), sample(nvlinks_up=17), lowered, watch=watch)[2] == (Status.UNKNOWN, Reason.NVLINK_DOWN)
    assert [finding.reason for finding in watch.findings] == [Reason.NVLINK_DOWN, Reason.POWER_CAPPED]


# --- over a restart ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [60.0, 48 * HOUR])
def test_what_cannot_be_read_outlives_a_restart(after_s: float) -> None:
    """Also when it could not be read before it: the last that was told of it is remembered."""
    watch = DeviceWatch("chat")
    judge([sample(ecc_volatile_uncorrected=3)], watch=watch)
    judge([sample(NOW + 15, ecc_volatile_uncorrected=None)], watch=watch)
    remembered = watch.remember()
    assert remembered is not None
    assert remembered.last["ecc_volatile_uncorrected"] == 3
    for _ in range(2):
        again = DeviceWatch("chat", remembered)
        verdict = judge([sample(NOW + after_s, ecc_volatile_uncorrected=None)], watch=again)
        assert told(verdict) == (Status.UNKNOWN, Reason.ECC_UNCORRECTED)
        assert verdict.since == NOW
        remembered = again.remember()
    assert judge([sample(NOW + after_s + 15)], watch=again).status is Status.OK


def test_what_was_over_before_a_restart_is_over() -> None:
    """Nothing is found again of figures that were good when they were told last."""
    watch = DeviceWatch("chat")
    judge([sample(ecc_volatile_uncorrected=3)], watch=watch)
    judge([sample(NOW + 15)], watch=watch)
    again = DeviceWatch("chat", watch.remember())
    assert judge([sample(NOW + 60, ecc_volatile_uncorrected=None)], watch=again).status is Status.OK


def test_no_rate_is_made_of_a_counter_that_was_told_long_ago() -> None:
    """Only what a page rests on is kept from before the newest reading."""
    watch = DeviceWatch("chat")
    rising = [sample(NOW + 15 * i, pcie_replays=1000 * i) for i in range(41)]
    assert judge(rising, watch=watch).level is Level.WATCH
    silent = [sample(NOW + 600 + 15 * i, pcie_replays=None) for i in range(1, 41)]
    assert told(judge(silent, watch=watch)) == (Status.UNKNOWN, Reason.PCIE_ERRORS)
    remembered = watch.remember()
    assert remembered is not None
    assert "pcie_replays" not in remembered.last
