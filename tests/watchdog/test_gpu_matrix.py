"""The rows of the failure matrix that belong to a GPU: the real pynvml in the real child on the stub driver, the real
pipeline on a real database, and what is concluded. Only the wall clock is the test's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import make_baseline, wait_until
from nvml_stage import Driver, build_stub
from pipeline_stage import HUNG, Bench

from alerts.episode import GateFacts, GateReason, Trigger, may_recycle
from alerts.gate import gather_facts
from alerts.incident import Incident
from alerts.incident import State as IncidentState
from alerts.recycle_requests import request
from baselines import baseline_store, verdict_store
from baselines.database import Database
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.gpu.reader import GpuReader
from probes.gpu.rhythm import Rhythm
from probes.gpu.usage import TargetGpu
from probes.messages import Burst, MemorySample
from probes.messages import Outcome as Answer
from probes.process import life_of

pytestmark = pytest.mark.slow
GB = 10**9
ME = os.getpid()
RHYTHM = Rhythm(memory_s=0.2, lists_s=0.2, deadline_s=0.5, patience_s=0.5, suspect_s=2.0, again_s=0.5)
WELL = f"""
device 0 {80 * GB} {GB} {10 * GB}
process 0 {ME} {4 * GB}
field 0 230 0
field 0 269 0
field 0 270 0
field 0 271 0
text nvmlDeviceGetVbiosVersion 0 96.00.A5.00.01
value nvmlDeviceGetTotalEccErrors/1/0 0 0
value nvmlDeviceGetRemappedRows 0 0 0 0 0
value nvmlDeviceGetCurrentClocksEventReasons 0 0
value nvmlDeviceGetPowerUsage 0 400000
value nvmlDeviceGetEnforcedPowerLimit 0 700000
value nvmlDeviceGetClockInfo/1 0 1755
value nvmlDeviceGetUtilizationRates 0 90 40
"""


class Machine(Bench):
    """A target whose one worker is this very process, on GPU 0 of the stub driver."""

    def __init__(self, database: Database, driver: Driver) -> None:
        self.driver = driver
        self.driver.set(WELL)
        self.ahead_s = 0.0
        self.reader = GpuReader(rhythm=RHYTHM, monotonic=lambda: time.monotonic() + self.ahead_s)
        self.gpu = TargetGpu(self.reader)
        super().__init__(database, device="cuda", gpu=self.gpu, mode="act")
        self.clock.at = time.time()
        self.target.now = self.clock
        began = time.time() - 3600.0
        self.target.uptime_s = lambda _: self.clock.at - began  # type: ignore[method-assign]
        me = life_of(ME)
        assert me is not None
        self.workers.lives = [me]

    def see(self, *lines: str, after_s: float = 15.0) -> None:
        """The driver says this from now on; it is read, and judged as so much later."""
        self.driver.set(WELL + "\n".join(lines) + "\n")
        self.reader.refresh()
        self.look(after_s=after_s)

    def look(self, after_s: float = 15.0) -> None:
        """Judge what is known by now."""
        self.clock.at += after_s
        sample = MemorySample(target="chat", slot=0, life=self.workers.lives[0].key, at=self.clock.at)
        self.gpu.complete([sample], dict(enumerate(self.workers.lives)), {life: [] for life in self.workers.lives})
        devices = self.target.sample_gpu()
        assert devices is not None
        self.pipeline.take_gpu(devices)

    def burst(self, *outcomes: Answer, **about: object) -> Burst:
        return self.target._on_gpu(super().burst(*outcomes, **about), self.gpu)

    def baseline(self, **provenance: str) -> None:
        """Of what answers now; provenance: what was another then."""
        now = self.burst()
        taken = make_baseline(identity=now.identity, provenance={**now.provenance, **provenance})
        with self.database.write() as connection:
            saved = baseline_store.save_baseline(connection, taken)
            baseline_store.promote(connection, saved, at=self.clock.at, by="ana", why="")

    def slow_down(self) -> Incident:
        for _ in range(5):
            self.take(latency_s=0.08)
        return self.incident(Check.LATENCY)

    def incident(self, check: Check) -> Incident:
        return next(i for i in self.incidents if i.check is check)

    def newest(self, check: Check) -> Verdict:
        """The last verdict on the device."""
        with self.database.read() as connection:
            stand = verdict_store.latest_verdicts_of(connection, "chat", check)
        return next(verdict for verdict in stand if verdict.subject == "gpu 0")

    def gate(self, check: Check) -> GateReason:
        """What it says to a recycle for the incident of this check."""
        return may_recycle(self._facts(check), self.target.policy, now=self.clock.at)

    def held_by(self, check: Check) -> str | None:
        """What is wrong with the device that holds such a recycle back."""
        return self._facts(check).hardware

    def _facts(self, check: Check) -> GateFacts:
        incident = self.incident(check)
        asked = request(
            "chat", Trigger.INCIDENT, incident.reason, incident.id, now=self.clock.at, new_id=lambda: "asked"
        )
        with self.database.read() as connection:
            return gather_facts(connection, asked, self.target, now=self.clock.at)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Machine]:
    driver = Driver(tmp_path)
    driver.use(monkeypatch, library)
    machine = Machine(database, driver)
    machine.see()
    machine.baseline()
    yield machine
    driver.set("")  # what hangs in it may end
    machine.reader.close()


def test_a_healthy_gpu_says_nothing(machine: Machine) -> None:
    """The rest of this file is not red by itself."""
    machine.look()
    assert machine.verdicts(Check.GPU) == [(Status.OK, Reason.GOOD)] * 2
    assert machine.incidents == []


@pytest.mark.parametrize("xid", [13, 31])
def test_poisoned_cuda_context(machine: Machine, xid: int) -> None:
    """An Xid, wrong answers, the worker alive: recycle at once."""
    machine.see(f"xid 1 0 {xid}")
    wait_until(lambda: machine.reader.read().xids, "the event came")
    machine.look()
    incident = machine.incident(Check.GPU)
    assert (incident.reason, incident.cause, incident.level) == (Reason.CONTEXT_POISONED, Cause.MODEL, Level.PAGE)
    assert [episode.reason for episode in machine.recycles] == ["context_poisoned"]


def test_gpu_kernel_hang_with_requests_running(machine: Machine) -> None:
    """Time-outs and Xid 8: a recycle, for both reasons."""
    machine.see("xid 1 0 8")
    wait_until(lambda: machine.reader.read().xids, "the event came")
    machine.look()
    for _ in range(3):
        machine.take(Answer.TIMEOUT, **HUNG)
    assert machine.incident(Check.AVAILABILITY).cause is Cause.MODEL
    assert {episode.reason for episode in machine.recycles} == {"context_poisoned", "timeout"}


@pytest.mark.parametrize("field", [270, 271])
def test_thermal_and_power_brake_throttling(machine: Machine, field: int) -> None:
    """Alert hardware; the slowdown it makes has its cause; no recycle."""
    for i in range(1, 5):
        machine.see(f"field 0 {field} {i * 30 * GB}", after_s=60)  # nanoseconds: half of the time
    gpu = machine.incident(Check.GPU)
    assert (gpu.reason, gpu.cause, gpu.level) == (Reason.THROTTLED, Cause.HARDWARE, Level.WATCH)
    latency = machine.slow_down()
    assert (latency.cause, latency.reason) == (Cause.HARDWARE, Reason.REGRESSED)
    assert machine.recycles == []


def test_power_cap_lowered(machine: Machine) -> None:
    """Alert config, at level info; no recycle."""
    machine.see("value nvmlDeviceGetEnforcedPowerLimit 0 450000")
    gpu = machine.incident(Check.GPU)
    assert (gpu.reason, gpu.cause, gpu.level) == (Reason.POWER_CAPPED, Cause.ENVIRONMENT, Level.INFO)
    assert machine.slow_down().cause is Cause.ENVIRONMENT
    assert machine.recycles == []


def test_clocks_locked(machine: Machine) -> None:
    """Lower under load, and neither power nor heat holds them down."""
    for _ in range(5):
        machine.look()
    for _ in range(6):
        machine.see("value nvmlDeviceGetClockInfo/1 0 1200")
    gpu = machine.incident(Check.GPU)
    assert (gpu.reason, gpu.cause) == (Reason.CLOCKS_LOWERED, Cause.ENVIRONMENT)
    assert machine.slow_down().cause is Cause.ENVIRONMENT


def test_noisy_neighbour(machine: Machine) -> None:
    """Another process on the GPU, where there was none."""
    machine.see(f"process 0 {os.getppid()} {GB}")
    gpu = machine.incident(Check.GPU)
    assert (gpu.reason, gpu.cause, gpu.level) == (Reason.NEIGHBOUR, Cause.ENVIRONMENT, Level.INFO)
    assert machine.slow_down().cause is Cause.ENVIRONMENT


def test_vbios_changed(machine: Machine) -> None:
    """A change of version is named with both values; the comparison goes on."""
    machine.baseline(vbios="96.00.00.00.01")
    latency = machine.slow_down()
    assert latency.cause is Cause.VERSION_CHANGED
    assert latency.evidence["changed"] == "vbios 96.00.00.00.01 -> 96.00.A5.00.01"


def test_ecc_uncorrected_and_row_remap_pending(machine: Machine) -> None:
    """Drain and reset; what looks like the model's fault meanwhile is not recycled, but for a leak."""
    machine.see("value nvmlDeviceGetTotalEccErrors/1/0 0 2", "value nvmlDeviceGetRemappedRows 0 0 1 1 0")
    gpu = machine.incident(Check.GPU)
    assert (gpu.reason, gpu.cause, gpu.level) == (Reason.ECC_UNCORRECTED, Cause.HARDWARE, Level.PAGE)
    assert gpu.evidence["also"] == "memory repair pending"
    for _ in range(3):
        machine.take(Answer.STATUS_500, **HUNG)
    assert machine.incident(Check.AVAILABILITY).cause is Cause.HARDWARE
    assert machine.recycles == []


ASKS_FOR_A_RESET, ECC = "field 0 230 1", "value nvmlDeviceGetTotalEccErrors/1/0 0 3"


@pytest.mark.parametrize(
    ("fault", "reason", "gone", "fault_named"),
    [
        (ASKS_FOR_A_RESET, Reason.GPU_RESET_NEEDED, "field 0 230 0 999", "failed"),
        (ASKS_FOR_A_RESET, Reason.GPU_RESET_NEEDED, "field 0 230 0 3", "not told"),
        (ASKS_FOR_A_RESET, Reason.GPU_RESET_NEEDED, "field 0 230 max", "implausible"),
        (ASKS_FOR_A_RESET, Reason.GPU_RESET_NEEDED, "return nvmlDeviceGetFieldValues 999", "failed"),
        (ECC, Reason.ECC_UNCORRECTED, "value nvmlDeviceGetTotalEccErrors/1/0 0 max", "implausible"),
        (ECC, Reason.ECC_UNCORRECTED, "return nvmlDeviceGetTotalEccErrors 3", "not told"),
        (ECC, Reason.ECC_UNCORRECTED, "return nvmlDeviceGetTotalEccErrors 4", "not told"),
        (ECC, Reason.ECC_UNCORRECTED, "return nvmlDeviceGetTotalEccErrors 999", "failed"),
    ],
)
def test_a_figure_that_is_gone_ends_no_fault(
    machine: Machine, fault: str, reason: Reason, gone: str, fault_named: str
) -> None:
    """However it is gone: the incident stays open and recycles held, until the figure is back and is good."""
    machine.see(fault)
    opened = machine.incident(Check.GPU)
    assert (opened.reason, opened.state, machine.held_by(Check.GPU)) == (reason, IncidentState.FIRING, reason)
    for _ in range(4):
        machine.see(gone)
        verdict = machine.newest(Check.GPU)
        assert (verdict.status, verdict.reason, verdict.evidence["fault"]) == (Status.UNKNOWN, reason, fault_named)
        assert (machine.incident(Check.GPU).state, machine.held_by(Check.GPU)) == (IncidentState.FIRING, reason)
    machine.see(fault)
    assert machine.newest(Check.GPU).status is Status.WORSE
    for _ in range(3):
        machine.see()
    assert (machine.incident(Check.GPU).state, machine.held_by(Check.GPU)) == (IncidentState.RESOLVED, None)
    assert machine.told == ["firing", "resolved"]


def test_a_field_that_says_that_the_gpu_is_lost_is_believed(machine: Machine) -> None:
    """Each field has a return code of its own; that the driver asked for a reset before does not hide this."""
    machine.see(ASKS_FOR_A_RESET)
    machine.see("field 0 230 0 15")
    assert machine.newest(Check.GPU).status is Status.WORSE
    assert machine.incident(Check.GPU).reason is machine.held_by(Check.GPU) is Reason.GPU_LOST
    machine.see("field 0 230 0 999")
    verdict = machine.newest(Check.GPU)
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.GPU_LOST)
    for _ in range(3):
        machine.see()
    assert machine.incident(Check.GPU).state is IncidentState.RESOLVED


def test_a_daemon_that_starts_anew_ends_no_fault_that_cannot_be_read(machine: Machine) -> None:
    """What was found is remembered with the device."""
    machine.see(ECC)
    machine.see("return nvmlDeviceGetTotalEccErrors 4")
    machine.target.devices.clear()
    machine.start()
    for _ in range(4):
        machine.see("return nvmlDeviceGetTotalEccErrors 4", after_s=60)
    assert machine.incident(Check.GPU).state is IncidentState.FIRING
    assert machine.held_by(Check.GPU) is Reason.ECC_UNCORRECTED
    for _ in range(3):
        machine.see()
    assert machine.incident(Check.GPU).state is IncidentState.RESOLVED


def test_gpu_fell_off_the_bus(machine: Machine) -> None:
    """Escalate: recycling would loop for ever."""
    machine.see("lost 0")
    wait_until(lambda: machine.reader.lost, "the device is lost")
    machine.look()
    gpu = machine.incident(Check.GPU)
    assert (gpu.reason, gpu.subject, gpu.level) == (Reason.GPU_LOST, "gpu 0", Level.PAGE)
    for _ in range(3):
        machine.take(Answer.TIMEOUT, **HUNG)
    assert machine.incident(Check.AVAILABILITY).cause is Cause.HARDWARE
    assert machine.recycles == []


def test_driver_call_hangs(machine: Machine) -> None:
    """The child is silent: unknown at first, a page once it has lasted; nothing is recycled meanwhile."""
    machine.driver.set(WELL + "hang nvmlDeviceGetMemoryInfo_v2 0\n")
    wait_until(lambda: machine.reader.read().stuck_s is not None, "it is seen")
    machine.look()
    assert machine.verdicts(Check.GPU)[-2:] == [(Status.UNKNOWN, Reason.DRIVER_UNRESPONSIVE)] * 2
    assert machine.incidents == []
    machine.ahead_s = 61.0
    machine.look()
    gpu = machine.incident(Check.GPU)
    assert (gpu.reason, gpu.subject, gpu.level) == (Reason.DRIVER_UNRESPONSIVE, "gpu driver", Level.PAGE)
    assert "nvmlDeviceGetMemoryInfo does not return" in str(gpu.evidence["detail"])
    for _ in range(3):
        machine.take(Answer.TIMEOUT, **HUNG)
    assert machine.incident(Check.AVAILABILITY).cause is Cause.HARDWARE
    assert machine.recycles == []
    machine.driver.set(WELL)
    wait_until(lambda: machine.reader.read().stuck_s is None, "it answers again")
    first = machine.driver.calls()[0].pid
    wait_until(lambda: not Path(f"/proc/{first}").exists(), "the child that was left behind has ended")


def test_nvml_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database) -> None:
    """Degraded: unknown and told to nobody, and the canaries are judged as ever."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    machine = Machine(database, Driver(tmp_path))
    machine.baseline()
    machine.look()
    assert machine.verdicts(Check.GPU) == [(Status.UNKNOWN, Reason.GPU_NOT_READ)]
    for _ in range(3):
        machine.take(Answer.TIMEOUT, **HUNG)
    assert machine.incident(Check.AVAILABILITY).cause is Cause.MODEL
    assert (machine.incident(Check.AVAILABILITY).state, machine.gate(Check.AVAILABILITY)) == (
        IncidentState.FIRING,
        GateReason.NO_RECYCLER,
    )
    machine.reader.close()
