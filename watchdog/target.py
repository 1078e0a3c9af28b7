"""One watched target while the daemon runs: its canaries, its workers, its policies; and what a recycler sees of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import Connection

from alerts.episode import RecyclePolicy
from alerts.gate import Held
from alerts.recovery import MEMORY, Recovery, judge_recovery
from alerts.recyclers import Recycler
from alerts.trim import Trimmed
from baselines import baseline_store
from baselines.baseline import Baseline
from baselines.database import Database
from baselines.device import DeviceWatch
from baselines.gpu_view import Finding
from baselines.leak import LeakWatch
from baselines.pace import Track
from baselines.regression import LatencyWatch
from baselines.verdict import PEERS
from probes.agent import AgentClient
from probes.canary.burst import Canary
from probes.expectation import Expectation
from probes.facts import LOAD
from probes.gpu.nvml import GpuFault
from probes.gpu.sample import GpuSample, sample_of, vbios_of
from probes.gpu.usage import TargetGpu
from probes.host import Host
from probes.load import LoadMeter
from probes.messages import Burst, Identity, Life, MemorySample, Output
from probes.process import WorkerWatch, is_alive
from probes.reading import given_back, left_after
from probes.surroundings import facts_of_gpus
from watchdog.policies import Policies
from watchdog.turns import Occupied, hold

_NO_GPU = frozenset({GpuFault.NO_LIBRARY, GpuFault.NO_DRIVER, GpuFault.NO_DEVICE})
FLOOR_LOOKS, FLOOR_APART_S = 5, 0.2  # a second, in which most requests begin and end


@dataclass(kw_only=True)
class Target:
    """A target and its parts. Implements `alerts.recycling.Subject`.

    wants_gpu: the configuration says `device = "cuda"`, so a missing GPU is missing evidence.
    turns: folder and prefix of the lock files by which the daemon and the command line take turns.
    latencies: what follows each canary; tracks: its newest bursts by canary, for its group;
    leaks: the lives whose memory is followed, by key; devices: the GPUs that are followed, by UUID; version: of the
    model, as the last canary that was told it heard; all the judge thread's alone.
    replicas: those that are compared with it by a canary, itself among them; only canaries for which there are enough.
    replaces: what stood for this target before its configuration changed. It is closed before the first probe: two
    copies of a model seldom fit on one GPU.
    """

    name: str
    mode: str
    device: str
    auto_baseline: bool
    canaries: Mapping[str, Canary]
    expectations: Mapping[str, Expectation]
    policies: Policies
    database: Database
    turns: Path
    now: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], object]
    workers: WorkerWatch | None = None
    agents: AgentClient | None = None
    load: LoadMeter | None = None
    gpu: TargetGpu | None = None
    group: str | None = None
    peers: frozenset[str] = frozenset()
    replicas: Mapping[str, frozenset[str]] = field(default_factory=dict)
    recycler: Recycler | None = None
    drain_s: float = 0.0
    ready_timeout_s: float = 600.0
    verify_bursts: int = 3
    memory_interval_s: float = 15.0
    replaces: Target | None = None
    leaks: dict[str, LeakWatch] = field(default_factory=dict)
    latencies: dict[str, LatencyWatch] = field(default_factory=dict)
    devices: dict[str, DeviceWatch] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    driver_finding: Finding | None = None
    version: str | None = None
    _baselines: dict[str, Baseline | None] = field(default_factory=dict)
    _vbios: str | None = None

    def watches(self, subject: str) -> bool:
        """Whether verdicts about this subject can still come: a canary, or a worker or GPU where they are watched."""
        if subject.startswith(PEERS):
            return subject.removeprefix(PEERS) in self.replicas
        if subject.startswith("gpu "):  # no canary can have such a name
            return self.gpu is not None
        return subject in self.canaries or (subject.startswith("slot ") and self.workers is not None)

    @property
    def policy(self) -> RecyclePolicy:
        return self.policies.recycle

    def load_baseline(self, connection: Connection, canary: str) -> Baseline | None:
        """The active baseline as it is in the database now: the command line may have promoted another.

        Its golden output is kept for the next probes, which never wait for the database.
        """
        baseline = baseline_store.active_baseline(connection, self.name, canary)
        self._baselines[canary] = baseline
        return baseline

    def baseline(self, canary: str) -> Baseline | None:
        """The same, on a connection of its own."""
        with self.database.read() as connection:
            return self.load_baseline(connection, canary)

    def probe(
        self, canary: str, *, size: int | None = None, times: int = 1, wait_s: float = 0.0, golden: bool = True
    ) -> Burst:
        """Take one burst, compared with the golden output last loaded. Raises turns.Occupied when another holds it."""
        path = self.turns.with_name(f"{self.turns.name}.{self.name}.{canary}.lock")
        with hold(path, wait_s=wait_s, monotonic=self.monotonic, sleep=self.sleep):
            self._succeed()
            load = None if self.load is None else self.load.read().value  # before our own requests are part of it
            expected = self._golden(canary) if golden else None
            with self.gpu.burst() if self.gpu is not None else nullcontext():
                burst = self.canaries[canary].burst(golden=expected, size=size, times=times)
        if load is not None:
            burst = replace(burst, facts={**burst.facts, LOAD: load})
        return burst if self.gpu is None else self._on_gpu(burst, self.gpu)

    def times(self, canary: str) -> int:
        """How many times as many requests its next burst may have: more while something seems to have changed."""
        watch = self.latencies.get(canary)
        return 1 if watch is None else watch.times

    def _on_gpu(self, burst: Burst, gpu: TargetGpu) -> Burst:
        """Add what NVML knows: versions are provenance, the GPU's type is identity (unless the canary knows better).

        And how the devices were when they were last read: nothing is read for this.
        A VBIOS that was told once is known for good: a GPU that is lost meanwhile has no other one.
        """
        reader = gpu.reader
        self._vbios = vbios_of(reader.read()) or self._vbios
        versions = {"driver": reader.driver_version, "cuda_driver": reader.cuda_version, "vbios": self._vbios}
        known = {key: value for key, value in versions.items() if value is not None}
        return replace(
            burst,
            identity=_with_gpu_type(burst.identity, gpu),
            provenance={**known, **burst.provenance},
            facts={**burst.facts, **facts_of_gpus(self._seen_on(gpu))},
        )

    def _golden(self, canary: str) -> Output | None:
        """The golden output, unless it is the answer to something else: another input, or another type of GPU."""
        baseline, identity = self._baselines.get(canary), self.canaries[canary].identity
        if baseline is None or identity is None:
            return None
        known = identity if self.gpu is None else _with_gpu_type(identity, self.gpu)
        return baseline.golden if baseline.identity == known else None

    def sample_memory(self) -> list[MemorySample]:
        """Memory of each worker now; empty when processes are not watched or none is found."""
        return self.workers.sample(self.now()) if self.workers else []

    def sample_gpu(self) -> GpuSample | None:
        """The devices it runs on, now; None when there are none to ask for. Waits but for the very first reading."""
        if self.gpu is None:
            return None
        self.gpu.reader.wait_ready()
        if self.device != "cuda" and self.gpu.reading().fault in _NO_GPU:
            return None
        return self._seen_on(self.gpu)

    def _seen_on(self, gpu: TargetGpu) -> GpuSample:
        """Its devices as they were last read, and who of those on them is its own."""
        reading, host = gpu.reading(), Host()
        pids = {pid for life in self.known_lives() or () for pid in (life.pid, *host.namespace_pids(life.pid))}
        listed = {pid for device in reading.devices for pid in device.processes or ()}
        stats = [stat for pid in listed if (stat := host.stat(pid)) is not None]
        return sample_of(
            reading,
            target=self.name,
            pids=frozenset(pids),
            all_its_own=gpu.knows_devices,
            now=self.now(),
            started=[stat.pid for stat in stats if stat.parent_pid == os.getpid()],
        )

    def device_findings(self) -> list[Finding]:
        """What is wrong with the driver and its devices, by the last judgement; the judge thread's alone."""
        driver = [self.driver_finding] if self.driver_finding is not None else []
        return driver + [finding for watch in self.devices.values() for finding in watch.findings]

    def device_subjects(self) -> frozenset[str]:
        """What verdicts on its devices are about."""
        return frozenset(f"gpu {watch.newest.index}" for watch in self.devices.values() if watch.newest is not None)

    # --- as a recycler sees it ----------------------------------------------------------------------------------------

    def lives(self) -> list[Life] | None:
        return None if self.workers is None else list(self.workers.find().values())

    def known_lives(self) -> list[Life] | None:
        return None if self.workers is None else list(self.workers.known().values())

    def uptime_s(self, life: Life) -> float | None:
        booted_s = Host().uptime_s()
        if booted_s is None or not is_alive(life):
            return None
        return booted_s - life.start_ticks / os.sysconf("SC_CLK_TCK")

    def missing(self) -> str | None:
        if self.device == "cuda" and (self.gpu is None or not self.gpu.reader.available or self.gpu.lost):
            return "gpu"
        return None

    @property
    def can_trim(self) -> bool:
        return self.agents is not None and self.workers is not None

    def trim(self, life: Life, channel: str) -> Trimmed:
        if self.agents is None or self.workers is None:
            return Trimmed(before=None, after=None, detail="no [target.agent] is configured")
        before = self._floor(life, channel)
        reading = self.agents.trim(life)
        if reading.trimmed is None:
            return Trimmed(before=before, after=None, detail=reading.detail)
        # The worker's own look right after the last step too: the next request may take what it needs at once.
        own = left_after(reading.trimmed, channel)
        if own is not None and channel == "host_anon_bytes":
            own += self.workers.helpers_bytes(life)
        looks = [own, self._floor(life, channel)]
        self.workers.note_trim(life, given_back(reading.trimmed))
        return Trimmed(before=before, after=min((left for left in looks if left is not None), default=None))

    def _floor(self, life: Life, channel: str) -> int | None:
        """The least of a few looks: what requests in flight hold for a moment is neither kept nor leaked.

        As the kernel sees it; on the GPU by what torch reserves, since NVML's list of processes is not looked at often
        enough.
        """
        looks = []
        for look in range(FLOOR_LOOKS):
            if look:
                self.sleep(FLOOR_APART_S)
            sample = next((s for s in self.sample_memory() if s.life == life.key), None)
            reserved = sample.reserved_bytes if sample is not None and channel == "gpu_used_bytes" else None
            looks.append(getattr(sample, channel, None) if reserved is None else reserved)
        known = [figure for figure in looks if figure is not None]
        return min(known, default=None)

    @property
    def evidence_age_s(self) -> float:
        slowest_s = max((c.plan.interval_s + c.plan.timeout_s for c in self.canaries.values()), default=60.0)
        return 3 * max(slowest_s, self.policies.leak.judge_every_s if self.workers else 0.0)

    def burst(self, *, size: int | None = None) -> list[Burst]:
        """Of the canaries that ask the server: an isolated one says nothing about it."""
        asked = {name: c for name, c in self.canaries.items() if not c.isolated}
        try:
            return self._burst(asked, size)
        except Occupied as error:
            raise Held(f"somebody else asks just now: {error}") from error

    def _burst(self, canaries: Mapping[str, Canary], size: int | None) -> list[Burst]:
        return [self.probe(name, size=size, wait_s=c.plan.timeout_s) for name, c in canaries.items()]

    def held(self, figure: str) -> int | None:
        if figure != MEMORY:
            return _total([getattr(sample, figure) for sample in self.sample_memory()])
        if self.gpu is not None:
            self.gpu.reader.refresh()
        samples = self.sample_memory()
        figures = [s.host_anon_bytes for s in samples]
        if any(s.gpu_used_bytes is not None for s in samples) or (self.gpu is not None and self.gpu.is_used):
            figures += [s.gpu_used_bytes for s in samples]
        return _total(figures)

    def judge(
        self, bursts: Sequence[Burst], *, reason: str, figure: str, before: int | None, after: int | None
    ) -> Recovery:
        return judge_recovery(
            bursts,
            baselines={name: self.baseline(name) for name in self.canaries},
            policy=self.policies.regression,
            reason=reason,
            figure=figure,
            before=before,
            after=after,
        )

    def close(self) -> None:
        """Let go of connections and child processes. Safe to call twice."""
        self._succeed()
        for canary in self.canaries.values():
            canary.close()

    def _succeed(self) -> None:
        """Close what stood here before."""
        if (before := self.replaces) is not None:
            before.close()
            self.replaces = None


def _total(figures: Sequence[int | None]) -> int | None:
    """None unless each is known, and there is one."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known and len(known) == len(figures) else None


def _with_gpu_type(identity: Identity, gpu: TargetGpu) -> Identity:
    return replace(identity, gpu_type=identity.gpu_type or ", ".join(sorted(set(gpu.names))) or None)
