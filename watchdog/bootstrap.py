"""The composition root: the one place where configuration becomes objects."""

from __future__ import annotations

import json
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, disable_created_metrics

from alerts.notifiers import NOTIFIERS
from alerts.notifiers.delivery import Notifier, Route
from alerts.recyclers import Recycler
from alerts.recyclers.command import CommandRecycler
from alerts.recyclers.process import ProcessRecycler
from baselines.database import Database
from baselines.verdict import Level
from probes.agent import AgentClient, AgentSpec
from probes.canary.burst import Canary, CanaryPlan
from probes.canary.exchange import Question
from probes.canary.http import HttpCanary
from probes.canary.torch import TorchCanary
from probes.expectation import Expectation
from probes.gpu.reader import GpuReader
from probes.gpu.rhythm import Rhythm
from probes.gpu.usage import TargetGpu
from probes.load import LoadMeter, LoadReading, ask_agents, ask_page, read_series, read_stub_status
from probes.process import ProcessSpec, WorkerWatch, is_alive
from probes.prometheus import parse_selector
from probes.taint import run_queue_delay_s
from watchdog.config import (
    AgentSection,
    Config,
    ConfigError,
    HttpCanarySection,
    LoadSection,
    NotifierSection,
    RecycleSection,
    TargetSection,
    TorchCanarySection,
)
from watchdog.metrics import Metrics
from watchdog.policies import policies_of
from watchdog.spelling import secret_variables
from watchdog.target import Target


def new_id(prefix: str) -> str:
    """An id that is unique and short enough to type."""
    return f"{prefix}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the targets of one process share.

    gpu: NVML, in a process that starts when the first target asks that is not on a CPU. tls: what the machine trusts,
    read once, when the first URL needs it; it takes tens of milliseconds.
    """

    database: Database
    sleep: Callable[[float], object] = time.sleep
    own_delay_s: Callable[[], float] = run_queue_delay_s
    gpu: GpuReader = field(default_factory=GpuReader)
    tls: Callable[[], ssl.SSLContext] = field(default_factory=lambda: cache(ssl.create_default_context))


def build_targets(config: Config, database: Database) -> dict[str, Target]:
    """The targets by name, in the order of the configuration. Raises ConfigError for a file that cannot be read."""
    shared, peers, withheld = (
        Shared(database=database, gpu=build_gpu(config)),
        peers_of(config),
        secret_variables(config),
    )
    return {
        t.name: build_target(t, shared, peers=peers[t.name], inputs=read_inputs(t), withheld=withheld)
        for t in config.target
    }


def build_gpu(config: Config) -> GpuReader:
    """It reads nothing until it is asked."""
    nvml = config.nvml
    rhythm = Rhythm(memory_s=nvml.interval, lists_s=nvml.lists, deadline_s=nvml.deadline)
    return GpuReader(rhythm=rhythm, withheld=secret_variables(config))


def peers_of(config: Config) -> dict[str, frozenset[str]]:
    """The others of each target's group, by the target's name; empty without a group."""
    groups: dict[str | None, set[str]] = {}
    for target in config.target:
        groups.setdefault(target.group, set()).add(target.name)
    return {t.name: frozenset(groups[t.group] - {t.name} if t.group else ()) for t in config.target}


def read_inputs(section: TargetSection) -> dict[str, bytes]:
    """What its canaries send from files, by canary. Raises ConfigError with the keys of those that cannot be read."""
    found, problems = {}, []
    for canary in section.canary:
        if isinstance(canary, HttpCanarySection) and canary.body_file is not None:
            try:
                found[canary.name] = canary.body_file.read_bytes()
            except OSError as error:
                key = f"target[{section.name}].canary[{canary.name}].body_file"
                problems.append(f"{key}: cannot be read: {error.strerror} (given: {str(canary.body_file)!r})")
    if problems:
        raise ConfigError(problems)
    return found


def build_target(
    section: TargetSection,
    shared: Shared,
    *,
    peers: frozenset[str],
    inputs: Mapping[str, bytes],
    withheld: frozenset[str] = frozenset(),
    replaces: Target | None = None,
) -> Target:
    """One target. inputs: see `read_inputs`. withheld: variables that its child processes do not get.

    replaces: the object that stood for it until now."""
    gpu = TargetGpu(shared.gpu, devices=section.gpu.devices) if section.device != "cpu" else None
    workers, agents = None, None
    if section.process is not None:
        spec = ProcessSpec(**section.process.model_dump())
        agents = _build_agents(section.agent) if section.agent is not None else None
        workers = WorkerWatch(spec, target=section.name, gpu=gpu, agents=agents)
    recycle = section.recycle
    return Target(
        name=section.name,
        mode=section.mode,
        device=section.device,
        auto_baseline=section.auto_baseline,
        canaries={
            c.name: _build_canary(section, c, workers, agents, shared, file_input=inputs.get(c.name), withheld=withheld)
            for c in section.canary
        },
        expectations={c.name: _expectation(c) for c in section.canary},
        policies=policies_of(section),
        database=shared.database,
        turns=shared.database.path,
        now=time.time,
        monotonic=time.monotonic,
        sleep=shared.sleep,
        workers=workers,
        agents=agents,
        load=_build_load(section.load, agents, workers, shared) if section.load is not None else None,
        gpu=gpu,
        group=section.group,
        peers=peers,
        recycler=_build_recycler(section.name, recycle, withheld) if recycle else None,
        drain_s=recycle.drain if recycle else 0.0,
        ready_timeout_s=recycle.ready_timeout if recycle else 600.0,
        verify_bursts=recycle.verify_bursts if recycle else 3,
        memory_interval_s=section.leak.interval,
        replaces=replaces,
    )


def _build_agents(section: AgentSection) -> AgentClient:
    if section.port is not None and section.token is not None:
        spec = AgentSpec(port=section.port, token=section.token.get_secret_value(), timeout_s=section.timeout)
    elif section.folder is not None:
        spec = AgentSpec(folder=section.folder, timeout_s=section.timeout)
    else:
        spec = AgentSpec.by_default(timeout_s=section.timeout)
    return AgentClient(spec, monotonic=time.monotonic)


def _build_load(
    section: LoadSection, agents: AgentClient | None, workers: WorkerWatch | None, shared: Shared
) -> LoadMeter:
    """A new kind is a reader in `probes.load` and a branch here."""
    if section.kind == "agent":
        assert agents is not None  # the configuration's own rules
        assert workers is not None
        return LoadMeter(partial(ask_agents, agents, lambda: workers.known().values(), timeout_s=section.timeout))
    read: Callable[[str], LoadReading] = read_stub_status
    if section.metric is not None:
        read = partial(read_series, selector=parse_selector(section.metric), rate=section.rate)
    assert section.url is not None
    headers = {"Accept": "text/plain"} | {name: value.get_secret_value() for name, value in section.headers.items()}
    ask = partial(
        ask_page,
        Question(method="GET", url=section.url, headers=headers),
        read,
        timeout_s=section.timeout,
        ssl_context=shared.tls() if section.url.startswith("https:") else None,
    )
    return LoadMeter(ask, rate=section.rate)


def _build_canary(
    target: TargetSection,
    section: HttpCanarySection | TorchCanarySection,
    workers: WorkerWatch | None,
    agents: AgentClient | None,
    shared: Shared,
    *,
    file_input: bytes | None,
    withheld: frozenset[str],
) -> Canary:
    plan = CanaryPlan(
        interval_s=section.interval,
        timeout_s=section.timeout,
        size=section.burst,
        warmup=section.warmup,
        max_busy=section.max_busy,
    )
    expectation = _expectation(section)
    if isinstance(section, TorchCanarySection):
        return TorchCanary(
            target=target.name,
            name=section.name,
            plan=plan,
            expectation=expectation,
            model=section.model,
            input_spec=section.input,
            python=section.python,
            weights=section.weights,
            device=target.device,
            load_timeout_s=section.load_timeout,
            withheld=withheld,
            own_delay_s=shared.own_delay_s,
            control=section.control == "kernel",
        )
    body, content_type = None, None
    if section.json_ is not None:
        body, content_type = json.dumps(section.json_).encode(), "application/json"
    elif file_input is not None:
        body, content_type = file_input, "application/octet-stream"
    encrypted = any(url is not None and url.startswith("https:") for url in (section.url, section.control_url))
    return HttpCanary(
        target=target.name,
        name=section.name,
        plan=plan,
        expectation=expectation,
        method=section.method,
        url=section.url,
        headers={name: value.get_secret_value() for name, value in section.headers.items()},
        body=body,
        content_type=content_type,
        control_url=section.control_url,
        kernel=agents.kernel_s if agents is not None and section.control == "agent" else None,
        workers=workers,
        now=time.time,
        monotonic=time.monotonic,
        own_delay_s=shared.own_delay_s,
        ssl_context=shared.tls() if encrypted else None,
    )


def _expectation(section: HttpCanarySection | TorchCanarySection) -> Expectation:
    expect = section.expect.model_dump()
    return Expectation(**expect | {"shape": None if expect["shape"] is None else tuple(expect["shape"])})


def _build_recycler(target: str, section: RecycleSection, withheld: frozenset[str]) -> Recycler:
    """A new kind of recycler is a file in `alerts.recyclers` and a branch here."""
    if section.kind == "command":
        assert section.command is not None  # the configuration's own rule
        return CommandRecycler(target=target, argv=section.command, timeout_s=section.timeout, withheld=withheld)
    return ProcessRecycler(
        grace_s=section.grace,
        allow_kill=section.allow_kill,
        alive=is_alive,
        monotonic=time.monotonic,
        wait=time.sleep,
    )


def build_notifier(section: NotifierSection, transport: httpx.BaseTransport) -> Notifier:
    """One notifier on a shared transport."""
    return NOTIFIERS[section.kind](
        name=section.name,
        url=section.url.get_secret_value(),
        transport=transport,
        now=time.time,
        secret=section.secret.get_secret_value() if section.secret else None,
        timeout_s=section.timeout,
    )


def build_routes(config: Config, transport: httpx.BaseTransport) -> list[Route]:
    """Who is told what."""
    return [build_route(section, transport) for section in config.notifier]


def build_route(section: NotifierSection, transport: httpx.BaseTransport, *, notifier: Notifier | None = None) -> Route:
    """What one notifier wants to hear. notifier: the one that serves already; None builds it."""
    return Route(
        notifier=notifier or build_notifier(section, transport),
        min_level=Level(section.min_level),
        targets=frozenset(section.targets),
    )


def build_metrics(config: Config) -> Metrics:
    """Metrics on a registry of their own, every counter at zero."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's switch: `_created` would double each counter
    return Metrics(
        CollectorRegistry(),
        targets=canaries_of(config),
        notifiers=[n.name for n in config.notifier],
        recycled=recycled_of(config),
    )


def canaries_of(config: Config) -> dict[str, list[str]]:
    """The names of each target's canaries."""
    return {t.name: [c.name for c in t.canary] for t in config.target}


def recycled_of(config: Config) -> frozenset[str]:
    """The targets that have a recycler."""
    return frozenset(t.name for t in config.target if t.recycle is not None)


def lock_path(database: Database) -> Path:
    """The file whose lock says that a daemon serves this database."""
    return database.path.with_name(database.path.name + ".daemon.lock")


new_episode_id = partial(new_id, "recycle")

Targets = Mapping[str, Target]
