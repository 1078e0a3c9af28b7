"""The metrics: names and labels are a contract; counters start at zero; gauges are absent while unknown."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from alerts.episode import Outcome as RecycleOutcome
from alerts.outbox import DeliveryResult
from baselines.availability import reason_of
from baselines.cause import availability_cause
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Burst, Family, Identity, MemorySample, Outcome, Sample
from watchdog.metrics import RECYCLE_REASONS, Metrics

AT = 1_700_000_000.0
Labels = frozenset[tuple[str, str]]


def make_metrics() -> Metrics:
    return Metrics(CollectorRegistry(), targets={"api": ["default", "big"]}, notifiers=["oncall"])


def read(metrics: Metrics) -> dict[str, dict[Labels, float]]:
    """What a scraper sees: value by sample name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labelled(**labels: str) -> Labels:
    return frozenset(labels.items())


def make_burst(*samples: Sample, facts: Mapping[str, float] | None = None) -> Burst:
    return Burst(
        target="api", canary="default", at=AT, samples=samples, identity=Identity(input_hash="x"), facts=facts or {}
    )


def make_verdict(check: Check, status: Status, subject: str, **evidence: float | None) -> Verdict:
    return Verdict(
        target="api", check=check, subject=subject, at=AT, status=status, reason=Reason.NO_DATA, evidence=evidence
    )


def make_memory(slot: int, **figures: int | None) -> MemorySample:
    return MemorySample(target="api", slot=slot, life=f"{4242 + slot}@99", at=AT, **figures)  # type: ignore[arg-type]


def busy_metrics() -> Metrics:
    """Metrics of a daemon that has seen everything."""
    metrics = make_metrics()
    good = Sample(at=AT, outcome=Outcome.GOOD, latency_s=0.03, first_byte_s=0.02, connect_s=0.001)
    metrics.observe_burst(make_burst(good, facts={"model_load_s": 2.5}))
    ratio = {"ratio": 1.3, "ratio_low": 1.2, "ratio_high": 1.4, "p95_s": 0.05, "baseline_p95_s": 0.04}
    metrics.observe_verdict(make_verdict(Check.LATENCY, Status.WORSE, "default", **ratio))
    slope = {"slope_bytes_per_hour": 7200.0, "slope_low": 3600.0, "slope_high": 10800.0, "seconds_to_capacity": 9e4}
    counts = {"fds": 12, "fd_limit": 1024, "threads": 4}
    metrics.observe_memory("api", [make_memory(0, host_anon_bytes=5, capacity_bytes=10, **counts), make_memory(1)])
    metrics.observe_verdict(make_verdict(Check.MEMORY, Status.WORSE, "slot 0", **slope))
    metrics.observe_status("api", Check.MEMORY, Status.WORSE)
    metrics.observe_incidents({("api", Check.MEMORY, Level.PAGE): 1})
    metrics.lateness.observe(0.01)
    return metrics


CONTRACT = {
    "canary_requests_total": {"target", "canary", "outcome"},
    "canary_latency_seconds_count": {"target", "canary", "phase"},
    "latency_ratio": {"target", "canary", "bound"},
    "latency_quantile_seconds": {"target", "canary", "q", "window"},
    "memory_bytes": {"target", "slot", "kind"},
    "worker_fds": {"target", "slot"},
    "worker_fd_limit": {"target", "slot"},
    "worker_threads": {"target", "slot"},
    "leak_slope_bytes_per_second": {"target", "slot", "bound"},
    "memory_exhaustion_seconds": {"target", "slot", "bound"},
    "verdict": {"target", "check", "status"},
    "incident_open": {"target", "check", "level"},
    "model_load_seconds": {"target"},
    "deliveries_total": {"notifier", "result"},
    "recycles_total": {"target", "reason", "result"},
    "would_recycle_total": {"target", "reason"},
    "breaker_open": {"target"},
    "probe_lateness_seconds_count": set(),
    "last_success_timestamp_seconds": {"target", "canary"},
}


@pytest.mark.parametrize("name", CONTRACT)
def test_name_and_labels_are_the_contract(name: str) -> None:
    """Each metric of the design is there under its name, with its labels and no others."""
    samples = read(busy_metrics())[f"watchdog_{name}"]
    assert {frozenset(label for label, _ in labels) for labels in samples} == {frozenset(CONTRACT[name])}


def test_every_name_has_the_prefix() -> None:
    """Nothing of the watchdog's appears under another name."""
    assert all(name.startswith("watchdog_") for name in read(busy_metrics()))


def test_fixed_labels_are_the_contract() -> None:
    """The words of bound, window, phase and status are what dashboards select by."""
    found = read(busy_metrics())

    def words(name: str, label: str) -> set[str]:
        return {dict(labels)[label] for labels in found[f"watchdog_{name}"]}

    assert words("latency_ratio", "bound") == {"estimate", "low", "high"}
    assert words("leak_slope_bytes_per_second", "bound") == {"estimate", "low", "high"}
    assert words("latency_quantile_seconds", "window") == {"current", "baseline"}
    assert words("canary_latency_seconds_count", "phase") == {"connect", "first_byte", "last_byte"}
    assert words("verdict", "status") == {"OK", "WORSE", "UNKNOWN"}


def test_counters_exist_at_zero_from_the_start() -> None:
    """A rate over a counter that appears only with its first event misses that event."""
    found = read(make_metrics())
    for canary in ("default", "big"):
        for outcome in Outcome:
            labels = labelled(target="api", canary=canary, outcome=outcome)
            assert found["watchdog_canary_requests_total"][labels] == 0
        for phase in ("connect", "first_byte", "last_byte"):
            labels = labelled(target="api", canary=canary, phase=phase)
            assert found["watchdog_canary_latency_seconds_count"][labels] == 0
    for result in DeliveryResult:
        assert found["watchdog_deliveries_total"][labelled(notifier="oncall", result=result)] == 0
    for reason in RECYCLE_REASONS:
        assert found["watchdog_would_recycle_total"][labelled(target="api", reason=reason)] == 0
        for ended in RecycleOutcome:
            assert found["watchdog_recycles_total"][labelled(target="api", reason=reason, result=ended)] == 0
    for check in Check:
        for level in Level:
            assert found["watchdog_incident_open"][labelled(target="api", check=check, level=level)] == 0
    assert found["watchdog_breaker_open"][labelled(target="api")] == 0
    assert found["watchdog_probe_lateness_seconds_count"][labelled()] == 0
    assert set(found["watchdog_internal_errors_total"].values()) == {0}


def test_counters_gain_no_labels_in_use() -> None:
    """What is counted was there before: no series begins with its first event."""
    counters = ("canary_requests_total", "recycles_total", "would_recycle_total", "deliveries_total")
    before, after = read(make_metrics()), read(busy_metrics())
    for name in counters:
        assert before[f"watchdog_{name}"].keys() == after[f"watchdog_{name}"].keys()


@pytest.mark.parametrize("outcome", [o for o in Outcome if o.family in (Family.UNAVAILABLE, Family.FAULT)], ids=str)
@pytest.mark.parametrize("worker_cpu", [None, 0.0, 1.0])
def test_every_failure_that_may_be_recycled_has_its_counter(outcome: Outcome, worker_cpu: float | None) -> None:
    """The reasons of the recycle counters cover every outcome whose cause may be the model."""
    failed = Sample(at=AT, outcome=outcome)
    burst = Burst(
        target="api",
        canary="default",
        at=AT,
        samples=(failed,),
        identity=Identity(input_hash="x"),
        workers_alive=1,
        worker_cpu=worker_cpu,
    )
    if availability_cause(burst, outcome) is Cause.MODEL:
        assert reason_of(outcome) in RECYCLE_REASONS


GAUGES = (
    "latency_ratio",
    "latency_quantile_seconds",
    "memory_bytes",
    "leak_slope_bytes_per_second",
    "memory_exhaustion_seconds",
    "verdict",
    "model_load_seconds",
    "last_success_timestamp_seconds",
)


@pytest.mark.parametrize("name", GAUGES)
def test_gauge_is_absent_until_known(name: str) -> None:
    """Before the first value there is no line, which is better than a wrong zero."""
    assert f"watchdog_{name}" not in read(make_metrics())


def test_latency_gauges_go_when_the_ratio_is_unknown_again() -> None:
    """An UNKNOWN verdict has no ratio: the old one must not stand on."""
    metrics = busy_metrics()
    metrics.observe_verdict(make_verdict(Check.LATENCY, Status.UNKNOWN, "default", baseline_p95_s=0.04))
    found = read(metrics)
    assert "watchdog_latency_ratio" not in found
    labels = labelled(target="api", canary="default", q="0.95", window="baseline")
    assert found["watchdog_latency_quantile_seconds"] == {labels: 0.04}


def test_leak_gauges_go_when_the_slope_is_unknown_again() -> None:
    """A new life begins without a slope and without a forecast."""
    metrics = busy_metrics()
    metrics.observe_verdict(make_verdict(Check.MEMORY, Status.UNKNOWN, "slot 0", seconds_to_capacity=None))
    found = read(metrics)
    assert "watchdog_leak_slope_bytes_per_second" not in found
    assert "watchdog_memory_exhaustion_seconds" not in found


def test_slope_is_per_second() -> None:
    """Base units: the detector's bytes per hour become bytes per second."""
    found = read(busy_metrics())["watchdog_leak_slope_bytes_per_second"]
    assert found[labelled(target="api", slot="0", bound="estimate")] == pytest.approx(2.0)
    assert found[labelled(target="api", slot="0", bound="low")] == pytest.approx(1.0)


def test_memory_that_cannot_be_read_has_no_line() -> None:
    """A figure that becomes None takes its line away, and only its own."""
    metrics = make_metrics()
    metrics.observe_memory("api", [make_memory(0, host_anon_bytes=5, gpu_used_bytes=7)])
    metrics.observe_memory("api", [make_memory(0, host_anon_bytes=6)])
    assert read(metrics)["watchdog_memory_bytes"] == {labelled(target="api", slot="0", kind="host_anon"): 6}


def test_what_a_worker_holds_besides_memory_is_told() -> None:
    """Each by itself: what cannot be read has no line."""
    metrics = make_metrics()
    metrics.observe_memory("api", [make_memory(0, cgroup_bytes=9, fds=12, threads=4)])
    found, slot = read(metrics), labelled(target="api", slot="0")
    assert found["watchdog_memory_bytes"] == {labelled(target="api", slot="0", kind="cgroup"): 9}
    assert (found["watchdog_worker_fds"], found["watchdog_worker_threads"]) == ({slot: 12}, {slot: 4})
    assert "watchdog_worker_fd_limit" not in found


def test_what_the_agents_say_is_told() -> None:
    """Of each worker; of the model, how long the slowest took to load it."""
    metrics = make_metrics()
    said = {"active_bytes": 8, "in_flight": 2, "shapes": 5, "recompiles": 3, "alloc_retries": 4, "ooms": 1}
    metrics.observe_memory("api", [make_memory(0, model_load_s=2.0, **said), make_memory(1, model_load_s=3.5)])
    found, slot = read(metrics), labelled(target="api", slot="0")
    assert found["watchdog_memory_bytes"] == {labelled(target="api", slot="0", kind="active"): 8}
    for name in ("in_flight", "shapes", "recompiles", "alloc_retries", "ooms"):
        assert found[f"watchdog_worker_{name}"] == {slot: said[name]}
    assert found["watchdog_model_load_seconds"] == {labelled(target="api"): 3.5}


@pytest.mark.parametrize("left", [[], [make_memory(0, fds=3, host_anon_bytes=5)]], ids=["no worker", "one worker"])
def test_worker_that_is_gone_has_no_lines(left: list[MemorySample]) -> None:
    """A slot without a worker takes its memory, its descriptors, its slope and its forecast with it."""
    metrics = make_metrics()
    metrics.observe_memory("api", [make_memory(slot, fds=3, host_anon_bytes=5) for slot in (0, 1)])
    for slot in (0, 1):
        metrics.observe_verdict(make_verdict(Check.MEMORY, Status.WORSE, f"slot {slot}", slope_bytes_per_hour=3600.0))
    metrics.observe_memory("other", [])
    assert len(read(metrics)["watchdog_memory_bytes"]) == 2
    metrics.observe_memory("api", left)
    found = read(metrics)
    for name in ("memory_bytes", "worker_fds", "leak_slope_bytes_per_second"):
        slots = {dict(labels)["slot"] for labels in found.get(f"watchdog_{name}", {})}
        assert slots == {str(s.slot) for s in left}


def test_no_label_holds_a_pid() -> None:
    """Workers are slots: a pid would make a new series with every restart."""
    for samples in read(busy_metrics()).values():
        for labels in samples:
            assert not any(value.startswith("424") for _, value in labels)


def test_tainted_latency_is_counted_and_not_timed() -> None:
    """The watchdog's own delay shows in no histogram; the request happened all the same."""
    metrics = make_metrics()
    metrics.observe_burst(make_burst(Sample(at=AT, outcome=Outcome.GOOD, latency_s=9.0, tainted=True)))
    found = read(metrics)
    assert found["watchdog_canary_requests_total"][labelled(target="api", canary="default", outcome="good")] == 1
    assert sum(found["watchdog_canary_latency_seconds_count"].values()) == 0


def test_latency_of_a_wrong_answer_is_no_latency_of_the_model() -> None:
    """Only good answers are timed to their last byte; and a burst with a bad one is no success."""
    metrics = make_metrics()
    metrics.observe_burst(make_burst(Sample(at=AT, outcome=Outcome.DRIFTED, latency_s=0.1, connect_s=0.01)))
    found = read(metrics)
    timed = {dict(labels)["phase"] for labels, n in found["watchdog_canary_latency_seconds_count"].items() if n}
    assert timed == {"connect"}
    assert "watchdog_last_success_timestamp_seconds" not in found


def test_last_success_is_when_the_burst_was() -> None:
    """Unix seconds of the last burst that was all good."""
    found = read(busy_metrics())["watchdog_last_success_timestamp_seconds"]
    assert found == {labelled(target="api", canary="default"): AT}


def test_incident_that_ended_goes_to_zero() -> None:
    """Not away: its series was there from the start."""
    metrics = busy_metrics()
    labels = labelled(target="api", check="memory", level="page")
    assert read(metrics)["watchdog_incident_open"][labels] == 1
    metrics.observe_incidents({})
    assert read(metrics)["watchdog_incident_open"][labels] == 0


@pytest.mark.parametrize("status", Status)
def test_exactly_one_status_is_one(status: Status) -> None:
    """The present status of a check is 1 and the others are 0."""
    metrics = make_metrics()
    for each in (*Status, status):
        metrics.observe_status("api", Check.LATENCY, each)
    found = read(metrics)["watchdog_verdict"]
    assert [dict(labels)["status"] for labels, value in found.items() if value == 1] == [status]
    assert len(found) == len(Status)


# --- what is watched changes ------------------------------------------------------------------------------------------


def labels_of(metrics: Metrics, word: str) -> set[str]:
    """The names of the series that have this word among their labels' values."""
    return {name for name, series in read(metrics).items() for labels in series if word in dict(labels).values()}


def test_target_that_is_gone_takes_all_its_series() -> None:
    """Counters and gauges, and nothing of another target; one that comes has its zeros at once."""
    metrics = busy_metrics()
    metrics.follow({"api": ["default", "big"], "other": ["default"]}, notifiers=["oncall"])
    before = {name: series for name, series in read(metrics).items() if not name.endswith("_created")}
    assert labels_of(metrics, "other") >= {"watchdog_canary_requests_total", "watchdog_recycles_total"}
    metrics.follow({"api": ["default", "big"]}, notifiers=["oncall"])
    assert labels_of(metrics, "other") == set()
    metrics.follow({"api": ["default", "big"], "other": ["default"]}, notifiers=["oncall"])
    assert {name: read(metrics)[name] for name in before} == before


def test_whole_life_of_a_target_leaves_nothing_behind() -> None:
    """Whatever was observed of it, also after it was gone."""
    empty = Metrics(CollectorRegistry(), targets={}, notifiers=["oncall"])
    metrics = busy_metrics()
    metrics.follow({}, notifiers=["oncall"])
    good = Sample(at=AT, outcome=Outcome.GOOD, latency_s=0.03)
    metrics.observe_burst(make_burst(good))
    metrics.observe_memory("api", [make_memory(0, host_anon_bytes=5)])
    metrics.observe_status("api", Check.MEMORY, Status.OK)
    metrics.observe_incidents({("api", Check.MEMORY, Level.PAGE): 1})
    left = read(metrics)
    del left["watchdog_probe_lateness_seconds_bucket"], left["watchdog_probe_lateness_seconds_sum"]
    assert {name: series for name, series in left.items() if series.keys() != read(empty)[name].keys()} == {}


def test_canary_that_is_gone_takes_its_own_series() -> None:
    """The other canary's counters go on."""
    metrics = busy_metrics()
    metrics.follow({"api": ["default"]}, notifiers=["oncall"])
    assert labels_of(metrics, "big") == set()
    good = labelled(target="api", canary="default", outcome="good")
    assert read(metrics)["watchdog_canary_requests_total"][good] == 1


def test_rebuilt_target_keeps_its_counters_and_forgets_its_gauges() -> None:
    """What it measures may be something else from now on; how often it was asked is still true."""
    metrics = busy_metrics()
    counted = read(metrics)["watchdog_canary_requests_total"]
    metrics.follow({"api": ["default", "big"]}, notifiers=["oncall"], rebuilt=["api"])
    found = read(metrics)
    assert found["watchdog_canary_requests_total"] == counted
    assert not {f"watchdog_{name}" for name in GAUGES} & found.keys()


def test_notifier_that_is_gone_keeps_its_counters() -> None:
    """They say what became of its last messages."""
    metrics = make_metrics()
    metrics.deliveries.labels("oncall", DeliveryResult.DEAD).inc(3)
    metrics.follow({"api": ["default"]}, notifiers=["other"])
    found = read(metrics)["watchdog_deliveries_total"]
    assert found[labelled(notifier="oncall", result="dead")] == 3
    assert found[labelled(notifier="other", result="dead")] == 0
    assert read(metrics)["watchdog_dead_letters"][labelled(notifier="other")] == 0


def test_recycles_are_counted_where_there_is_a_recycler() -> None:
    """Ninety series a target that can never move are left out; they come with the recycler."""
    metrics = Metrics(CollectorRegistry(), targets={"api": ["default"]}, notifiers=[], recycled=())
    assert "watchdog_recycles_total" not in read(metrics)
    assert read(metrics)["watchdog_would_recycle_total"]
    metrics.follow({"api": ["default"]}, notifiers=[], recycled=["api"])
    assert set(read(metrics)["watchdog_recycles_total"].values()) == {0}


def test_database_set_aside_is_absent_until_it_happens() -> None:
    """And again when the file was moved away."""
    metrics = make_metrics()
    name = "watchdog_database_set_aside_timestamp_seconds"
    assert name not in read(metrics)
    metrics.set_aside(AT)
    assert read(metrics)[name] == {labelled(): AT}
    metrics.set_aside(None)
    assert name not in read(metrics)
