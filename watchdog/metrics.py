"""Every metric name of the watchdog, and how values become samples. Base units; names and labels are a contract.

Counters exist from the start at zero with all their labels. A gauge is absent until its value is known and while it is
unknown: no line is better than a wrong zero. Labels are bounded: workers are slots, never pids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from alerts.episode import Outcome as RecycleOutcome
from alerts.outbox import DeliveryResult
from baselines.verdict import Check, Level, Reason, Status, Verdict
from probes.messages import Burst, MemorySample, Outcome

LATENCY_BUCKETS_S = tuple(0.001 * 2 ** (i / 2) for i in range(28))  # 1 ms to 11.6 s in steps of 41 %
LATENESS_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
MEMORY_KINDS = ("host_anon", "gpu_used", "device_used", "allocated", "reserved", "capacity", "gpu_capacity")
RECYCLE_REASONS = (
    Reason.TIMEOUT,
    Reason.REFUSED,
    Reason.CONNECTION_FAILED,
    Reason.SERVER_ERROR,
    Reason.NOT_READABLE,
    Reason.WRONG_TEXT,
    Reason.WRONG_SHAPE,
    Reason.NOT_FINITE,
    Reason.DRIFTED,
    Reason.WRONG_TOP_K,
    Reason.REGRESSED,
    Reason.LEAKING,
    Reason.LIMIT_EXCEEDED,
    "max_age",
    "by_hand",
)
ERROR_PLACES = (
    "probe",
    "probe_missed",
    "probe_overlapped",
    "memory",
    "judge",
    "database",
    "results_dropped",
    "recycle",
)


def package_version() -> str:
    """The installed version; "unknown" when run from a source tree that is not installed."""
    try:
        return version("inference-watchdog")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """The metrics of one daemon on one registry.

    targets maps each target to its canaries and notifiers are names: what counters are created at zero for.
    """

    def __init__(
        self, registry: CollectorRegistry, *, targets: Mapping[str, Iterable[str]], notifiers: Iterable[str]
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
        self.slope = Gauge(
            "watchdog_leak_slope_bytes_per_second", "Growth of a worker's memory with its interval.", slot, registry=r
        )
        self.exhaustion = Gauge(
            "watchdog_memory_exhaustion_seconds", "Time until memory is full at that slope.", slot, registry=r
        )
        self.verdict = Gauge(
            "watchdog_verdict",
            "1 for the present status of a check, 0 for the others.",
            ("target", "check", "status"),
            registry=r,
        )
        self.incident = Gauge("watchdog_incident_open", "Firing incidents.", ("target", "check", "level"), registry=r)
        self.model_load = Gauge("watchdog_model_load_seconds", "Load time of the model.", ("target",), registry=r)
        self.deliveries = Counter("watchdog_deliveries", "Delivery attempts.", ("notifier", "result"), registry=r)
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
        self.errors = Counter("watchdog_internal_errors", "Errors of the watchdog itself.", ("where",), registry=r)
        Gauge("watchdog_build_info", "1, with the version.", ("version",), registry=r).labels(package_version()).set(1)
        self._start_at_zero(targets, notifiers)

    def _start_at_zero(self, targets: Mapping[str, Iterable[str]], notifiers: Iterable[str]) -> None:
        for target, canaries in targets.items():
            for canary in canaries:
                for outcome in Outcome:
                    self.requests.labels(target, canary, outcome)
                for phase in ("connect", "first_byte", "last_byte"):
                    self.latency.labels(target, canary, phase)
            for reason in RECYCLE_REASONS:
                self.would_recycle.labels(target, reason)
                for result in RecycleOutcome:
                    self.recycles.labels(target, reason, result)
            for check in Check:
                for level in Level:
                    self.incident.labels(target, check, level).set(0)
            self.breaker.labels(target).set(0)
        for notifier in notifiers:
            for delivery in DeliveryResult:
                self.deliveries.labels(notifier, delivery)
        for place in ERROR_PLACES:
            self.errors.labels(place)

    def observe_burst(self, burst: Burst) -> None:
        """Count a burst's requests and their phases; tainted samples are counted and not timed."""
        labels = (burst.target, burst.canary)
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
            self.last_success.labels(*labels).set(burst.at)
        if "model_load_s" in burst.facts:
            self.model_load.labels(burst.target).set(burst.facts["model_load_s"])

    def observe_memory(self, target: str, samples: Sequence[MemorySample]) -> None:
        """Set the memory gauges of a target's workers; what is None, and every slot without a worker, is removed."""
        present = {str(sample.slot) for sample in samples}
        for gauge in (self.memory, self.slope, self.exhaustion):
            known = [s.labels for metric in gauge.collect() for s in metric.samples]
            for labels in known:
                if labels["target"] == target and labels["slot"] not in present:
                    gauge.remove(*labels.values())
        for sample in samples:
            for kind in MEMORY_KINDS:
                _set(self.memory, (target, str(sample.slot), kind), getattr(sample, f"{kind}_bytes"))

    def observe_verdict(self, verdict: Verdict) -> None:
        """Set the figures a verdict carries; the status is set by `observe_status` for the whole check."""
        evidence = verdict.evidence
        if verdict.check is Check.LATENCY:
            labels = (verdict.target, verdict.subject)
            for bound, key in (("estimate", "ratio"), ("low", "ratio_low"), ("high", "ratio_high")):
                _set(self.ratio, (*labels, bound), evidence.get(key))
            for window, key in (("current", "p95_s"), ("baseline", "baseline_p95_s")):
                _set(self.quantile, (*labels, "0.95", window), evidence.get(key))
        if verdict.check is Check.MEMORY:
            labels = (verdict.target, verdict.subject.removeprefix("slot "))
            for bound, key in (("estimate", "slope_bytes_per_hour"), ("low", "slope_low"), ("high", "slope_high")):
                slope = evidence.get(key)
                _set(self.slope, (*labels, bound), slope / 3600 if isinstance(slope, (int, float)) else None)
            for bound, key in (("estimate", ""), ("low", "_low"), ("high", "_high")):
                _set(self.exhaustion, (*labels, bound), evidence.get(f"seconds_to_capacity{key}"))

    def observe_status(self, target: str, check: Check, status: Status) -> None:
        """The worst status of a check over its subjects."""
        for each in Status:
            self.verdict.labels(target, check, each).set(each is status)

    def observe_incidents(self, firing: Mapping[tuple[str, Check, Level], int]) -> None:
        """Set the number of firing incidents per target, check and level; the others go to zero."""
        counts = {(target, str(check), str(level)): number for (target, check, level), number in firing.items()}
        samples = [s.labels for metric in self.incident.collect() for s in metric.samples]
        for key in {(s["target"], s["check"], s["level"]) for s in samples} | counts.keys():
            self.incident.labels(*key).set(counts.get(key, 0))


def _set(gauge: Gauge, labels: tuple[str, ...], value: object) -> None:
    """Set a gauge, or remove its line while the value is not known."""
    if isinstance(value, (int, float)):
        gauge.labels(*labels).set(value)
    else:
        try:
            gauge.remove(*labels)
        except KeyError:
            return  # it was never known
