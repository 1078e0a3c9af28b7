"""What of a reading of all GPUs is about one target."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.gpu.nvml import GpuFault
from probes.gpu.reading import DeviceReading, GpuReading
from probes.gpu.sample import GpuSample, sample_of, vbios_of

NOW = 1_800_000_000.0
FIRST = DeviceReading(
    index=0, uuid="GPU-0", name="H100", processes={7: 1}, figures={"power_w": 400.0}, age_s=2.0, processes_age_s=9.0
)
SECOND = replace(FIRST, index=1, uuid="GPU-1", processes={8: 1, 9: 1})


def of(*devices: DeviceReading, pids: frozenset[int] = frozenset({7}), own: bool = True, **about: object) -> GpuSample:
    reading = GpuReading(devices=devices, **about)  # type: ignore[arg-type]
    return sample_of(reading, target="chat", pids=pids, all_its_own=own, now=NOW)


def test_a_device_is_as_old_as_its_health() -> None:
    """Health comes with the lists, memory more often: an older figure must not look new."""
    (device,) = of(FIRST).devices
    assert (device.index, device.uuid, device.name, device.at) == (0, "GPU-0", "H100", NOW - 9)
    assert device.number("power_w") == 400.0


def test_where_it_is_not_known_which_are_its_own_only_a_single_one_is() -> None:
    """Somebody else's GPU is none of its business."""
    assert [d.index for d in of(FIRST, own=False).devices] == [0]
    assert of(FIRST, SECOND, own=False).devices == ()
    assert [d.index for d in of(FIRST, SECOND, own=True).devices] == [0, 1]


@pytest.mark.parametrize(
    ("processes", "pids", "others"),
    [
        ({7: 1}, {7}, 0),
        ({7: 1, 8: None, 9: 1}, {7}, 2),
        ({7: 1, 8: 1}, {7, 8}, 0),
        ({8: 1}, {7}, None),  # the host's pids, in a container: who is who?
        ({}, {7}, None),
        (None, {7}, None),
    ],
)
def test_others_are_counted_where_it_is_known_who_is_who(
    processes: dict[int, int | None] | None, pids: set[int], others: int | None
) -> None:
    """An unknown neighbour is neither there nor not there."""
    (device,) = of(replace(FIRST, processes=processes), pids=frozenset(pids)).devices
    assert device.others == others


def test_the_watchdogs_own_children_are_counted_apart() -> None:
    """An isolated worker is no neighbour; it may all the same be the one that an error hit."""
    reading = GpuReading(devices=(replace(FIRST, processes={7: 1, 8: 1, 9: 1}),))
    sample = sample_of(reading, target="chat", pids=frozenset({7}), all_its_own=True, now=NOW, started=[9, 10])
    assert (sample.devices[0].others, sample.devices[0].canaries) == (2, 1)


def test_health_is_the_whole_gpus_and_neighbours_are_the_slices() -> None:
    """Under MIG another slice's process is no neighbour."""
    whole = replace(FIRST, sliced=True, processes=None)
    mine = DeviceReading(index=0, uuid="MIG-a", parent="GPU-0", processes={7: 1})
    theirs = DeviceReading(index=0, uuid="MIG-b", parent="GPU-0", processes={8: 1})
    (device,) = of(whole, mine, theirs).devices
    assert (device.uuid, device.number("power_w"), device.others) == ("GPU-0", 400.0, 0)


def test_a_device_that_cannot_be_read_says_why() -> None:
    """As of now: it has no figures that could be old."""
    (device,) = of(FIRST.emptied(GpuFault.GPU_LOST)).devices
    assert (device.fault, device.at, device.figures) == ("gpu_lost", NOW, {})


def test_a_call_that_hangs_on_another_gpu_is_none_of_its_business() -> None:
    """As long as its own devices answer."""
    hung = {"fault": GpuFault.DRIVER_UNRESPONSIVE, "call": "nvmlDeviceGetName", "stuck_s": 70.0}
    assert of(FIRST, **hung).fault is None
    mine = of(FIRST.emptied(GpuFault.DRIVER_UNRESPONSIVE), **hung)
    assert (mine.fault, mine.call, mine.stuck_s) == ("driver_unresponsive", "nvmlDeviceGetName", 70.0)
    assert of(**hung).stuck_s == 70.0  # hung before any device was seen


def test_a_library_that_is_missing_is_said() -> None:
    """No devices, and why."""
    sample = of(fault=GpuFault.NO_LIBRARY)
    assert (sample.fault, sample.devices, sample.stuck_s) == ("no_library", (), None)


def test_vbios_is_known_when_every_gpu_told_its_own() -> None:
    """Else it would seem to change with every GPU that is lost or not asked yet."""
    told = replace(FIRST, figures={"vbios_version": "96.01"})
    other = replace(SECOND, figures={"vbios_version": "96.00"})
    assert vbios_of(GpuReading(devices=(told, other, replace(other, index=2)))) == "96.00, 96.01"
    assert vbios_of(GpuReading(devices=(told, SECOND))) is None
    assert vbios_of(GpuReading(devices=(told, SECOND.emptied(GpuFault.GPU_LOST)))) == "96.01"
    assert vbios_of(GpuReading()) is None
