"""Incidents, deliveries and silences in a real SQLite file."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import func, insert, select

from alerts import delivery_store, schema, store
from alerts.delivery_store import DeliveryState
from alerts.incident import Event, IllegalSignal, Incident, State, StepReason
from alerts.message import incident_message, trial_message
from alerts.notifiers.delivery import Route
from alerts.notifiers.webhook import WebhookNotifier
from alerts.store import Silence
from baselines.verdict import Cause, Check, Level, Reason, Status

NOW = 1_800_000_000.0


def an_incident(incident_id: str = "i1", **more) -> Incident:
    values = {
        "id": incident_id,
        "target": "chat",
        "check": Check.LATENCY,
        "subject": "default",
        "state": State.FIRING,
        "status": Status.WORSE,
        "reason": Reason.REGRESSED,
        "cause": Cause.MODEL,
        "level": Level.PAGE,
        "since": NOW - 60,
        "opened_at": NOW,
        "updated_at": NOW,
        "fired_at": NOW,
        "told_at": NOW,
        "strikes": (0, 1),
        "life": "7@9",
        "evidence": {"ratio": 1.3, "channel": "whole", "control_ratio": None},
    }
    return Incident(**values | more)


def a_route(name: str, transport) -> Route:
    return Route(notifier=WebhookNotifier(name=name, url="http://127.0.0.1:9/", transport=transport, now=lambda: NOW))


@pytest.fixture
def routes(transport) -> list[Route]:
    return [a_route("ops", transport), a_route("audit", transport)]


def tell(connection, incident, event, routes, *, at=NOW) -> int:
    message = incident_message(incident, event, why=StepReason.FIRED, now=at)
    return delivery_store.enqueue_deliveries(connection, message, routes, now=at)


class TestIncidents:
    def test_what_is_saved_comes_back_equal(self, database) -> None:
        """All fields, tuples and enums included."""
        incident = an_incident(acked_by="ana", flaps=2, good_in_a_row=1, resolved_at=NOW + 1)
        with database.write(durable=True) as connection:
            store.save_incident(connection, an_incident())
            store.save_incident(connection, incident)
            assert store.find_incident(connection, "i1") == incident
            assert store.find_incident(connection, "i2") is None

    def test_the_newest_of_a_subject_is_loaded_resolved_or_not(self, database) -> None:
        """A resolved one is needed: it may come back."""
        with database.write(durable=True) as connection:
            for incident in (
                an_incident("old", state=State.RESOLVED, opened_at=NOW - 1000),
                an_incident("new", state=State.RESOLVED, opened_at=NOW),
                an_incident("other", subject="long", opened_at=NOW + 5),
                an_incident("memory", check=Check.MEMORY, opened_at=NOW + 5),
            ):
                store.save_incident(connection, incident)
            loaded = store.load_incident(connection, "chat", Check.LATENCY, "default")
            assert loaded is not None
            assert loaded.id == "new"
            assert store.load_incident(connection, "chat", Check.GPU, "default") is None

    def test_one_that_never_fired_leaves_no_row(self, database) -> None:
        """A blip is not an incident."""
        with database.write(durable=True) as connection:
            store.save_incident(connection, an_incident(state=State.PENDING))
            store.save_incident(connection, an_incident(state=State.INACTIVE))
            assert store.list_incidents(connection) == []

    def test_open_ones_are_listed_first_then_the_newest(self, database) -> None:
        """What matters now is on top."""
        with database.write(durable=True) as connection:
            for incident in (
                an_incident("a", opened_at=NOW - 50, state=State.PENDING),
                an_incident("b", opened_at=NOW, state=State.RESOLVED),
                an_incident("c", opened_at=NOW - 10, target="other"),
            ):
                store.save_incident(connection, incident)
            assert [i.id for i in store.list_incidents(connection)] == ["c", "a", "b"]
            assert [i.id for i in store.list_incidents(connection, only_open=True)] == ["c", "a"]
            assert [i.id for i in store.list_incidents(connection, target="chat", limit=1)] == ["a"]
            assert store.count_firing(connection) == {("other", Check.LATENCY, Level.PAGE): 1}

    def test_acknowledging_names_who_is_on_it(self, database) -> None:
        """Only what is open can be acknowledged; an unknown id is None."""
        with database.write(durable=True) as connection:
            store.save_incident(connection, an_incident())
            store.save_incident(connection, an_incident("over", state=State.RESOLVED))
            acked = store.ack_incident(connection, "i1", by="ana", now=NOW + 5)
            assert acked == store.find_incident(connection, "i1")
            assert acked is not None
            assert acked.acked_by == "ana"
            assert store.ack_incident(connection, "nope", by="ana", now=NOW) is None
            with pytest.raises(IllegalSignal):
                store.ack_incident(connection, "over", by="ana", now=NOW)

    def test_ids_differ_and_say_the_day(self) -> None:
        """Short enough to type."""
        made = {store.new_incident_id(NOW) for _ in range(50)}
        assert len(made) > 45  # 24 random bits a day
        assert all(one.startswith("20270115-") and len(one) == 15 for one in made)


class TestDeliveries:
    def test_state_and_deliveries_are_one_transaction(self, database, routes) -> None:
        """A crash before the commit leaves neither; after it, both."""

        def save_and_die() -> None:
            with database.write(durable=True) as connection:
                store.save_incident(connection, an_incident())
                assert tell(connection, an_incident(), Event.FIRING, routes) == 2
                raise RuntimeError("power cut")

        with pytest.raises(RuntimeError):
            save_and_die()
        with database.read() as connection:
            assert store.list_incidents(connection) == []
            assert delivery_store.list_deliveries(connection) == []

    def test_the_same_message_is_kept_once(self, database, routes) -> None:
        """Telling twice is telling once."""
        with database.write(durable=True) as connection:
            assert tell(connection, an_incident(), Event.FIRING, routes) == 2
            assert tell(connection, an_incident(), Event.FIRING, routes) == 0
            assert len(delivery_store.list_deliveries(connection)) == 2

    def test_a_claimed_delivery_is_nobody_elses_until_the_lease_ends(self, database, routes) -> None:
        """And then it has the same key and one attempt more."""
        with database.write(durable=True) as connection:
            tell(connection, an_incident(), Event.FIRING, routes)
            first = delivery_store.claim_due(connection, "ops", now=NOW, lease_s=30)
            assert first is not None
            assert delivery_store.claim_due(connection, "ops", now=NOW + 29, lease_s=30) is None
            assert delivery_store.next_due_at(connection, "ops") == NOW + 30
            again = delivery_store.claim_due(connection, "ops", now=NOW + 30, lease_s=30)
            assert again is not None
            assert (again.key, first.attempts, again.attempts) == (first.key, 1, 2)

    def test_of_many_claimants_one_gets_it(self, database, routes) -> None:
        """The claim is a conditional update under the write lock."""
        with database.write(durable=True) as connection:
            tell(connection, an_incident(), Event.FIRING, routes[:1])
        claimed, barrier = [], threading.Barrier(4)

        def claim() -> None:
            barrier.wait(10)
            with database.write(durable=True) as connection:
                claimed.append(delivery_store.claim_due(connection, "ops", now=NOW, lease_s=30))

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(claimed) == 4
        assert sum(one is not None for one in claimed) == 1

    def test_a_failure_of_an_ended_lease_does_not_touch_the_new_attempt(self, database, routes) -> None:
        """The late loser of a lease has no say."""
        with database.write(durable=True) as connection:
            tell(connection, an_incident(), Event.FIRING, routes)
            late = delivery_store.claim_due(connection, "ops", now=NOW, lease_s=10)
            current = delivery_store.claim_due(connection, "ops", now=NOW + 10, lease_s=10)
            delivery_store.mark_failed(connection, late, error="late", retry_at=None)
            assert current in delivery_store.list_deliveries(connection)
            delivery_store.mark_sent(connection, current, now=NOW + 11)
            delivery_store.mark_failed(connection, current, error="after", retry_at=None)
            (row,) = [d for d in delivery_store.list_deliveries(connection) if d.notifier == "ops"]
            assert (row.state, row.sent_at, row.last_error) == (DeliveryState.SENT, NOW + 11, None)

    def test_resolved_waits_for_firing_of_the_same_incident_only(self, database, routes) -> None:
        """Nobody hears the end before the beginning; another incident goes on meanwhile."""
        with database.write(durable=True) as connection:
            tell(connection, an_incident("i1"), Event.FIRING, routes, at=NOW)
            tell(connection, an_incident("i1"), Event.RESOLVED, routes, at=NOW + 1)
            tell(connection, an_incident("i2"), Event.FIRING, routes, at=NOW + 1)
            firing = delivery_store.claim_due(connection, "ops", now=NOW + 1, lease_s=9)
            delivery_store.mark_failed(connection, firing, error="503", retry_at=NOW + 100)
            other = delivery_store.claim_due(connection, "ops", now=NOW + 2, lease_s=9)
            assert [(d.incident_id, d.event) for d in (firing, other)] == [("i1", "firing"), ("i2", "firing")]
            delivery_store.mark_sent(connection, other, now=NOW + 2)
            assert delivery_store.claim_due(connection, "ops", now=NOW + 3, lease_s=9) is None
            assert delivery_store.next_due_at(connection, "ops") == NOW + 100
            firing = delivery_store.claim_due(connection, "ops", now=NOW + 100, lease_s=9)
            delivery_store.mark_failed(connection, firing, error="404", retry_at=None)  # dead: holds up nothing
            over = delivery_store.claim_due(connection, "ops", now=NOW + 100, lease_s=9)
            assert over.event is Event.RESOLVED
            # the other notifier was never concerned
            assert delivery_store.claim_due(connection, "audit", now=NOW + 1, lease_s=9).event is Event.FIRING

    def test_who_was_told_that_it_fires(self, database, routes) -> None:
        """They, and only they, hear that it is over."""
        with database.write(durable=True) as connection:
            tell(connection, an_incident("i1"), Event.FIRING, routes[:1])
            tell(connection, an_incident("i2"), Event.FIRING, routes)
            assert delivery_store.told_notifiers(connection, "i1") == {"ops"}
            assert delivery_store.told_notifiers(connection, "i3") == frozenset()

    def test_what_waits_for_a_removed_notifier_is_given_up(self, database, routes) -> None:
        """No thread would ever send it; it is shown as dead instead of pending for ever."""
        with database.write(durable=True) as connection:
            tell(connection, an_incident(), Event.FIRING, routes)
            assert delivery_store.bury_orphans(connection, ["ops"]) == 1
            assert delivery_store.count_deliveries(connection) == {
                ("ops", DeliveryState.PENDING): 1,
                ("audit", DeliveryState.DEAD): 1,
            }
            (dead,) = delivery_store.list_deliveries(connection, state=DeliveryState.DEAD)
            assert dead.last_error == "the notifier is no longer configured"

    def test_messages_without_an_incident_do_not_wait_for_each_other(self, database, routes) -> None:
        """There is no order to keep."""
        with database.write(durable=True) as connection:
            for at in (NOW, NOW + 1):
                message = trial_message("ops", now=at)
                delivery_store.enqueue_deliveries(connection, message, routes[:1], now=at)
            assert delivery_store.claim_due(connection, "ops", now=NOW + 1, lease_s=9) is not None
            assert delivery_store.claim_due(connection, "ops", now=NOW + 1, lease_s=9) is not None


class TestSilences:
    @pytest.mark.parametrize(
        ("target", "check", "asked", "at", "silenced"),
        [
            ("chat", "*", Check.LATENCY, NOW, True),
            ("*", "*", Check.GPU, NOW + 59, True),
            ("chat", "latency", Check.LATENCY, NOW, True),
            ("chat", "latency", Check.MEMORY, NOW, False),
            ("chat", "latency", None, NOW, False),
            ("chat", "*", None, NOW, True),
            ("other", "*", Check.LATENCY, NOW, False),
            ("chat", "*", Check.LATENCY, NOW - 1, False),
            ("chat", "*", Check.LATENCY, NOW + 60, False),
        ],
    )
    def test_a_silence_holds_for_its_target_check_and_time(
        self, *, database, target, check, asked, at, silenced
    ) -> None:
        """From its beginning, up to and without its end."""
        with database.write(durable=True) as connection:
            silence = Silence(target=target, check=check, from_at=NOW, until_at=NOW + 60, by="ana", why="deploy")
            assert store.add_silence(connection, silence).id is not None
            assert store.is_silenced(connection, "chat", asked, now=at) is silenced

    def test_it_can_be_ended_once(self, database) -> None:
        """An ended one is no longer listed."""
        with database.write(durable=True) as connection:
            silence = store.add_silence(
                connection, Silence(target="chat", from_at=NOW, until_at=NOW + 60, by="ana", why="deploy")
            )
            assert store.list_silences(connection, now=NOW) == [silence]
            assert store.end_silence(connection, silence.id, now=NOW + 1)
            assert not store.end_silence(connection, silence.id, now=NOW + 2)
            assert store.list_silences(connection, now=NOW + 1) == []


class TestRetention:
    def fill(self, connection, routes) -> None:
        rows = [
            {
                "key": f"k{i}",
                "incident_id": "open" if i < 5 else "closed-0",
                "notifier": "ops",
                "event": "firing",
                "payload": {},
                "state": "sent",
                "attempts": 1,
                "created_at": NOW,
                "due_at": NOW,
            }
            for i in range(delivery_store.KEPT_SENT + 105)
        ]
        connection.execute(insert(schema.deliveries), rows)
        connection.execute(
            insert(schema.deliveries), [{**rows[9], "key": "dead", "state": "dead", "incident_id": None}]
        )

    def test_caps_hold_and_open_incidents_stay_whole(self, database, routes) -> None:
        """Who was told of an open incident must stay known; a dead letter outlives what was sent after it."""
        with database.write(durable=True) as connection:
            store.save_incident(connection, an_incident("open", opened_at=NOW - 10_000_000))
            self.fill(connection, routes)
            assert store.prune(connection, now=NOW) == 100
            assert delivery_store.told_notifiers(connection, "open") == {"ops"}
            counts = delivery_store.count_deliveries(connection)
            assert counts == {
                ("ops", DeliveryState.SENT): delivery_store.KEPT_SENT + 5,
                ("ops", DeliveryState.DEAD): 1,
            }

    def test_the_oldest_closed_incidents_go_unless_a_recycle_names_them(self, database) -> None:
        """Open ones stay for ever, whatever their age."""
        with database.write(durable=True) as connection:
            store.save_incident(connection, an_incident("open", opened_at=0.0))
            closed = replace(an_incident(), state=State.RESOLVED)
            for i in range(3):
                store.save_incident(connection, replace(closed, id=f"first-{i}", opened_at=10.0 + i))
            row = connection.execute(select(schema.incidents).where(schema.incidents.c.id == "first-0")).first()
            connection.execute(
                insert(schema.incidents),
                [{**row._mapping, "id": f"c{i}", "opened_at": 100.0 + i} for i in range(store.KEPT_CLOSED - 1)],
            )
            connection.execute(
                insert(schema.recycles).values(
                    id="r1",
                    target="chat",
                    trigger="incident",
                    reason="regressed",
                    incident_id="first-0",
                    state="cooldown",
                    detail="",
                    requested_at=NOW,
                    updated_at=NOW,
                    lives_before=[],
                    steps=[],
                    evidence={},
                )
            )
            assert store.prune(connection, now=NOW) == 1
            kept = connection.execute(select(func.count()).select_from(schema.incidents)).scalar()
            assert kept == store.KEPT_CLOSED + 2
            assert store.find_incident(connection, "first-1") is None
            assert store.find_incident(connection, "first-0") is not None
            assert store.find_incident(connection, "open") is not None

    def test_ended_silences_are_capped(self, database) -> None:
        """One that holds still stays."""
        with database.write(durable=True) as connection:
            kept = Silence(target="*", from_at=NOW, until_at=NOW + 60, by="ana", why="deploy")
            store.add_silence(connection, kept)
            for _ in range(store.KEPT_SILENCES + 2):
                store.add_silence(connection, replace(kept, until_at=NOW - 1))
            assert store.prune(connection, now=NOW) == 2
            assert len(store.list_silences(connection, now=NOW)) == 1
