"""What each new result is judged on: gathers the evidence, asks the judges. No decision is made here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection

from alerts import store as alert_store
from alerts.incident import State
from baselines import burst_store, gpu_store, memory_store, slope_store
from baselines.availability import judge_availability
from baselines.cause import blame_device
from baselines.device import DeviceWatch, finding_of, judge_driver
from baselines.fleet import KEPT, judge_peers, weigh
from baselines.gpu_view import XID_STANDS_S, Around
from baselines.leak import LeakWatch
from baselines.limits import LIMIT_WINDOW, LimitsPolicy, join, judge_memory_limit, judge_p95_limit
from baselines.output import judge_output
from baselines.pace import Pace, Track
from baselines.slopes import SlopeHistory
from baselines.verdict import PEERS, Check, Reason, Verdict
from probes.gpu.sample import GpuSample
from probes.host import Host
from probes.messages import Burst, MemorySample
from watchdog.following import follow
from watchdog.target import Target


def judge_burst(connection: Connection, burst: Burst, target: Target, *, now: float) -> list[Verdict]:
    """Availability, output and latency of one canary after a burst that is not stored yet.

    The cause is a device's where the target's devices explain what is seen.
    """
    policies = target.policies
    target.version = burst.provenance.get("model_version", target.version)
    baseline = target.load_baseline(connection, burst.canary)
    last_good_at = burst_store.last_good_at(connection, burst.target, burst.canary)
    first_burst_at = burst_store.first_burst_at(connection, burst.target, burst.canary)
    watch = follow(connection, burst, target, baseline)
    watch.take(burst)
    verdicts = [
        judge_availability(
            burst, last_good_at=last_good_at, first_burst_at=first_burst_at, policy=policies.availability, now=now
        ),
        judge_output(burst, baseline=baseline, now=now),
        join(watch.judge(now=now), _judge_limit(connection, burst, policies.limits, now=now)),
    ]
    return [blame_device(verdict, target.device_findings()) for verdict in verdicts]


def judge_beside(
    connection: Connection, burst: Burst, alone: Iterable[Verdict], targets: Mapping[str, Target], *, now: float
) -> list[Verdict]:
    """Latency beside the others of the group, after a burst that is not stored yet; nothing where none is compared.

    alone: the verdicts on the burst by itself.
    """
    target = targets[burst.target]
    names = target.replicas.get(burst.canary, frozenset())
    if not names:
        return []
    paces = {name: _paces(connection, targets[name], burst.canary) for name in names if name in targets}
    target.tracks[burst.canary].take(burst)
    paces[target.name] = target.tracks[burst.canary].paces
    named = _fires(connection, target, f"{PEERS}{burst.canary}")
    verdict = judge_peers(burst, paces, target.policies.regression.threshold, named=named, now=now)
    verdict = blame_device(verdict, target.device_findings())
    own = next(each for each in alone if each.check is Check.LATENCY)
    return [weigh(verdict, own, told=_fires(connection, target, burst.canary))]


def _fires(connection: Connection, target: Target, subject: str) -> bool:
    incident = alert_store.load_incident(connection, target.name, Check.LATENCY, subject)
    return incident is not None and incident.state is State.FIRING


def _paces(connection: Connection, target: Target, canary: str) -> tuple[Pace, ...]:
    """The newest bursts of a replica; from the store the first time, as after a restart."""
    if canary not in target.tracks:
        target.tracks[canary] = Track(KEPT)
        for burst in burst_store.bursts_since(connection, target.name, canary, limit=KEPT):
            target.tracks[canary].take(burst)
    return target.tracks[canary].paces


def _judge_limit(connection: Connection, burst: Burst, policy: LimitsPolicy, *, now: float) -> Verdict | None:
    if policy.p95_s is None:
        return None
    earlier = burst_store.bursts_since(connection, burst.target, burst.canary, limit=LIMIT_WINDOW - 1)
    return judge_p95_limit([*earlier, burst], policy, now=now)


def judge_memory_samples(
    connection: Connection, samples: Sequence[MemorySample], target: Target, *, now: float
) -> list[Verdict]:
    """Memory of each worker after samples that are not stored yet, at most one of each.

    A life that is not followed yet, after a restart, is read from the store first.
    """
    policies, verdicts = target.policies, []
    for ended in target.leaks.keys() - {sample.life for sample in samples}:
        del target.leaks[ended]
    for sample in samples:
        if sample.life not in target.leaks:
            target.leaks[sample.life] = _take_up(connection, sample, target, now=now)
        watch = target.leaks[sample.life]
        watch.take([sample])
        if watch.age_s >= policies.leak.warmup_s and watch.version != version_of(sample, target):
            watch.inherit(_history(connection, sample, target))
        verdicts.append(join(watch.judge(now=now), judge_memory_limit(sample, policies.limits, now=now)))
    return verdicts


def _take_up(connection: Connection, sample: MemorySample, target: Target, *, now: float) -> LeakWatch:
    """A life with what the store knows of it."""
    policy = target.policies.leak
    watch = LeakWatch(policy)
    watch.take(memory_store.memory_since(connection, target.name, sample.life, since=now - policy.lookback_s))
    watch.drain()  # those were stored when they were new
    watch.inherit(_history(connection, sample, target))
    return watch


def _history(connection: Connection, sample: MemorySample, target: Target) -> SlopeHistory:
    version = version_of(sample, target)
    return slope_store.slope_history(connection, target.name, version, subject=f"slot {sample.slot}", life=sample.life)


def version_of(sample: MemorySample, target: Target) -> str | None:
    """What the worker serves, by its own word or else by its answers'."""
    return sample.version or target.version


def follow_memory(samples: Sequence[MemorySample], target: Target) -> None:
    """Have the lives that are followed know of samples that are not judged; of one that they know, nothing is taken."""
    for sample in samples:
        if sample.life in target.leaks:
            target.leaks[sample.life].take([sample])


def store_memory(connection: Connection, samples: Sequence[MemorySample], target: Target, *, now: float) -> None:
    """The samples, and the slopes that have become known with them."""
    memory_store.add_memory(connection, samples)
    for sample in samples:
        watch = target.leaks.get(sample.life)
        if watch is not None and (slopes := watch.drain()):
            slope_store.add_slopes(connection, target.name, watch.version, slopes, at=now)


def judge_devices(connection: Connection, sample: GpuSample, target: Target, *, now: float) -> list[Verdict]:
    """The driver, and each device of the target, after a sample that is not stored yet.

    A device that is not followed yet, after a restart, is taken up as it was remembered. While the driver as a whole
    does not answer, nothing can be said of the devices.
    """
    driver = judge_driver(sample, now=now)
    target.driver_finding = finding_of(driver)
    verdicts = [driver]
    if sample.fault is not None:
        reason = Reason.GPU_NOT_READ if sample.stuck_s is None else Reason.DRIVER_UNRESPONSIVE
        unknown = [watch.cannot_tell(reason, now=now) for watch in target.devices.values()]
        return verdicts + [verdict for verdict in unknown if verdict is not None]
    oldest = now - XID_STANDS_S
    told = [xid for xid in sample.xids if xid.at >= oldest]
    xids = sorted({*gpu_store.xids_since(connection, oldest), *told}, key=lambda xid: xid.at)
    around = _around(connection, target, now=now)
    keys = {device.uuid or f"gpu {device.index}": device for device in sample.devices}
    for gone in target.devices.keys() - keys.keys():
        del target.devices[gone]
    for key, device in keys.items():
        if key not in target.devices:
            remembered = gpu_store.remembered_device(connection, target.name, key)
            target.devices[key] = DeviceWatch(target.name, remembered)
        target.devices[key].take(device)
        if (verdict := target.devices[key].judge(xids, around, now=now)) is not None:
            verdicts.append(verdict)
    return verdicts


def _around(connection: Connection, target: Target, *, now: float) -> Around:
    """What is known besides the devices: the workers, their last good answer, when the machine started."""
    lives = target.known_lives() or []
    uptimes = [uptime for life in lives if (uptime := target.uptime_s(life)) is not None]
    serving = [name for name, canary in target.canaries.items() if not canary.isolated]
    good = [burst_store.last_good_at(connection, target.name, name) for name in serving]
    booted_s = Host().uptime_s()
    return Around(
        worker_since=now - max(uptimes) if uptimes else None,
        alone=len(lives) == 1,
        good_at=min((at for at in good if at is not None), default=None) if None not in good else None,
        booted_at=None if booted_s is None else now - booted_s,
        xid=target.policies.xid,
    )


def record_devices(connection: Connection, sample: GpuSample, target: Target) -> None:
    """Store what a later run needs of a sample that was judged."""
    gpu_store.add_xids(connection, sample.xids)
    for watch in target.devices.values():
        if (remembered := watch.remember()) is not None:
            gpu_store.remember_device(connection, target.name, remembered)
