"""Who asks for a recycle again, and whose age asks for one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from builders import NOW, make_incident
from subject import OLD, Server

from alerts import recycle_store
from alerts import store as alert_store
from alerts.episode import PASSING, GateReason, Outcome, RecyclePolicy, State, Trigger
from alerts.incident import State as IncidentState
from alerts.recycle_requests import ask_again, ask_for_age, may_ask_again, request
from alerts.recycle_store import Episode
from baselines.database import Database
from baselines.verdict import Cause, Check, Level, Status
from probes.messages import Life

NEVER = {
    GateReason.INCIDENT_OVER,
    GateReason.REQUEST_STALE,
    GateReason.JUST_RECYCLED,
}


def an_episode(**about: object) -> Episode:
    values = {"id": "r0", "target": "chat", "trigger": Trigger.INCIDENT, "reason": "timeout", "incident_id": "i1"}
    return Episode(**{**values, "requested_at": NOW - 9000, "updated_at": NOW - 9000, **about})


def blocked(reason: GateReason) -> Episode:
    return an_episode(state=State.BLOCKED, outcome=Outcome.BLOCKED, detail=reason, ended_at=NOW - 9000)


def ended(outcome: Outcome, state: State = State.COOLDOWN, ago: float = 9000.0) -> Episode:
    return an_episode(state=state, outcome=outcome, acted_at=NOW - ago - 60, ended_at=NOW - ago)


class TestMayAskAgain:
    def test_one_that_never_asked_may(self) -> None:
        """Its cause was not the model when it began to fire."""
        assert may_ask_again(make_incident(), None)

    @pytest.mark.parametrize("reason", [r for r in GateReason if r is not GateReason.ALLOWED])
    def test_after_a_refusal_only_what_may_have_been_lifted(self, reason: GateReason) -> None:
        """Time and new evidence lift some refusals; others need a person."""
        assert may_ask_again(make_incident(), blocked(reason)) is (reason not in NEVER)
        assert (reason in PASSING) is (reason not in NEVER)

    @pytest.mark.parametrize(
        ("outcome", "state", "may"),
        [
            (Outcome.NOT_HELPED, State.COOLDOWN, True),
            (Outcome.NOT_HELPED, State.TRIPPED, True),  # the gate knows that the breaker is open
            (Outcome.ACT_FAILED, State.ESCALATED, True),
            (Outcome.NOT_READY, State.ESCALATED, True),
            (Outcome.INTERRUPTED, State.ESCALATED, False),
            (Outcome.VERIFIED, State.COOLDOWN, False),
        ],
    )
    def test_after_an_act_only_when_it_did_not_help(self, outcome: Outcome, state: State, may: bool) -> None:
        """What was proved to help is not repeated on the same incident; what was interrupted is a person's."""
        assert may_ask_again(make_incident(updated_at=NOW - 9001.0), ended(outcome, state)) is may

    @pytest.mark.parametrize(
        ("about", "may"),
        [
            ({"life": "8@200"}, True),
            ({"life": OLD.key}, False),
            ({"life": "8@200", "status": Status.OK}, False),
            ({"life": "8@200", "updated_at": NOW - 9001}, False),
            ({"life": None}, True),
            ({"life": None, "updated_at": NOW - 8900}, False),
        ],
        ids=[
            "another worker",
            "the old one",
            "good again",
            "not since",
            "not known, long after",
            "not known, just after",
        ],
    )
    def test_what_comes_back_after_a_proof_may_ask_again(self, about: dict[str, object], may: bool) -> None:
        """A leak that goes on in the next worker is recycled again; late news of the old one is not answered."""
        last = replace(ended(Outcome.VERIFIED), lives_before=(OLD,))
        assert may_ask_again(make_incident(**about), last) is may

    @pytest.mark.parametrize("state", [State.SUSPECT, State.GATE, State.DRAIN, State.RECYCLE, State.VERIFY])
    def test_not_while_one_is_under_way(self, state: State) -> None:
        """Never two."""
        assert not may_ask_again(make_incident(), an_episode(state=state))


def ask(database: Database, asker=ask_again, **servers: Server) -> list[Episode]:
    number = itertools.count(1)
    with database.write(durable=True) as connection:
        asked = asker(connection, servers, now=NOW, new_id=lambda: f"new{next(number)}")
    with database.read() as connection:
        assert [recycle_store.get_episode(connection, e.id) for e in asked] == asked
    return asked


def save(database: Database, incident=None, *episodes: Episode) -> None:
    with database.write(durable=True) as connection:
        if incident is not None:
            alert_store.save_incident(connection, incident)
        for episode in episodes:
            recycle_store.save_episode(connection, episode)


class TestAskAgain:
    def test_a_refusal_that_has_passed_is_asked_again_and_stored(self, database: Database) -> None:
        """In the caller's transaction, as a request of the same incident."""
        save(database, make_incident(), blocked(GateReason.TOO_YOUNG))
        (asked,) = ask(database, chat=Server())
        assert asked == Episode(
            id="new1",
            target="chat",
            trigger=Trigger.INCIDENT,
            reason="timeout",
            incident_id="i1",
            requested_at=NOW,
            updated_at=NOW,
        )
        assert ask(database, chat=Server()) == []  # it is under way now

    @pytest.mark.parametrize(
        "server",
        [{"uptimes": 60.0}, {"workers": []}, {"missing_signal": "gpu"}, {"has_recycler": False}],
        ids=["still young", "no worker", "evidence missing", "no recycler"],
    )
    def test_nothing_is_stored_while_the_gate_would_refuse(self, database: Database, server: dict[str, object]) -> None:
        """A tick every few seconds must not fill the table with refusals."""
        save(database, make_incident(), blocked(GateReason.TOO_YOUNG))
        assert ask(database, chat=Server(**server)) == []

    @pytest.mark.parametrize("mode", ["alert", "observe"])
    def test_what_only_the_mode_holds_back_is_asked_once(self, database: Database, mode: str) -> None:
        """So that it is counted as `would_recycle`, and not at every tick."""
        save(database, make_incident(), blocked(GateReason.TOO_YOUNG))
        (asked,) = ask(database, chat=Server(mode=mode))
        refused = replace(blocked(GateReason.MODE), id=asked.id, requested_at=NOW)
        save(database, None, refused)
        assert ask(database, chat=Server(mode=mode)) == []

    @pytest.mark.parametrize(
        "incident",
        [
            {"cause": Cause.LOAD},
            {"cause": Cause.UNKNOWN},
            {"level": Level.WATCH},
            {"state": IncidentState.PENDING},
            {"state": IncidentState.RESOLVED},
            {"target": "removed"},
        ],
        ids=["load", "unknown cause", "level", "pending", "resolved", "removed"],
    )
    def test_only_a_firing_fault_of_the_model_asks(self, database: Database, incident: dict[str, object]) -> None:
        """Of a target that is configured."""
        save(database, make_incident(**incident))
        assert ask(database, chat=Server()) == []

    def test_one_that_did_not_help_is_tried_once_more_after_the_doubled_cooldown(self, database: Database) -> None:
        """The second in a row; then the breaker is open."""
        server = Server(policy=RecyclePolicy(cooldown_s=1000.0))
        save(database, make_incident(), ended(Outcome.NOT_HELPED, ago=1999.0))
        assert ask(database, chat=server) == []
        save(database, None, ended(Outcome.NOT_HELPED, ago=2000.0))
        assert len(ask(database, chat=server)) == 1
        save(database, None, replace(ended(Outcome.NOT_HELPED, State.TRIPPED), id="new1", requested_at=NOW))
        assert ask(database, chat=server) == []

    def test_each_incident_asks_for_itself(self, database: Database) -> None:
        """What one incident's last recycle was says nothing about another target's."""
        save(database, make_incident(), ended(Outcome.INTERRUPTED, State.ESCALATED))
        save(database, make_incident("i2", target="image", check=Check.OUTPUT))
        assert [(e.target, e.incident_id) for e in ask(database, chat=Server(), image=Server(name="image"))] == [
            ("image", "i2")
        ]


class TestAskForAge:
    POLICY = RecyclePolicy(max_age_s=3600.0, max_age_jitter=0.0)

    def test_a_worker_past_its_age_is_asked_for_once(self, database: Database) -> None:
        """No incident is needed; while its request waits for its turn it is not asked again."""
        server = Server(policy=self.POLICY, uptimes=3600.0)
        (asked,) = ask(database, ask_for_age, chat=server)
        assert (asked.trigger, asked.reason, asked.incident_id) == (Trigger.AGE, "max_age", None)
        assert ask(database, ask_for_age, chat=server) == []

    def test_the_gate_is_asked_first(self, database: Database) -> None:
        """Nothing is stored for a target that would be refused: at every tick it would be another row."""
        for about in ({"mode": "alert"}, {"has_recycler": False}):
            assert ask(database, ask_for_age, chat=Server(policy=self.POLICY, **about)) == []
        save(database, None, an_episode(state=State.DRAIN, incident_id=None))
        assert ask(database, ask_for_age, chat=Server(policy=self.POLICY)) == []

    @pytest.mark.parametrize(
        ("about", "asked"),
        [
            ({"uptimes": 3599.0}, 0),
            ({"uptimes": None}, 0),
            ({"workers": None}, 0),
            ({"workers": []}, 0),
            ({"policy": RecyclePolicy()}, 0),
            ({"workers": [OLD, Life(pid=9, start_ticks=5)]}, 1),
        ],
        ids=["younger", "age unknown", "not watched", "no worker", "no limit", "two workers"],
    )
    def test_only_a_known_age_past_the_limit_asks(
        self, database: Database, about: dict[str, object], asked: int
    ) -> None:
        """And a target asks once, however many of its workers are too old."""
        server = Server(**{"policy": self.POLICY, "uptimes": 3601.0, **about})
        assert len(ask(database, ask_for_age, chat=server)) == asked


def test_a_request_is_an_episode_that_has_not_begun() -> None:
    """SUSPECT, without times but its own; not stored."""
    asked = request("chat", Trigger.HAND, "deploy", None, now=NOW, new_id=lambda: "r1")
    assert (asked.id, asked.state, asked.outcome, asked.acted_at, asked.ended_at, asked.steps) == (
        "r1",
        State.SUSPECT,
        None,
        None,
        None,
        (),
    )
