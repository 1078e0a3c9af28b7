"""Every metric name of the watchdog, and how values become samples. Base units; names and labels are a contract.

Counters exist from the start at zero with all their labels. A gauge is absent until its value is known and while it is
unknown: no line is better than a wrong zero. Labels are bounded: workers are slots, never pids.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from alerts.episode import Outcome as RecycleOutcome
from alerts.outbox import DeliveryResult
from baselines.verdict import PEERS, Check, Level, Reason, Status, Verdict
from probes.gpu.sample import GpuSample
from probes.messages import Burst, MemorySample, Outcome
from watchdog.gpu_series import GpuSeries
from watchdog.series import AbsentGauge, Series, TargetGauges, begin, end

LATENCY_BUCKETS_S = tuple(0.001 * 2 ** (i / 2) for i in range(28))  # 1 ms to 11.6 s in steps of 41 %
LATENESS_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
MEMORY_KINDS = (
    *("host_anon", "cgroup", "gpu_used", "device_used", "capacity", "gpu_capacity"),
    *("allocated", "reserved", "active", "inactive_split", "private_pool"),
)
WORKER_FIGURES = {
    "fds": "Open file descriptors.",
    "fd_limit": "How many there may be.",
    "threads": "Threads.",
    "in_flight": "Requests that have begun and not ended, as its agent says.",
    "shapes": "Different shapes of input since its start, as its agent says.",
    "recompiles": "Recompilations by torch.compile since its start, as its agent says.",
    "alloc_retries": "Allocations on the GPU that torch had to free its cache for since the worker's start.",
    "ooms": "Allocations on the GPU that failed for want of memory since the worker's start.",
}
RECYCLE_REASONS = (
    *(Reason.TIMEOUT, Reason.REFUSED, Reason.CONNECTION_FAILED, Reason.SERVER_ERROR),
    *(Reason.NOT_READABLE, Reason.WRONG_TEXT, Reason.WRONG_SHAPE, Reason.NOT_FINITE, Reason.DRIFTED),
    *(Reason.WRONG_TOP_K, Reason.REGRESSED, Reason.LEAKING, Reason.LIMIT_EXCEEDED, Reason.CONTEXT_POISONED),
    *("max_age", "max_requests", "by_hand"),
)
PHASES = ("connect", "first_byte", "last_byte")
ERROR_PLACES = (
    *("probe", "probe_missed", "probe_overlapped", "memory", "judge", "database", "results_dropped"),
    *("recycle", "reload"),
)


def package_version() -> str:
    """The installed version; "unknown" when run from a source tree that is not installed."""
    try:
        return version("inference-watchdog")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """The metrics of one daemon on one registry.

    targets maps each target to its canaries and notifiers are names: what counters are created at zero for. recycled:
    the targets that have a recycler; None: all. Each call touches only the series of the target it is about.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        targets: Mapping[str, Iterable[str]],
        notifiers: Iterable[str],
        recycled: Collection[str] | None = None,
    ) -> None:
        self.registry = registry
        r = registry
        canary = ("target", "canary")
        slot = ("target", "slot", "bound")
        self.requests = Counter(
            "watchdog_canary_requests", "Canary requests by outcome.", (*canary, "outcome"), registry=r
        )
        self.latency = Histogram(
            "watchdog_canary_latency_seconds",
            "Canary latency by phase: connect, first_byte, last_byte (the whole request without connecting).",
            (*canary, "phase"),
            buckets=LATENCY_BUCKETS_S,
            registry=r,
        )
        self.ratio = Gauge(
            "watchdog_latency_ratio",
            "Current p95 over the baseline's, with the bounds of its 95 % interval.",
            (*canary, "bound"),
            registry=r,
        )
        self.quantile = Gauge(
            "watchdog_latency_quantile_seconds",
            "Quantiles of the bursts under judgement and of the baseline.",
            (*canary, "q", "window"),
            registry=r,
        )
        self.memory = Gauge("watchdog_memory_bytes", "Memory of a worker.", ("target", "slot", "kind"), registry=r)
        self.worker = {
            name: Gauge(f"watchdog_worker_{name}", about, ("target", "slot"), registry=r)
            for name, about in WORKER_FIGURES.items()
        }
        self.slope = Gauge("watchdog_leak_slope_bytes_per_second", "Growth of a worker's memory.", slot, registry=r)
        self.exhaustion = Gauge("watchdog_memory_exhaustion_seconds", "Time until memory is full.", slot, registry=r)
        self.verdict = Gauge(
            "watchdog_verdict",
            "1 for the present status of a check, 0 for the others.",
            ("target", "check", "status"),
            registry=r,
        )
        self.incident = Gauge("watchdog_incident_open", "Firing incidents.", ("target", "check", "level"), registry=r)
        self.model_load = Gauge("watchdog_model_load_seconds", "Load time of the model.", ("target",), registry=r)
        self._gpu = GpuSeries(
            Counter(
                "watchdog_gpu_xid", "Errors that a GPU's driver reported.", ("target", "device", "remedy"), registry=r
            ),
            Counter(
                "watchdog_gpu_throttle_seconds",
                "How long a GPU was slowed down, by what.",
                ("target", "device", "kind"),
                registry=r,
            ),
        )
        self.deliveries = Counter("watchdog_deliveries", "Delivery attempts.", ("notifier", "result"), registry=r)
        self.oldest_pending = Gauge(
            "watchdog_delivery_oldest_pending_seconds",
            "How long the oldest message that is not delivered yet has been waiting; 0 without one.",
            ("notifier",),
            registry=r,
        )
        self.dead_letters = Gauge(
            "watchdog_dead_letters", "Messages that were given up and are kept.", ("notifier",), registry=r
        )
        self.recycles = Counter("watchdog_recycles", "Ended recycles.", ("target", "reason", "result"), registry=r)
        self.would_recycle = Counter(
            "watchdog_would_recycle",
            "Recycles that were called for and held back by the mode, or for want of a [target.recycle].",
            ("target", "reason"),
            registry=r,
        )
        self.breaker = Gauge("watchdog_breaker_open", "1 while the recycle breaker is open.", ("target",), registry=r)
        self.lateness = Histogram(
            "watchdog_probe_lateness_seconds",
            "How late probes started, against their schedule.",
            buckets=LATENESS_BUCKETS_S,
            registry=r,
        )
        self.last_success = Gauge(
            "watchdog_last_success_timestamp_seconds", "When a burst was last all good.", canary, registry=r
        )
        self.queue = Gauge("watchdog_results_queued", "Results measured and not yet judged.", registry=r)
        self.reload_ok = Gauge(
            "watchdog_config_last_reload_successful",
            "1 while the configuration last read is in use, 0 while it was refused and the one before is.",
            registry=r,
        )
        self.reloaded_at = Gauge(
            "watchdog_config_last_reload_success_timestamp_seconds",
            "When a configuration was last read and taken up, or found to be the one in use.",
            registry=r,
        )
        self._set_aside_at = AbsentGauge(
            "watchdog_database_set_aside_timestamp_seconds",
            "When a corrupt database was set aside that still lies there.",
            registry=r,
        )
        self.errors = Counter("watchdog_internal_errors", "Errors of the watchdog itself.", ("where",), registry=r)
        Gauge("watchdog_build_info", "1, with the version.", ("version",), registry=r).labels(package_version()).set(1)
        self._canaries: dict[str, frozenset[str]] = {}
        self._recycled: set[str] = set()
        self._gauges = TargetGauges()
        self._firing: set[tuple[str, str, str]] = set()
        for place in ERROR_PLACES:
            self.errors.labels(place)
        self.follow(targets, notifiers=notifiers, recycled=recycled)

    def follow(
        self,
        targets: Mapping[str, Iterable[str]],
        *,
        notifiers: Iterable[str],
        recycled: Collection[str] | None = None,
        rebuilt: Collection[str] = (),
    ) -> None:
        """Have the series of these targets and no others; counters of those that stay go on.

        rebuilt: targets whose gauges begin anew. Counters of notifiers stay, also of one that is gone: they say what
        became of its last messages.
        """
        canaries = {target: frozenset(names) for target, names in targets.items()}
        before = self._canaries
        self._canaries = canaries  # first: what is observed of a target that is gone makes no new series
        self._gauges.targets = canaries.keys()
        for target in {*rebuilt, *(before.keys() - canaries.keys())}:
            self._gauges.clear(target)
        for target, names in before.items():
            self._end(target, names - canaries.get(target, frozenset()), whole=target not in canaries)
        for target, names in canaries.items():
            for canary in names - before.get(target, frozenset()):
                begin(self._counters_of_canary(target, canary))
            if target not in before:
                begin(self._counters_of_target(target))
            if recycled is None or target in recycled:
                self._recycled.add(target)
                begin(self._counters_of_recycles(target))
        for notifier in notifiers:
            begin((self.deliveries, (notifier, result)) for result in DeliveryResult)
            begin((gauge, (notifier,)) for gauge in (self.oldest_pending, self.dead_letters))

    def _end(self, target: str, canaries: Iterable[str], *, whole: bool) -> None:
        for canary in canaries:
            end(self._counters_of_canary(target, canary))
        if whole:
            self._firing = {key for key in self._firing if key[0] != target}
            end(self._counters_of_target(target))
            self._gpu.end(target)
        if whole and target in self._recycled:
            self._recycled.discard(target)
            end(self._counters_of_recycles(target))

    def _counters_of_canary(self, target: str, canary: str) -> Iterator[Series]:
        yield from ((self.requests, (target, canary, outcome)) for outcome in Outcome)
        yield from ((self.latency, (target, canary, phase)) for phase in PHASES)

    def _counters_of_target(self, target: str) -> Iterator[Series]:
        yield from ((self.would_recycle, (target, reason)) for reason in RECYCLE_REASONS)
        yield from ((self.incident, (target, check, level)) for check in Check for level in Level)
        yield self.breaker, (target,)

    def _counters_of_recycles(self, target: str) -> Iterator[Series]:
        yield from (
            (self.recycles, (target, reason, result)) for reason in RECYCLE_REASONS for result in RecycleOutcome
        )

    def set_aside(self, at: float | None) -> None:
        """When the corrupt database that lies aside was set aside, Unix seconds; None: none lies there."""
        self._set_aside_at.set_or_remove(at)

    def observe_burst(self, burst: Burst) -> None:
        """Count a burst's requests and their phases; tainted samples are counted and not timed."""
        labels = (burst.target, burst.canary)
        if burst.canary not in self._canaries.get(burst.target, ()):
            return  # it is watched no longer
        for s in burst.samples:
            self.requests.labels(*labels, s.outcome).inc()
            if s.tainted:
                continue
            for phase, value in (
                ("connect", s.connect_s),
                ("first_byte", s.first_byte_s),
                ("last_byte", s.latency_s if s.outcome is Outcome.GOOD else None),
            ):
                if value is not None:
                    self.latency.labels(*labels, phase).observe(value)
        if all(s.outcome is Outcome.GOOD for s in burst.samples):
            self._gauges.set(self.last_success, labels, burst.at)
        if "model_load_s" in burst.facts:
            self._gauges.set(self.model_load, (burst.target,), burst.facts["model_load_s"])

    def observe_memory(self, target: str, samples: Sequence[MemorySample]) -> None:
        """Set the gauges of a target's workers; what is None, and every slot without a worker, is removed."""
        present = {str(sample.slot) for sample in samples}
        of_a_slot = (self.memory, self.slope, self.exhaustion, *self.worker.values())
        for gauge, labels in self._gauges.lines_of(target):
            if gauge in of_a_slot and labels[1] not in present:
                self._gauges.set(gauge, labels, None)
        for sample in samples:
            for kind in MEMORY_KINDS:
                self._gauges.set(self.memory, (target, str(sample.slot), kind), getattr(sample, f"{kind}_bytes"))
            for name, gauge in self.worker.items():
                self._gauges.set(gauge, (target, str(sample.slot)), getattr(sample, name))
        if loads := [sample.model_load_s for sample in samples if sample.model_load_s is not None]:
            self._gauges.set(self.model_load, (target,), max(loads))

    def observe_gpu(self, sample: GpuSample) -> None:
        """Count what happened to a target's devices since the sample before."""
        if sample.target in self._canaries:
            self._gpu.observe(sample)

    def observe_verdict(self, verdict: Verdict) -> None:
        """Set the figures a verdict carries; the status is set by `observe_status` for the whole check."""
        evidence = verdict.evidence
        if verdict.check is Check.LATENCY and not verdict.subject.startswith(PEERS):  # those have no baseline
            labels = (verdict.target, verdict.subject)
            for bound, key in (("estimate", "ratio"), ("low", "ratio_low"), ("high", "ratio_high")):
                self._gauges.set(self.ratio, (*labels, bound), evidence.get(key))
            for window, key in (("current", "p95_s"), ("baseline", "baseline_p95_s")):
                self._gauges.set(self.quantile, (*labels, "0.95", window), evidence.get(key))
        if verdict.check is Check.MEMORY:
            labels = (verdict.target, verdict.subject.removeprefix("slot "))
            for bound, key in (("estimate", "slope_bytes_per_hour"), ("low", "slope_low"), ("high", "slope_high")):
                slope = evidence.get(key)
                per_second = slope / 3600 if isinstance(slope, (int, float)) else None
                self._gauges.set(self.slope, (*labels, bound), per_second)
            for bound, key in (("estimate", ""), ("low", "_low"), ("high", "_high")):
                self._gauges.set(self.exhaustion, (*labels, bound), evidence.get(f"seconds_to_capacity{key}"))

    def observe_status(self, target: str, check: Check, status: Status) -> None:
        """The worst status of a check over its subjects."""
        for each in Status:
            self._gauges.set(self.verdict, (target, check, each), float(each is status))

    def observe_incidents(self, firing: Mapping[tuple[str, Check, Level], int]) -> None:
        """Set the number of firing incidents per target, check and level; the others go to zero."""
        counts = {(target, str(check), str(level)): number for (target, check, level), number in firing.items()}
        counts = {key: number for key, number in counts.items() if key[0] in self._canaries}
        for key in self._firing - counts.keys():
            self.incident.labels(*key).set(0)
        for key, number in counts.items():
            self.incident.labels(*key).set(number)
        self._firing = set(counts)
