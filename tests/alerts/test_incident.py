"""When an incident fires, resolves, reminds, comes back; as tables of cases and as properties."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.incident import (
    OPEN,
    POLICIES,
    Event,
    IllegalSignal,
    Incident,
    IncidentPolicy,
    RequestRecycle,
    State,
    Step,
    StepReason,
    Tell,
    acknowledge,
    good_needed,
    remind,
    retire,
    step,
)
from alerts.incident_state import TRANSITIONS, Signal, advance
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict

T0 = 1_800_000_000.0


def a_verdict(
    status: Status,
    *,
    check: Check = Check.AVAILABILITY,
    at: float = T0,
    strikes: int = 1,
    level: Level = Level.PAGE,
    cause: Cause = Cause.UNKNOWN,
    life: str | None = None,
    since: float | None = None,
    reason: Reason = Reason.TIMEOUT,
    refutes: Reason | None = None,
) -> Verdict:
    worse = status is Status.WORSE
    return Verdict(
        target="chat",
        check=check,
        subject="default",
        at=at,
        status=status,
        reason=reason if worse else Reason.GOOD if status is Status.OK else Reason.NO_DATA,
        cause=cause if worse else Cause.UNKNOWN,
        level=level if worse else Level.INFO,
        strikes=strikes if worse else 0,
        refutes=refutes,
        life=life,
        since=since if worse else None,
    )


def ids() -> Callable[[], str]:
    counter = itertools.count(1)
    return lambda: f"i{next(counter)}"


class Story:
    """Feeds verdicts written as letters, a minute apart: B bad, G good, ? unknown."""

    def __init__(self, policy: IncidentPolicy = POLICIES[Check.AVAILABILITY]) -> None:
        self.policy = policy
        self.now = T0
        self.incident: Incident | None = None
        self.told: list[Event] = []
        self.why: list[StepReason] = []
        self.recycles: list[RequestRecycle] = []
        self._new_id = ids()

    def play(
        self, letters: str, *, muted: bool = False, alive: frozenset[str] | None = None, **verdict: object
    ) -> Story:
        for letter in letters:
            status = {"B": Status.WORSE, "G": Status.OK, "?": Status.UNKNOWN}[letter]
            self.take(
                step(
                    self.incident,
                    a_verdict(status, at=self.now, **verdict),  # type: ignore[arg-type]
                    now=self.now,
                    policy=self.policy,
                    new_id=self._new_id,
                    alive=alive,
                    muted=muted,
                )
            )
            self.now += 60.0
        return self

    def take(self, outcome: Step) -> None:
        self.incident = None if outcome.incident and outcome.incident.state is State.INACTIVE else outcome.incident
        self.why.append(outcome.why)
        for effect in outcome.effects:
            if isinstance(effect, Tell):
                self.told.append(effect.event)
            else:
                self.recycles.append(effect)

    @property
    def state(self) -> State:
        return self.incident.state if self.incident else State.INACTIVE


@pytest.mark.parametrize(
    ("check", "letters", "state"),
    [
        (Check.AVAILABILITY, "B", State.PENDING),
        (Check.AVAILABILITY, "BB", State.PENDING),
        (Check.AVAILABILITY, "BBB", State.FIRING),
        (Check.AVAILABILITY, "BGBGB", State.FIRING),
        (Check.AVAILABILITY, "BGGBGGBGG", State.PENDING),
        (Check.AVAILABILITY, "BGGGG", State.PENDING),
        (Check.AVAILABILITY, "BGGGGG", State.INACTIVE),
        (Check.AVAILABILITY, "B??B??B", State.FIRING),
        (Check.OUTPUT, "B", State.PENDING),
        (Check.OUTPUT, "BGB", State.PENDING),
        (Check.OUTPUT, "BGG", State.INACTIVE),
        (Check.OUTPUT, "BB", State.FIRING),
        (Check.LATENCY, "B", State.FIRING),
        (Check.MEMORY, "GB", State.FIRING),
        (Check.GPU, "B", State.FIRING),
        (Check.LATENCY, "BGG", State.FIRING),
        (Check.LATENCY, "BGGBGG", State.FIRING),
        (Check.LATENCY, "BGGG", State.RESOLVED),
        (Check.LATENCY, "BG?G?G", State.RESOLVED),
        (Check.LATENCY, "GGG???", State.INACTIVE),
    ],
)
def test_it_fires_and_resolves_by_counting(check: Check, letters: str, state: State) -> None:
    """Availability fires on 3 of 5, output on 2 running, the rest at once; three good in a row resolve."""
    assert Story(POLICIES[check]).play(letters).state is state


def test_a_verdict_may_stand_for_several_strikes() -> None:
    """A CUDA fault does not wait for the next burst."""
    assert Story().play("B", strikes=3).state is State.FIRING


def test_a_bad_verdict_without_strikes_still_counts_as_one() -> None:
    """A judge that forgets to count cannot keep a target from firing."""
    assert Story().play("BBB", strikes=0).state is State.FIRING


def test_a_pending_incident_goes_quiet_without_a_word() -> None:
    """One blip is nobody's business."""
    story = Story().play("BGGGGG")
    assert (story.told, story.why[-1]) == ([], StepReason.WENT_QUIET)


def test_firing_and_resolving_are_told_once_each() -> None:
    """Verdicts in between say nothing new."""
    story = Story().play("BBBBBGBGGG")
    assert story.told == [Event.FIRING, Event.RESOLVED]
    assert story.incident is not None
    assert story.incident.id == "i1"


def test_unknown_gives_back_the_very_same_incident() -> None:
    """Missing evidence changes nothing, not even updated_at."""
    story = Story().play("BBB")
    before = story.incident
    story.play("????")
    assert story.incident is before
    assert story.why[-4:] == [StepReason.NO_EVIDENCE] * 4


def test_unknown_that_refutes_the_reason_counts_as_good() -> None:
    """A limit is kept again, though there is no baseline to say that all is well; another reason stays open."""
    limit = Reason.LIMIT_EXCEEDED
    assert Story().play("BBB", reason=limit).play("???", refutes=limit).told == [Event.FIRING, Event.RESOLVED]
    assert Story().play("BBB", reason=Reason.REGRESSED).play("???", refutes=limit).told == [Event.FIRING]
    assert Story().play("???", refutes=limit).told == []


def test_since_is_the_earliest_estimate_and_stays_once_it_fires() -> None:
    """A detector that dates the change back is believed; later verdicts do not move what was told."""
    story = Story().play("B", since=T0 - 600).play("BB", since=T0 - 900)
    assert story.incident is not None
    assert story.incident.since == T0 - 900
    story.play("B", since=T0 - 5000)
    assert story.incident.since == T0 - 900


class TestLevels:
    def test_a_rise_is_told_again_and_a_fall_is_not(self) -> None:
        """A forecast that sways between watch and page pages once."""
        story = Story(POLICIES[Check.MEMORY]).play("B", level=Level.WATCH)
        story.play("B", level=Level.PAGE).play("B", level=Level.WATCH).play("B", level=Level.PAGE)
        assert story.told == [Event.FIRING, Event.FIRING]
        assert story.why[1] is StepReason.ESCALATED
        assert story.incident is not None
        assert story.incident.level is Level.PAGE

    def test_a_rise_voids_the_acknowledgement(self) -> None:
        """Somebody took care of a watch, not of an urgent."""
        story = Story(POLICIES[Check.MEMORY]).play("B", level=Level.WATCH)
        assert story.incident is not None
        story.incident = acknowledge(story.incident, by="ana", now=story.now)
        story.play("B", level=Level.WATCH)
        assert story.incident.acked_by == "ana"
        story.play("B", level=Level.URGENT)
        assert story.incident.acked_by is None

    def test_a_rise_tells_when_that_began(self) -> None:
        """A busy machine since ten was nobody's; the model, slower since eleven, is what people are woken for."""
        story = Story(POLICIES[Check.LATENCY])
        story.play("B", check=Check.LATENCY, level=Level.INFO, since=T0 - 5000)
        story.play("B", check=Check.LATENCY, level=Level.PAGE, cause=Cause.MODEL, since=T0 - 900)
        assert story.incident is not None
        assert story.incident.since == T0 - 900
        story.play("B", check=Check.LATENCY, level=Level.PAGE, cause=Cause.MODEL, since=T0 - 100)
        assert story.incident.since == T0 - 900

    def test_another_cause_is_recorded_and_not_told(self) -> None:
        """What changed is in the record; nobody is woken for it."""
        story = Story(POLICIES[Check.LATENCY]).play("B", cause=Cause.UNKNOWN).play("B", cause=Cause.VERSION_CHANGED)
        assert story.told == [Event.FIRING]
        assert story.incident is not None
        assert story.incident.cause is Cause.VERSION_CHANGED


@pytest.mark.parametrize(
    ("levels_and_causes", "requests"),
    [
        ([(Level.PAGE, Cause.MODEL)], 1),
        ([(Level.URGENT, Cause.MODEL)], 1),
        ([(Level.WATCH, Cause.MODEL)], 0),
        ([(Level.PAGE, Cause.LOAD)], 0),
        ([(Level.PAGE, Cause.UNKNOWN)], 0),
        ([(Level.PAGE, Cause.MODEL), (Level.PAGE, Cause.MODEL)], 1),
        ([(Level.WATCH, Cause.MODEL), (Level.PAGE, Cause.MODEL)], 1),
        ([(Level.PAGE, Cause.UNKNOWN), (Level.PAGE, Cause.MODEL)], 1),
        ([(Level.PAGE, Cause.MODEL), (Level.URGENT, Cause.MODEL)], 1),
        ([(Level.PAGE, Cause.MODEL), (Level.PAGE, Cause.LOAD), (Level.PAGE, Cause.MODEL)], 2),
        ([(Level.INFO, Cause.LOAD), (Level.WATCH, Cause.MODEL)], 0),
    ],
)
def test_a_recycle_is_asked_for_only_for_the_model_at_page_or_above(
    levels_and_causes: list[tuple[Level, Cause]], requests: int
) -> None:
    """Once when it becomes so, not with every verdict; the gate decides the rest."""
    story = Story(POLICIES[Check.LATENCY])
    for level, cause in levels_and_causes:
        story.play("B", level=level, cause=cause, life="7@9")
    assert story.recycles == [RequestRecycle(life="7@9")] * requests


class TestLives:
    def test_a_good_answer_of_another_living_worker_does_not_resolve(self) -> None:
        """The worker that failed is still there and was not asked."""
        story = Story(POLICIES[Check.OUTPUT]).play("BB", life="1@1")
        story.play("GGGGGG", life="2@2", alive=frozenset({"1@1", "2@2"}))
        assert story.state is State.FIRING
        assert story.why[-1] is StepReason.OTHER_LIFE
        story.play("GGG", life="1@1", alive=frozenset({"1@1", "2@2"}))
        assert story.state is State.RESOLVED

    def test_once_the_worker_is_gone_any_good_answer_counts(self) -> None:
        """What replaced it is what is asked now."""
        story = Story(POLICIES[Check.OUTPUT]).play("BB", life="1@1")
        assert story.play("GGG", life="2@2", alive=frozenset({"2@2"})).state is State.RESOLVED

    @pytest.mark.parametrize("life", [None, "2@2"])
    def test_when_the_workers_are_not_known_any_good_answer_counts(self, life: str | None) -> None:
        """Without that knowledge an incident could never end."""
        story = Story(POLICIES[Check.OUTPUT]).play("BB", life="1@1")
        assert story.play("GGG", life=life, alive=None).state is State.RESOLVED


class TestReminders:
    def test_not_before_repeat_and_then_once(self) -> None:
        """One message every repeat_s."""
        story = Story().play("BBB")
        assert story.incident is not None
        told_at = story.incident.told_at
        assert told_at is not None
        early = remind(story.incident, now=told_at + story.policy.repeat_s - 1, policy=story.policy)
        assert (early.effects, early.why) == ((), StepReason.NOT_DUE)
        due = remind(story.incident, now=told_at + story.policy.repeat_s, policy=story.policy)
        assert due.effects == (Tell(event=Event.REMINDER, why=StepReason.REPEAT_DUE),)
        assert due.incident is not None
        again = remind(due.incident, now=told_at + story.policy.repeat_s + 1, policy=story.policy)
        assert again.why is StepReason.NOT_DUE

    def test_an_acknowledged_incident_is_not_reminded_but_its_end_is_told(self) -> None:
        """Somebody is on it; that it is over everybody hears."""
        story = Story().play("BBB")
        assert story.incident is not None
        story.incident = acknowledge(story.incident, by="ana", now=story.now)
        assert remind(story.incident, now=story.now + 1e6, policy=story.policy).why is StepReason.ACKNOWLEDGED
        assert story.play("GGG").told == [Event.FIRING, Event.RESOLVED]

    def test_only_an_open_incident_can_be_acknowledged(self) -> None:
        """Acknowledging what is over changes nothing and says so."""
        story = Story().play("BBBGGG")
        assert story.incident is not None
        with pytest.raises(IllegalSignal, match="nothing to acknowledge"):
            acknowledge(story.incident, by="ana", now=story.now)

    @pytest.mark.parametrize("letters", ["B", "BBBGGG"])
    def test_only_a_firing_incident_is_reminded(self, letters: str) -> None:
        """Pending and resolved ones are nobody's business."""
        story = Story().play(letters)
        assert story.incident is not None
        assert remind(story.incident, now=T0 + 1e6, policy=story.policy).why is StepReason.NOT_FIRING


class TestMuted:
    def test_what_fires_and_resolves_while_muted_is_never_told(self) -> None:
        """A silence means silence, and there is nothing to take back."""
        assert Story().play("BBBGGG", muted=True).told == []

    def test_what_still_fires_when_the_silence_ends_is_told(self) -> None:
        """A silence delays, it does not swallow."""
        story = Story().play("BBB", muted=True)
        assert story.incident is not None
        assert remind(story.incident, now=story.now, policy=story.policy, muted=True).why is StepReason.MUTED
        story.take(remind(story.incident, now=story.now, policy=story.policy))
        assert story.told == [Event.FIRING]
        assert story.why[-1] is StepReason.UNTOLD
        assert story.play("GGG").told == [Event.FIRING, Event.RESOLVED]

    def test_the_end_of_what_was_told_is_told_in_spite_of_a_silence(self) -> None:
        """Who was woken hears that it is over."""
        assert Story().play("BBB").play("GGG", muted=True).told == [Event.FIRING, Event.RESOLVED]

    def test_what_comes_back_muted_is_not_told_to_be_over_again(self) -> None:
        """Nobody heard that it came back."""
        story = Story().play("BBBGGG").play("BBB", muted=True)
        assert story.why[-1] is StepReason.REOPENED
        assert story.play("GGG").told == [Event.FIRING, Event.RESOLVED]


class TestFlapping:
    def test_firing_again_soon_is_the_same_incident(self) -> None:
        """One trouble, one id, one line in the list."""
        story = Story().play("BBBGGGBBB")
        assert story.incident is not None
        assert (story.incident.id, story.incident.flaps, story.why[-1]) == ("i1", 1, StepReason.REOPENED)
        assert story.told == [Event.FIRING, Event.RESOLVED, Event.FIRING]

    def test_firing_again_later_is_a_new_incident(self) -> None:
        """After flap_window_s it is another trouble."""
        story = Story().play("BBBGGG")
        story.now += story.policy.flap_window_s
        story.play("BBB")
        assert story.incident is not None
        assert (story.incident.id, story.incident.flaps) == ("i2", 0)

    def test_strikes_are_not_lost_when_the_window_ends_between_them(self) -> None:
        """Two strikes inside the flap window and one after it are three strikes."""
        story = Story().play("BBBGGG")
        story.now += story.policy.flap_window_s - 120.0
        story.play("BBB")
        assert story.state is State.FIRING

    def test_a_blip_after_it_is_over_leaves_it_resolved(self) -> None:
        """What it was stays on record."""
        story = Story().play("BBBGGG")
        before = story.incident
        assert before is not None
        story.play("BGGGGG")
        assert story.state is State.RESOLVED
        assert story.incident is not None
        assert replace(story.incident, strikes=(), updated_at=0, good_in_a_row=0) == replace(
            before, strikes=(), updated_at=0, good_in_a_row=0
        )

    def test_a_flapping_incident_stays_open_until_it_has_been_quiet_for_long(self) -> None:
        """At the limit one message says so; then it takes four times as many good verdicts."""
        story = Story().play("BBBGGG" * 3 + "BBB")
        assert story.why[-1] is StepReason.FLAPPING
        told = len(story.told)
        assert story.play(("G" * 11 + "BBB") * 2 + "G" * 11).state is State.FIRING
        assert len(story.told) == told
        assert story.play("G").state is State.RESOLVED
        assert story.told[told:] == [Event.RESOLVED]


class TestRetired:
    def test_a_told_incident_of_a_removed_target_is_closed_and_told(self) -> None:
        """Nobody waits for ever for an end that cannot come."""
        story = Story().play("BBB")
        assert story.incident is not None
        closed = retire(story.incident, now=story.now)
        assert closed.effects == (Tell(event=Event.RESOLVED, why=StepReason.REMOVED),)
        assert closed.incident is not None
        assert (closed.incident.state, closed.incident.resolved_at) == (State.RESOLVED, story.now)

    def test_a_pending_one_closes_without_a_word(self) -> None:
        """It never fired."""
        story = Story().play("B")
        assert story.incident is not None
        closed = retire(story.incident, now=story.now)
        assert closed.effects == ()
        assert closed.incident is not None
        assert closed.incident.state is State.INACTIVE


class TestTable:
    def test_every_state_has_a_row_and_every_signal_is_used(self) -> None:
        """The table is the whole machine."""
        assert set(TRANSITIONS) == set(State)
        assert {signal for row in TRANSITIONS.values() for signal in row} == set(Signal)

    def test_an_illegal_signal_raises(self) -> None:
        """What the table does not hold cannot happen."""
        with pytest.raises(IllegalSignal, match="quiet cannot happen in state firing"):
            advance(State.FIRING, Signal.QUIET)


# --- properties -------------------------------------------------------------------------------------------------------

LIVES = ["1@1", "2@2", None]
A_VERDICT = st.fixed_dictionaries(
    {
        "status": st.sampled_from([Status.WORSE, Status.WORSE, Status.OK, Status.OK, Status.UNKNOWN]),
        "strikes": st.integers(0, 3),
        "level": st.sampled_from(list(Level)),
        "cause": st.sampled_from(list(Cause)),
        "life": st.sampled_from(LIVES),
    }
)
A_MOVE = st.tuples(
    st.sampled_from(["verdict"] * 8 + ["remind", "ack", "retire"]),
    A_VERDICT,
    st.sampled_from([1.0, 60.0, 400.0, 5000.0]),
    st.booleans(),
    st.sampled_from([None, frozenset({"1@1"}), frozenset({"1@1", "2@2"})]),
)
A_POLICY = st.builds(
    lambda strikes, extra, resolve: IncidentPolicy(
        fire_strikes=strikes, fire_window=strikes + extra, resolve_after=resolve, flap_limit=2
    ),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 3),
)


class Audience:
    """Hears every message and complains about an inconsistent story."""

    def __init__(self, policy: IncidentPolicy) -> None:
        self.policy = policy
        self.in_the_know: set[str] = set()  # told that it fires, and not yet that it is over
        self.told_at: dict[str, float] = {}

    def hear(self, before: Incident | None, outcome: Step, now: float) -> None:
        after = outcome.incident
        for tell in (e for e in outcome.effects if isinstance(e, Tell)):
            assert after is not None
            if tell.event is Event.RESOLVED:
                self.in_the_know.remove(after.id)  # a second one, or one without a beginning, fails here
                continue
            if tell.event is Event.REMINDER:
                assert after.id in self.in_the_know
                assert now - self.told_at[after.id] >= self.policy.repeat_s
            self.in_the_know.add(after.id)
            self.told_at[after.id] = now
        if before is not None and before.state is State.FIRING and after is not None:
            assert not (after.state is State.RESOLVED and before.id in self.in_the_know), "over, and nobody said so"


@given(st.lists(A_MOVE, max_size=60), A_POLICY)
def test_people_hear_a_consistent_story(moves: list[tuple], policy: IncidentPolicy) -> None:
    """Per incident: firing before anything else, exactly one resolved for each told firing, no early reminder."""
    incident: Incident | None = None
    now, new_id, audience = T0, ids(), Audience(policy)
    for kind, fields, dt, muted, alive in moves:
        now += dt
        if kind == "verdict":
            verdict = a_verdict(at=now, **fields)
            outcome = step(incident, verdict, now=now, policy=policy, new_id=new_id, alive=alive, muted=muted)
        elif incident is None:
            continue
        elif kind == "remind":
            outcome = remind(incident, now=now, policy=policy, muted=muted)
        elif kind == "retire":
            outcome = retire(incident, now=now)
        else:
            if incident.state in OPEN:
                incident = acknowledge(incident, by="ana", now=now)
            continue
        audience.hear(incident, outcome, now)
        incident = None if outcome.incident and outcome.incident.state is State.INACTIVE else outcome.incident


@given(st.lists(st.tuples(A_VERDICT, st.sampled_from([1.0, 60.0, 2000.0])), max_size=60), A_POLICY)
def test_it_never_fires_without_enough_strikes_and_unknown_changes_nothing(
    steps: list[tuple], policy: IncidentPolicy
) -> None:
    """The naive count: strikes of the last fire_window verdicts since it last resolved, UNKNOWN left out."""
    incident: Incident | None = None
    now, new_id, window = T0, ids(), [0]
    for fields, dt in steps:
        now += dt
        verdict = a_verdict(at=now, **fields)
        was = incident.state if incident else State.INACTIVE
        outcome = step(incident, verdict, now=now, policy=policy, new_id=new_id)
        if verdict.status is Status.UNKNOWN:
            assert outcome.incident is incident
            assert outcome.effects == ()
            continue
        window.append(max(1, verdict.strikes) if verdict.status is Status.WORSE else 0)
        incident = None if outcome.incident and outcome.incident.state is State.INACTIVE else outcome.incident
        if was is not State.FIRING:
            fires = incident is not None and incident.state is State.FIRING
            assert fires == (
                verdict.status is Status.WORSE and sum(window[-policy.fire_window :]) >= policy.fire_strikes
            )
        elif incident is not None and incident.state is State.RESOLVED:
            window.clear()


@given(st.lists(st.tuples(A_VERDICT, st.sampled_from([1.0, 60.0, 2000.0])), max_size=40), A_POLICY)
def test_good_needed_in_a_row_is_never_skipped(steps: list[tuple], policy: IncidentPolicy) -> None:
    """It resolves exactly when good_needed OK verdicts came with no bad one between them."""
    incident: Incident | None = None
    now, good, new_id = T0, 0, ids()
    for fields, dt in steps:
        now += dt
        verdict = a_verdict(at=now, **fields)
        was = incident
        outcome = step(incident, verdict, now=now, policy=policy, new_id=new_id)
        good = 0 if verdict.status is Status.WORSE else good + (verdict.status is Status.OK)
        incident = None if outcome.incident and outcome.incident.state is State.INACTIVE else outcome.incident
        if was is not None and was.state is State.FIRING:
            assert incident is not None
            assert (incident.state is State.RESOLVED) == (good >= good_needed(was, policy))
