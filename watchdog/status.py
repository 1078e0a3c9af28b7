"""How the targets stand, read from the database: what `watchdog status`, the page and the API show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import RecyclePolicy
from alerts.incident import Incident
from alerts.incident import State as IncidentState
from alerts.recycle_store import Episode
from baselines import baseline_store, burst_store, memory_store, verdict_store
from baselines.quantiles import quantile
from baselines.verdict import PEERS, Level, Status, Verdict
from watchdog.config import Config, TargetSection
from watchdog.replicas import replicas_of

SHOWN_BURSTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryStatus:
    """One canary: its last burst, quantiles of the last SHOWN_BURSTS bursts, and its active baseline (None: none).

    Latencies in seconds over good, untainted samples; None without any.
    """

    name: str
    last_at: float | None = None
    last_outcome: str | None = None
    last_good_at: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    baseline_id: int | None = None
    baseline_taken_at: float | None = None
    baseline_label: str | None = None
    baseline_provisional: bool | None = None
    baseline_p50_s: float | None = None
    baseline_p95_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """The newest memory sample of one slot, in bytes; None where it could not be read.

    agent: "good", or why its word is missing; requests, version: what it said. All None where no agent is asked.
    """

    slot: int
    life: str
    at: float
    uptime_s: float | None
    host_anon_bytes: int | None
    capacity_bytes: int | None
    gpu_used_bytes: int | None
    gpu_capacity_bytes: int | None
    agent: str | None = None
    version: str | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """A target as a person wants to see it. status: the worst of its verdicts, a comparison with its
    group left out that cannot be made; UNKNOWN when there is none."""

    name: str
    group: str | None
    mode: str
    device: str
    status: Status
    verdicts: tuple[Verdict, ...]
    canaries: tuple[CanaryStatus, ...]
    workers: tuple[WorkerStatus, ...]
    incidents: tuple[Incident, ...]
    breaker_open: bool
    last_recycle: Episode | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What decides whether a target may get traffic. last_good_at: of each configured canary; None: never."""

    incidents: tuple[Incident, ...]
    breaker_open: bool
    last_good_at: Mapping[str, float | None]


def read_readiness(connection: Connection, target: TargetSection) -> Readiness:
    """What a load balancer asks for every second: of one target, and nothing more."""
    found = alert_store.list_incidents(connection, target=target.name, only_open=True, limit=1000)
    isolated = {c.name for c in target.canary if c.kind == "torch"}  # these say nothing about the serving workers
    return Readiness(
        incidents=tuple(i for i in found if i.state is IncidentState.FIRING and i.subject not in isolated),
        breaker_open=_is_breaker_open(connection, target),
        last_good_at={
            c.name: burst_store.last_good_at(connection, target.name, c.name)
            for c in target.canary
            if c.name not in isolated
        },
    )


def is_watched(config: Config, target: TargetSection, subject: str) -> bool:
    """Whether the configuration still asks about a subject: a canary, a worker or a GPU where they are watched."""
    if subject.startswith(PEERS):
        return bool(replicas_of(config, target, subject.removeprefix(PEERS)))
    if subject.startswith("slot "):  # no canary can have such a name
        return target.process is not None
    if subject.startswith("gpu "):  # nor such a one
        return target.device != "cpu"
    return subject in {c.name for c in target.canary}


def read_targets(connection: Connection, config: Config) -> list[TargetStatus]:
    """The status of every configured target, in the order of the configuration."""
    verdicts = verdict_store.latest_verdicts(connection)
    open_incidents = alert_store.list_incidents(connection, only_open=True, limit=1000)
    firing = [i for i in open_incidents if i.state is IncidentState.FIRING]
    return [_read_target(connection, config, target, verdicts, firing) for target in config.target]


def _read_target(
    connection: Connection, config: Config, target: TargetSection, verdicts: list[Verdict], firing: list[Incident]
) -> TargetStatus:
    stand = [v for v in verdicts if v.target == target.name and is_watched(config, target, v.subject)]
    mine = tuple(sorted(stand, key=lambda v: (v.subject, v.check)))
    statuses = {v.status for v in mine if not v.is_moot}
    if any(i.target == target.name and i.level is not Level.INFO for i in firing):
        statuses.add(Status.WORSE)  # an incident fires until it resolves, whatever the newest burst could show
    worst = Status.WORSE if Status.WORSE in statuses else Status.OK if statuses == {Status.OK} else Status.UNKNOWN
    episodes = recycle_store.list_episodes(connection, target.name, limit=1)
    return TargetStatus(
        name=target.name,
        group=target.group,
        mode=target.mode,
        device=target.device,
        status=worst,
        verdicts=mine,
        canaries=tuple(_read_canary(connection, target.name, c.name) for c in target.canary),
        workers=tuple(
            WorkerStatus(
                slot=m.slot,
                life=m.life,
                at=m.at,
                uptime_s=m.uptime_s,
                host_anon_bytes=m.host_anon_bytes,
                capacity_bytes=m.capacity_bytes,
                gpu_used_bytes=m.gpu_used_bytes,
                gpu_capacity_bytes=m.gpu_capacity_bytes,
                agent=m.agent,
                version=m.version,
                requests=m.requests,
            )
            for m in (memory_store.latest_memory(connection, target.name) if target.process is not None else [])
        ),
        incidents=tuple(i for i in firing if i.target == target.name),
        breaker_open=_is_breaker_open(connection, target),
        last_recycle=episodes[0] if episodes else None,
    )


def _is_breaker_open(connection: Connection, target: TargetSection) -> bool:
    return recycle_store.ineffective_in_a_row(connection, target.name) >= RecyclePolicy().breaker_limit


def _read_canary(connection: Connection, target: str, canary: str) -> CanaryStatus:
    bursts = burst_store.bursts_since(connection, target, canary, limit=SHOWN_BURSTS)
    latencies = [s.latency_s for b in bursts for s in b.judged if s.latency_s is not None]
    baseline = baseline_store.active_baseline(connection, target, canary)
    failed = next((s.outcome for s in bursts[-1].samples if s.outcome != "good"), "good") if bursts else None
    return CanaryStatus(
        name=canary,
        last_at=bursts[-1].at if bursts else None,
        last_outcome=failed,
        last_good_at=burst_store.last_good_at(connection, target, canary),
        p50_s=quantile(latencies, 0.5) if latencies else None,
        p95_s=quantile(latencies, 0.95) if latencies else None,
        baseline_id=baseline.id if baseline else None,
        baseline_taken_at=baseline.taken_at if baseline else None,
        baseline_label=baseline.label if baseline else None,
        baseline_provisional=baseline.provisional if baseline else None,
        baseline_p50_s=baseline.p50_s if baseline else None,
        baseline_p95_s=baseline.p95_s if baseline else None,
    )
