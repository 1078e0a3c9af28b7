"""GPUs on the trip of the data: judged, stored, told, counted; what they explain of other verdicts, and what they hold
back."""

from __future__ import annotations

from typing import Any

import pytest
from builders import NOW, make_incident
from pipeline_stage import HUNG, Bench
from prometheus_client import CollectorRegistry

from alerts import store as alert_store
from alerts.episode import Trigger
from alerts.gate import gather_facts
from alerts.incident import Incident
from alerts.incident import State as IncidentState
from alerts.recycle_requests import request
from baselines.database import Database
from baselines.verdict import Cause, Check, Level, Reason, Status
from probes.gpu.reading import Xid
from probes.gpu.sample import DeviceSample, GpuSample
from probes.messages import Outcome as Answer
from watchdog.metrics import Metrics

UUID = "GPU-0"
WELL: dict[str, Any] = {
    "recovery_action": 0,
    "power_w": 400.0,
    "power_limit_w": 700.0,
    "hw_thermal_s": 10.0,
    "power_brake_s": 0.0,
    "row_remap_pending": 0,
}


class GpuBench(Bench):
    """With devices: each sample is one of the target's GPU 0."""

    def __init__(self, database: Database, **target: object) -> None:
        super().__init__(database, **{"device": "cuda", **target})
        self.target.uptime_s = lambda life: 3600.0  # type: ignore[method-assign]

    def sample(self, *xids: Xid, after_s: float = 15.0, others: int | None = 0, **figures: Any) -> GpuSample:
        self.clock.at += after_s
        device = DeviceSample(
            index=0, at=self.clock.at, uuid=UUID, name="H100", figures={**WELL, **figures}, others=others
        )
        return GpuSample(target="chat", at=self.clock.at, devices=(device,), xids=xids)

    def see(self, *xids: Xid, after_s: float = 15.0, others: int | None = 0, **figures: Any) -> None:
        sample = self.sample(*xids, after_s=after_s, others=others, **figures)
        self.metrics.observe_gpu(sample)
        self.pipeline.take_gpu(sample)

    def slow(self, latency_s: float, bursts: int) -> None:
        """Bursts of which nothing but the GPU could say why: there is no control."""
        for _ in range(bursts):
            self.take(latency_s=latency_s)


@pytest.fixture
def bench(database: Database) -> GpuBench:
    return GpuBench(database)


def test_a_healthy_gpu_is_ok_and_nobody_is_told(bench: GpuBench) -> None:
    """A verdict on the driver and one on the device."""
    for _ in range(3):
        bench.see()
    assert bench.verdicts(Check.GPU) == [(Status.OK, Reason.GOOD)] * 2
    assert (bench.incidents, bench.told) == ([], [])
    assert bench.metric("watchdog_verdict", target="chat", check="gpu", status="OK") == 1


def test_row_remap_pending_is_told_with_what_to_do_and_recycles_nothing(bench: GpuBench) -> None:
    """What, since when, likely cause, what to do next."""
    bench.see(row_remap_pending=1)
    (incident,) = bench.incidents
    assert (incident.check, incident.subject, incident.reason) == (Check.GPU, "gpu 0", Reason.MEMORY_REPAIR_PENDING)
    assert (incident.cause, incident.level) == (Cause.HARDWARE, Level.PAGE)
    (delivery,) = bench.deliveries
    text = delivery.payload["text"]
    assert "chat is on a GPU whose memory waits for a repair" in text
    assert "Row remap pending: needs a GPU reset; a recycle cannot help." in text
    assert "What to do: Drain the GPU and reset it soon: nvidia-smi --gpu-reset -i 0" in text
    assert "Likely cause: the GPU, its driver or other hardware" in text
    assert bench.recycles == []


def test_it_is_over_after_three_good_readings(bench: GpuBench) -> None:
    """As every incident."""
    bench.see(row_remap_pending=1)
    for _ in range(3):
        bench.see()
    assert bench.incidents[0].state is IncidentState.RESOLVED
    assert bench.told == ["firing", "resolved"]


def test_a_poisoned_context_asks_for_a_recycle(bench: GpuBench) -> None:
    """The one thing about a GPU that a recycle of the worker cures."""
    bench.see()
    bench.see(Xid(at=bench.clock.at + 1, device=UUID, xid=31))
    (incident,) = bench.incidents
    assert (incident.reason, incident.cause) == (Reason.CONTEXT_POISONED, Cause.MODEL)
    assert [episode.reason for episode in bench.recycles] == ["context_poisoned"]


def test_an_error_is_stored_once_and_counted_once_though_it_is_told_again(bench: GpuBench) -> None:
    """The reader hands out its last errors with each reading; a repeat of the same code is another event."""
    first = Xid(at=NOW, device=UUID, xid=119)
    second = Xid(at=NOW + 5, device=UUID, xid=119)
    bench.see(first)
    bench.see(first)
    bench.see(first, second)
    assert bench.count("gpu_xids") == 2
    assert bench.metric("watchdog_gpu_xid_total", target="chat", device="0", remedy="reset_gpu") == 2
    assert bench.metric("watchdog_gpu_xid_total", target="chat", device="0", remedy="reboot") == 0


def test_an_error_outlives_a_restart(bench: GpuBench) -> None:
    """NVML delivers it once; a daemon that starts later still knows what it asks for."""
    bench.see(Xid(at=NOW, device=UUID, xid=119), recovery_action=1)
    bench.target.devices.clear()
    bench.start()
    without_action = {**WELL, "recovery_action": None}
    bench.see(**without_action)
    assert bench.verdicts(Check.GPU)[-1] == (Status.WORSE, Reason.GPU_RESET_NEEDED)


def test_what_was_normal_outlives_a_restart(bench: GpuBench) -> None:
    """The power limit fell while the daemon was down."""
    bench.see()
    bench.target.devices.clear()
    bench.start()
    bench.see(after_s=600, power_limit_w=500.0)
    (incident,) = bench.incidents
    assert (incident.reason, incident.level) == (Reason.POWER_CAPPED, Level.INFO)


def test_throttling_explains_a_slowdown_that_began_with_it(bench: GpuBench) -> None:
    """Cause hardware, with the clause that says how much; no recycle."""
    bench.baseline()
    for i in range(16):
        bench.see(hw_thermal_s=10.0 + 15 * i)
    bench.slow(0.08, 5)
    latency = next(i for i in bench.incidents if i.check is Check.LATENCY)
    assert (latency.reason, latency.cause, latency.level) == (Reason.REGRESSED, Cause.HARDWARE, Level.PAGE)
    text = next(d.payload["text"] for d in bench.deliveries if "slower" in d.payload["text"])
    assert "Likely cause: the GPU, its driver or other hardware (the hardware slows it down: " in text
    assert bench.recycles == []


def test_a_lowered_power_limit_explains_it_as_the_environment(bench: GpuBench) -> None:
    """Config, not hardware: shown, and told to nobody by default."""
    bench.baseline()
    bench.see()
    bench.see(power_limit_w=500.0)
    bench.slow(0.08, 5)
    latency = next(i for i in bench.incidents if i.check is Check.LATENCY)
    assert (latency.cause, latency.level) == (Cause.ENVIRONMENT, Level.INFO)


def test_a_device_that_always_throttled_explains_nothing(bench: GpuBench) -> None:
    """It did so when the baseline was taken."""
    bench.baseline()
    for i in range(60):
        bench.see(after_s=60, hw_thermal_s=10.0 + 30 * i)
    bench.slow(0.08, 5)
    latency = next(i for i in bench.incidents if i.check is Check.LATENCY)
    assert latency.cause is Cause.UNKNOWN


def test_where_the_gpu_cannot_tell_nothing_changes(bench: GpuBench) -> None:
    """No figure is no explanation."""
    bench.baseline()
    bench.see(**dict.fromkeys(WELL))
    bench.slow(0.08, 5)
    (latency,) = bench.incidents
    assert latency.cause is Cause.UNKNOWN
    assert bench.verdicts(Check.GPU) == [(Status.OK, Reason.GOOD)]  # of the driver; the device has nothing to judge


def test_a_lost_gpu_explains_the_time_outs_and_no_recycle_is_asked_for(bench: GpuBench) -> None:
    """Else it would be recycled for ever."""
    bench.see(Xid(at=NOW, device=UUID, xid=79))
    for _ in range(4):
        bench.take(Answer.TIMEOUT, **HUNG)
    availability = next(i for i in bench.incidents if i.check is Check.AVAILABILITY)
    assert (availability.state, availability.cause) == (IncidentState.FIRING, Cause.HARDWARE)
    assert bench.recycles == []


def test_a_silent_driver_makes_its_devices_unknown(bench: GpuBench) -> None:
    """And is a page of its own once that has lasted; over when it answers again."""
    bench.see()
    for stuck_s in (20.0, 80.0):
        bench.clock.at += 15
        sample = GpuSample(
            target="chat", at=bench.clock.at, fault="driver_unresponsive", call="nvmlDeviceGetName", stuck_s=stuck_s
        )
        bench.pipeline.take_gpu(sample)
    (incident,) = bench.incidents
    assert (incident.subject, incident.reason, incident.level) == (
        "gpu driver",
        Reason.DRIVER_UNRESPONSIVE,
        Level.PAGE,
    )
    assert (Status.UNKNOWN, Reason.DRIVER_UNRESPONSIVE) in bench.verdicts(Check.GPU)
    for _ in range(3):
        bench.see()
    assert bench.told == ["firing", "resolved"]


def test_a_target_that_moved_to_another_gpu_leaves_its_incident_behind(bench: GpuBench) -> None:
    """It is closed and said; what stood about the old device is no longer OK or WORSE but unknown."""
    bench.see(row_remap_pending=1)
    bench.clock.at += 15
    other = DeviceSample(index=1, at=bench.clock.at, uuid="GPU-1", figures=WELL, others=0)
    bench.pipeline.take_gpu(GpuSample(target="chat", at=bench.clock.at, devices=(other,)))
    bench.clock.at += 400
    bench.pipeline.tick()
    assert bench.incidents[0].state is IncidentState.RESOLVED
    assert bench.told == ["firing", "resolved"]
    assert "runs on another GPU now" in bench.deliveries[-1].payload["text"]


def test_throttled_seconds_only_go_up(bench: GpuBench) -> None:
    """The device's counter begins again with its driver; ours counts on, from what the first reading showed."""
    labels = {"target": "chat", "device": "0", "kind": "hw_thermal"}
    bench.see(hw_thermal_s=1000.0)
    assert bench.metric("watchdog_gpu_throttle_seconds_total", **labels) == 0
    bench.see(hw_thermal_s=1005.0)
    bench.see(hw_thermal_s=2.0)
    assert bench.metric("watchdog_gpu_throttle_seconds_total", **labels) == 7


def test_the_counters_of_a_target_go_with_it() -> None:
    """A reload that drops it drops its lines."""
    metrics = Metrics(CollectorRegistry(), targets={"chat": ["default"]}, notifiers=["ops"])
    device = DeviceSample(index=3, at=NOW, uuid=UUID, figures=WELL)
    sample = GpuSample(target="chat", at=NOW, devices=(device,))
    metrics.observe_gpu(sample)
    labels = {"target": "chat", "device": "3", "kind": "hw_thermal"}
    assert metrics.registry.get_sample_value("watchdog_gpu_throttle_seconds_total", labels) == 0
    metrics.follow({}, notifiers=["ops"])
    assert metrics.registry.get_sample_value("watchdog_gpu_throttle_seconds_total", labels) is None
    metrics.observe_gpu(sample)
    assert metrics.registry.get_sample_value("watchdog_gpu_throttle_seconds_total", labels) is None


def gate(bench: GpuBench, trigger: Trigger, incident: Incident | None = None) -> str | None:
    """What stands in the way of a recycle, as the gate sees it."""
    asked = request(
        "chat", trigger, "leaking", incident.id if incident else None, now=bench.clock.at, new_id=lambda: "asked"
    )
    with bench.database.read() as connection:
        return gather_facts(connection, asked, bench.target, now=bench.clock.at).hardware


@pytest.mark.parametrize("fault", ["failed", "implausible", None])
def test_a_call_that_fails_closes_no_incident_and_opens_no_gate(bench: GpuBench, fault: str | None) -> None:
    """Whether the driver still asks for a reset cannot be read: nobody is told that it does not. (What a real reader
    says of such a driver is in test_gpu_matrix.)"""
    bench.see(recovery_action=1)
    for _ in range(5):
        bench.see(recovery_action=None, fault=fault)
    assert (bench.incidents[0].state, len(bench.told)) == (IncidentState.FIRING, 1)
    assert gate(bench, Trigger.HAND) == "gpu_reset_needed"
    for _ in range(5):
        bench.see()
    assert bench.incidents[0].state is IncidentState.RESOLVED
    assert gate(bench, Trigger.HAND) is None


@pytest.mark.parametrize(
    ("figures", "leak", "fault"),
    [
        ({}, None, None),
        ({"hw_thermal_s": 10_000.0}, None, None),
        ({"row_remap_pending": 1}, None, "memory_repair_pending"),
        ({"recovery_action": 1}, "gpu_reset_needed", "gpu_reset_needed"),
    ],
)
def test_the_gate_knows_what_a_recycle_cannot_help(
    bench: GpuBench, figures: dict[str, Any], leak: str | None, fault: str | None
) -> None:
    """Held back: all but one for a leak, or for age. Blocked: those too."""
    bench.see(**figures)
    incidents = {check: make_incident(f"i-{check}", check=check) for check in (Check.MEMORY, Check.LATENCY)}
    with bench.database.write() as connection:
        for incident in incidents.values():
            alert_store.save_incident(connection, incident)
    assert gate(bench, Trigger.INCIDENT, incidents[Check.LATENCY]) == fault
    assert gate(bench, Trigger.INCIDENT, incidents[Check.MEMORY]) == leak
    assert gate(bench, Trigger.AGE) == leak


def test_a_driver_that_may_only_be_slow_holds_recycles_back_already(bench: GpuBench) -> None:
    """Killing a client of a driver that hangs may freeze the GPU."""
    bench.clock.at += 15
    hung = GpuSample(target="chat", at=bench.clock.at, fault="driver_unresponsive", call="x", stuck_s=15.0)
    bench.pipeline.take_gpu(hung)
    assert bench.incidents == []
    assert gate(bench, Trigger.AGE) == "driver_unresponsive"
    bench.see()
    assert gate(bench, Trigger.AGE) is None
