"""One watched target while the daemon runs: its canaries, its workers, its policies; and what a recycler sees of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import Connection

from alerts.episode import RecyclePolicy
from alerts.recovery import Recovery, judge_recovery
from alerts.recyclers import Recycler
from baselines import store
from baselines.availability import AvailabilityPolicy
from baselines.baseline import Baseline
from baselines.database import Database
from baselines.leak import LeakPolicy
from baselines.limits import LimitsPolicy
from baselines.regression import RegressionPolicy
from probes.canary.burst import Canary
from probes.expectation import Expectation
from probes.gpu.reader import GpuReader
from probes.host import Host
from probes.messages import Burst, Life, MemorySample, Output
from probes.process import WorkerWatch, is_alive
from watchdog.turns import hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The rules of one target, as the packages below define them."""

    availability: AvailabilityPolicy
    regression: RegressionPolicy
    leak: LeakPolicy
    limits: LimitsPolicy
    recycle: RecyclePolicy


@dataclass(kw_only=True)
class Target:
    """A target and its parts. Implements `alerts.recycling.Subject`.

    wants_gpu: the configuration says `device = "cuda"`, so a missing GPU is missing evidence.
    turns: folder and prefix of the lock files by which the daemon and the command line take turns.
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
    gpu: GpuReader | None = None
    group: str | None = None
    peers: frozenset[str] = frozenset()
    recycler: Recycler | None = None
    drain_s: float = 0.0
    ready_timeout_s: float = 600.0
    verify_bursts: int = 3
    memory_interval_s: float = 15.0
    _goldens: dict[str, Output | None] = field(default_factory=dict)

    @property
    def policy(self) -> RecyclePolicy:
        return self.policies.recycle

    def load_baseline(self, connection: Connection, canary: str) -> Baseline | None:
        """The active baseline as it is in the database now: the command line may have promoted another.

        Its golden output is kept for the next probes, which never wait for the database.
        """
        baseline = store.active_baseline(connection, self.name, canary)
        self._goldens[canary] = baseline.golden if baseline else None
        return baseline

    def baseline(self, canary: str) -> Baseline | None:
        """The same, on a connection of its own."""
        with self.database.read() as connection:
            return self.load_baseline(connection, canary)

    def probe(self, canary: str, *, size: int | None = None, wait_s: float = 0.0, golden: bool = True) -> Burst:
        """Take one burst, compared with the golden output last loaded. Raises turns.Occupied when another holds it."""
        path = self.turns.with_name(f"{self.turns.name}.{self.name}.{canary}.lock")
        with hold(path, wait_s=wait_s, monotonic=self.monotonic, sleep=self.sleep):
            burst = self.canaries[canary].burst(golden=self._goldens.get(canary) if golden else None, size=size)
        return burst if self.gpu is None else _on_gpu(burst, self.gpu)

    def sample_memory(self) -> list[MemorySample]:
        """Memory of each worker now; empty when processes are not watched or none is found."""
        return self.workers.sample(self.now()) if self.workers else []

    # --- as a recycler sees it ----------------------------------------------------------------------------------------

    def lives(self) -> list[Life] | None:
        return None if self.workers is None else list(self.workers.find().values())

    def uptime_s(self, life: Life) -> float | None:
        booted_s = Host().uptime_s()
        if booted_s is None or not is_alive(life):
            return None
        return booted_s - life.start_ticks / os.sysconf("SC_CLK_TCK")

    def missing(self) -> str | None:
        if self.device == "cuda" and (self.gpu is None or not self.gpu.available):
            return "gpu"
        return None

    def burst(self, *, size: int | None = None) -> list[Burst]:
        return [self.probe(name, size=size, wait_s=c.plan.timeout_s) for name, c in self.canaries.items()]

    def memory_bytes(self) -> int | None:
        samples = self.sample_memory()
        figures = [s.host_anon_bytes for s in samples]
        if any(s.gpu_used_bytes is not None for s in samples):
            figures += [s.gpu_used_bytes for s in samples]
        known = [figure for figure in figures if figure is not None]
        return sum(known) if known and len(known) == len(figures) else None

    def judge(self, bursts: Sequence[Burst], *, reason: str, before: int | None, after: int | None) -> Recovery:
        return judge_recovery(
            bursts,
            baselines={name: self.baseline(name) for name in self.canaries},
            policy=self.policies.regression,
            reason=reason,
            before=before,
            after=after,
        )

    def close(self) -> None:
        """Let go of connections and child processes."""
        for canary in self.canaries.values():
            canary.close()


def _on_gpu(burst: Burst, gpu: GpuReader) -> Burst:
    """Add what NVML knows: the driver is provenance, the GPU's type is identity (unless the canary knows better)."""
    versions = {"driver": gpu.driver_version, "cuda_driver": gpu.cuda_version}
    known = {key: value for key, value in versions.items() if value is not None}
    types = sorted(set(gpu.names))
    gpu_type = burst.identity.gpu_type or (", ".join(types) if types else None)
    return replace(
        burst,
        identity=replace(burst.identity, gpu_type=gpu_type),
        provenance={**known, **burst.provenance},
    )
