"""Replicas beside each other on the trip of the data: judged, stored, told once, closed when nobody compares them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builders import NOW, Clock, make_baseline, make_burst
from pipeline_stage import Ops
from prometheus_client import CollectorRegistry

from alerts import delivery_store, recycle_store
from alerts import store as alert_store
from alerts.incident import Incident, State
from alerts.notifiers.delivery import Route
from alerts.notifiers.transport import SharedTransport
from baselines import baseline_store, burst_store, verdict_store
from baselines.database import Database
from baselines.fleet import CLEARING, KEPT, WINDOWS
from baselines.gpu_view import Finding
from baselines.verdict import PEERS, Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Identity, Outcome
from watchdog.bootstrap import Shared
from watchdog.config import Config, parse_config
from watchdog.effects import Effects
from watchdog.metrics import Metrics
from watchdog.pipeline import Pipeline
from watchdog.rebuild import build_watch
from watchdog.status import TargetStatus, read_targets
from watchdog.taking_up import take_up
from watchdog.watch import Current

L4 = Identity(input_hash="abc", gpu_type="NVIDIA L4")
SUBJECT = f"{PEERS}default"
SOON = WINDOWS[0]  # bursts that are enough at twice the latency
NAMES = ("chat-1", "chat-2", "chat-3", "chat-4")


def make_config(*names: str, group: str | None = "chat", canary: str = "default", **others: str) -> Config:
    """Targets of one group; others: those whose canary has another name."""

    def target(name: str, its_canary: str) -> dict[str, Any]:
        grouped = {"group": group} if group else {}
        url = f"http://127.0.0.1:1/{name}"
        return {"name": name, "device": "cpu", "canary": [{"name": its_canary, "url": url}], **grouped}

    return parse_config({"target": [*(target(n, canary) for n in names), *(target(n, c) for n, c in others.items())]})


class Fleet:
    """The real pipeline on a real database, with targets as a configuration makes them; bursts come from the test."""

    def __init__(self, database: Database, transport: SharedTransport, config: Config) -> None:
        self.database, self.transport, self.clock = database, transport, Clock()
        self.shared = Shared(database=database)
        self.start(config)

    def start(self, config: Config) -> None:
        """As a daemon that starts: nothing is remembered but what is in the database."""
        self.current = Current(build_watch(config, self.shared, self.transport))
        self.metrics = Metrics(
            CollectorRegistry(),
            targets={t.name: [c.name for c in t.canary] for t in config.target},
            notifiers=["ops"],
        )
        numbers = itertools.count()
        self.effects = Effects(
            self.current.targets,
            [Route(notifier=Ops())],
            self.metrics,
            now=self.clock,
            new_id=lambda: f"recycle-{next(numbers)}",
            changed=lambda: None,
        )
        self.pipeline = Pipeline(self.database, self.current.targets, self.effects, now=self.clock)
        self.take_up()

    def reload(self, config: Config) -> None:
        """As on SIGHUP: what did not change is kept."""
        self.current.exchange(build_watch(config, self.shared, self.transport, before=self.current.watch))
        self.take_up()

    def take_up(self) -> None:
        with self.database.write(durable=True) as connection:
            take_up(connection, self.current.watch, self.effects, fresh=(), running=frozenset(), now=self.clock())
        with self.database.read() as connection:
            self.effects.restore(connection)

    def minutes(self, count: int, *, identity: Identity = L4, **slower: float) -> None:
        """A burst a minute of every target; slower: how much by, of those named with an underscore for the hyphen."""
        ratios = {name.replace("_", "-"): ratio for name, ratio in slower.items()}
        for _ in range(count):
            self.clock.at += 60
            for target in list(self.current.targets.values()):
                for canary in target.canaries:
                    latency_s = 0.05 * ratios.get(target.name, 1.0)
                    self.pipeline.take_burst(
                        make_burst(
                            at=self.clock.at, target=target.name, canary=canary, identity=identity, latency_s=latency_s
                        )
                    )

    def burst(self, name: str, *outcomes: Outcome) -> None:
        self.clock.at += 60
        self.pipeline.take_burst(make_burst(*outcomes, at=self.clock.at, target=name, identity=L4))

    def baseline(self, name: str, latency_s: float) -> None:
        with self.database.write() as connection:
            stored = baseline_store.save_baseline(
                connection, make_baseline(latency_s=latency_s, target=name, identity=L4)
            )
            baseline_store.promote(connection, stored, at=NOW, by="ana", why="")

    @property
    def incidents(self) -> list[Incident]:
        with self.database.read() as connection:
            found = alert_store.list_incidents(connection)
        return [incident for incident in found if incident.check is Check.LATENCY]

    @property
    def told(self) -> list[tuple[str, str]]:
        """Event and text, oldest first."""
        with self.database.read() as connection:
            found = delivery_store.list_deliveries(connection)
        return [(d.event, d.payload["text"]) for d in reversed(found)]

    def verdict(self, name: str) -> Verdict | None:
        with self.database.read() as connection:
            found = verdict_store.latest_verdicts(connection)
        return next((v for v in found if (v.target, v.subject) == (name, SUBJECT)), None)

    def status(self, name: str) -> TargetStatus:
        with self.database.read() as connection:
            found = read_targets(connection, self.current.watch.config)
        return next(each for each in found if each.name == name)

    def shown(self, name: str, status: Status) -> float | None:
        labels = {"target": name, "check": "latency", "status": status}
        return self.metrics.registry.get_sample_value("watchdog_verdict", labels)


Build = Callable[[Config], Fleet]


@pytest.fixture
def build(database: Database) -> Iterator[Build]:
    transport = SharedTransport()
    yield lambda config: Fleet(database, transport, config)
    transport.close()


@pytest.fixture
def fleet(build: Build) -> Fleet:
    return build(make_config(*NAMES))


def test_slower_replica_is_told_without_any_baseline(fleet: Fleet) -> None:
    """Once, in words that name its place among the others; nothing is recycled for it."""
    fleet.minutes(KEPT, chat_3=1.24)
    (incident,) = fleet.incidents
    assert (incident.target, incident.subject, incident.reason) == ("chat-3", SUBJECT, Reason.SLOWER_THAN_PEERS)
    assert (incident.cause, incident.level, incident.state) == (Cause.UNKNOWN, Level.PAGE, State.FIRING)
    ((event, text),) = fleet.told
    assert event == "firing"
    assert text.startswith("PAGE: chat-3 is slower than its peers\nLatency of chat-3 (canary default): replica 3 of 4")
    assert "is 24% slower than its 3 peers on the same GPU type, NVIDIA L4 (interval " in text
    assert "Likely cause: not known" in text
    with fleet.database.read() as connection:
        assert recycle_store.list_episodes(connection) == []


def test_it_is_over_when_the_replica_keeps_up_again(fleet: Fleet) -> None:
    """Three good in a row after most of the newest bursts are good."""
    fleet.minutes(SOON, chat_3=2.0)
    fleet.minutes(CLEARING // 2 + 3)
    assert [event for event, _ in fleet.told] == ["firing", "resolved"]
    assert fleet.told[-1][1].startswith("RESOLVED: chat-3 is no longer slower than its peers\n")
    assert fleet.status("chat-3").incidents == ()


def test_status_page_and_metrics_show_it(fleet: Fleet) -> None:
    """As a verdict of its own; the gauges of the comparison with a baseline stay absent."""
    fleet.minutes(KEPT, chat_3=1.3)
    assert fleet.status("chat-3").status is Status.WORSE
    assert [v.reason for v in fleet.status("chat-3").verdicts if v.subject == SUBJECT] == [Reason.SLOWER_THAN_PEERS]
    assert [v.reason for v in fleet.status("chat-1").verdicts if v.subject == SUBJECT] == [Reason.WITHIN_PEERS]
    assert fleet.shown("chat-3", Status.WORSE) == 1
    assert fleet.shown("chat-1", Status.WORSE) == 0
    names = {s.labels.get("canary") for m in fleet.metrics.registry.collect() for s in m.samples}
    assert SUBJECT not in names


def test_restart_is_no_beginning(fleet: Fleet) -> None:
    """What was gathered before it counts, from the store; what fired goes on and is told no second time."""
    fleet.minutes(SOON - 1, chat_3=2.0)
    assert fleet.incidents == []
    fleet.start(fleet.current.watch.config)
    fleet.minutes(1, chat_3=2.0)
    assert [i.target for i in fleet.incidents] == ["chat-3"]
    fleet.start(fleet.current.watch.config)
    fleet.minutes(SOON, chat_3=1.15)  # not enough to be named, too much to be cleared
    assert [event for event, _ in fleet.told] == ["firing"]
    assert fleet.verdict("chat-3").reason is Reason.SLOWER_THAN_PEERS  # type: ignore[union-attr]


def test_burst_that_is_judged_twice_counts_once(fleet: Fleet) -> None:
    """A database that could not be written has it come again."""
    fleet.minutes(3)
    burst = make_burst(at=fleet.clock.at + 60, target="chat-1", identity=L4)
    fleet.pipeline.take_burst(burst)
    fleet.pipeline.take_burst(burst)
    assert len(fleet.current.targets["chat-1"].tracks["default"].paces) == 4


def test_what_its_own_baseline_told_is_not_told_twice(fleet: Fleet) -> None:
    """The comparison is evidence then, at level info, and says nothing while the other is cured with it."""
    fleet.baseline("chat-3", 0.05)
    fleet.minutes(SOON, chat_3=2.0)
    own, beside = sorted(fleet.incidents, key=lambda incident: incident.subject)
    assert (own.reason, own.level) == (Reason.REGRESSED, Level.PAGE)
    assert (beside.reason, beside.level) == (Reason.SLOWER_THAN_PEERS, Level.INFO)
    fleet.minutes(10)
    assert [text.splitlines()[0] for _, text in fleet.told] == [
        "PAGE: chat-3 is slower than its baseline",
        "RESOLVED: chat-3 is back within its baseline",
    ]


def test_replica_that_always_was_slower_pages_nobody(fleet: Fleet) -> None:
    """Its baseline says that nothing is new: watch."""
    fleet.baseline("chat-3", 0.1)
    fleet.minutes(SOON, chat_3=2.0)
    (incident,) = fleet.incidents
    assert (incident.reason, incident.level) == (Reason.SLOWER_THAN_PEERS, Level.WATCH)


def test_throttled_gpu_explains_it(fleet: Fleet) -> None:
    """The cause is then the device's, as for a slowdown against a baseline."""
    fleet.minutes(SOON, chat_3=2.0)
    (before,) = fleet.incidents
    fleet.current.targets["chat-3"].driver_finding = Finding(
        reason=Reason.THROTTLED, since=before.since, detail="throttled by heat"
    )
    fleet.minutes(1, chat_3=2.0)
    (incident,) = fleet.incidents
    assert incident.cause in (Cause.HARDWARE, Cause.ENVIRONMENT)
    assert incident.evidence["gpu"] == "throttled by heat"


def test_missing_comparison_makes_no_target_unknown(fleet: Fleet) -> None:
    """While peers are down the line says so, and the target's own verdicts say how it stands."""
    for name in NAMES:
        fleet.baseline(name, 0.05)
    fleet.minutes(KEPT)
    before = fleet.status("chat-1").status
    for _ in range(WINDOWS[0]):
        fleet.burst("chat-1")
    verdict = fleet.verdict("chat-1")
    assert verdict is not None
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.TOO_FEW_PEERS)
    assert fleet.status("chat-1").status is before is Status.OK
    assert fleet.shown("chat-1", Status.OK) == 1


@pytest.mark.parametrize(
    "config",
    [
        make_config("chat-1", "chat-2"),
        make_config("chat-1", "chat-2", "chat-3", group=None),
        make_config("chat-1", "chat-2", other="text"),
    ],
    ids=["two", "no group", "a canary of another name"],
)
def test_where_nobody_can_be_compared_nothing_is_said(build: Build, config: Config) -> None:
    """A comparison that the configuration does not give is not asked for, and is no UNKNOWN."""
    fleet = build(config)
    fleet.minutes(3, chat_1=2.0)
    assert [fleet.verdict(target.name) for target in config.target] == [None] * len(config.target)


def test_mixed_canaries_are_compared_by_name(build: Build) -> None:
    """Those that have it; the others of the group are no peers of theirs."""
    fleet = build(make_config("chat-1", "chat-2", "chat-3", embed="text"))
    fleet.minutes(SOON, chat_2=2.0, embed=9.0)
    (incident,) = fleet.incidents
    assert (incident.target, incident.evidence["replica"], incident.evidence["replicas"]) == ("chat-2", 2, 3)
    assert fleet.verdict("embed") is None


def test_incident_ends_with_the_comparison(fleet: Fleet) -> None:
    """A group that a reload leaves too small closes it and says so; one that stays large enough goes on."""
    fleet.minutes(SOON, chat_3=2.0)
    fleet.reload(make_config("chat-1", "chat-2", "chat-3"))
    fleet.minutes(1, chat_3=2.0)
    (incident,) = fleet.incidents
    assert (incident.state, incident.evidence["peers"], incident.evidence["replicas"]) == (State.FIRING, 2, 3)
    fleet.reload(make_config("chat-2", "chat-3"))
    (incident,) = fleet.incidents
    assert incident.state is State.RESOLVED
    assert fleet.told[-1][1].startswith("CLOSED: chat-3 (canary default) is no longer watched\n")
    assert [v.subject for v in fleet.status("chat-3").verdicts if v.check is Check.LATENCY] == ["default"]
    fleet.minutes(2, chat_3=2.0)
    assert fleet.shown("chat-3", Status.WORSE) == 0


def test_replica_that_is_added_joins_when_it_was_heard(fleet: Fleet) -> None:
    """The others are compared on; and what came while a group was too small is not missing afterwards."""
    fleet.reload(make_config("chat-1", "chat-2"))
    fleet.minutes(5)
    fleet.reload(make_config(*NAMES))
    fleet.minutes(1)
    with fleet.database.read() as connection:
        stored = burst_store.bursts_since(connection, "chat-1", "default", limit=KEPT)
    assert [p.at for p in fleet.current.targets["chat-1"].tracks["default"].paces] == [b.at for b in stored]
