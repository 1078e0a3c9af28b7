"""The transition table of a recycle, the gate before it, and who is too old: decisions without a clock."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
from builders import NOW
from hypothesis import given
from hypothesis import strategies as st

from alerts.episode import (
    ENDED,
    INEFFECTIVE,
    PASSING,
    TRANSITIONS,
    Event,
    GateFacts,
    GateReason,
    IllegalTransition,
    Outcome,
    RecyclePolicy,
    State,
    Trigger,
    advance,
    is_too_old,
    is_worn_out,
    may_recycle,
    resume_from,
)
from baselines.verdict import Cause, Level

LEGAL = {
    (State.SUSPECT, Event.REQUESTED): State.GATE,
    (State.GATE, Event.ALLOWED): State.DRAIN,
    (State.GATE, Event.TRIM_FIRST): State.TRIM,
    (State.GATE, Event.REFUSED): State.BLOCKED,
    (State.TRIM, Event.CAME_BACK): State.COOLDOWN,
    (State.TRIM, Event.HELD): State.DRAIN,
    (State.DRAIN, Event.DRAINED): State.RECYCLE,
    (State.RECYCLE, Event.ACTED): State.WAIT_READY,
    (State.RECYCLE, Event.FAILED): State.ESCALATED,
    (State.RECYCLE, Event.HELPLESS): State.TRIPPED,
    (State.WAIT_READY, Event.READY): State.WARM_UP,
    (State.WAIT_READY, Event.FAILED): State.ESCALATED,
    (State.WAIT_READY, Event.HELPLESS): State.TRIPPED,
    (State.WARM_UP, Event.WARM): State.VERIFY,
    (State.WARM_UP, Event.FAILED): State.ESCALATED,
    (State.WARM_UP, Event.HELPLESS): State.TRIPPED,
    (State.VERIFY, Event.FINISHED): State.COOLDOWN,
    (State.VERIFY, Event.HELPLESS): State.TRIPPED,
}
"""Written a second time on purpose: a change of the table is a change of the design, and is made twice."""

BEFORE_THE_ACT = (State.SUSPECT, State.GATE, State.TRIM, State.DRAIN)
AFTER_THE_ACT = (State.WAIT_READY, State.WARM_UP, State.VERIFY)


class TestTransitions:
    @pytest.mark.parametrize(
        ("state", "event"), list(product(State, Event)), ids=[f"{s}-{e}" for s, e in product(State, Event)]
    )
    def test_every_pair_moves_as_told_or_raises(self, state: State, event: Event) -> None:
        """No event is ignored: what the table does not hold cannot happen."""
        if (state, event) in LEGAL:
            assert advance(state, event) is LEGAL[state, event]
        else:
            with pytest.raises(IllegalTransition, match=f"{event} cannot happen in state {state}"):
                advance(state, event)

    def test_what_has_ended_stays_ended(self) -> None:
        """And whatever has not can go on."""
        assert set(TRANSITIONS) == set(State) - ENDED

    def test_every_state_is_reached_and_every_road_ends(self) -> None:
        """From SUSPECT each state can be reached, and no road runs in a circle."""
        seen: set[State] = set()

        def walk(state: State, road: tuple[State, ...]) -> None:
            assert state not in road
            seen.add(state)
            for after in TRANSITIONS.get(state, {}).values():
                walk(after, (*road, state))

        walk(State.SUSPECT, ())
        assert seen == set(State)

    def test_the_act_is_entered_from_drain_alone(self) -> None:
        """So there is one place where a recycle begins."""
        assert [pair for pair, after in LEGAL.items() if after is State.RECYCLE] == [(State.DRAIN, Event.DRAINED)]


class TestResuming:
    @pytest.mark.parametrize("alive", [True, False, None], ids=["old alive", "old gone", "not watched"])
    @pytest.mark.parametrize("state", BEFORE_THE_ACT)
    def test_before_the_act_the_gate_is_asked_again(self, state: State, alive: bool | None) -> None:
        """Nothing was done; the world may have changed since."""
        assert resume_from(state, old_lives_alive=alive) is State.GATE

    @pytest.mark.parametrize("alive", [True, False, None], ids=["old alive", "old gone", "not watched"])
    @pytest.mark.parametrize("state", [State.RECYCLE, *AFTER_THE_ACT])
    def test_once_acted_nothing_leads_back_to_the_act(self, state: State, alive: bool | None) -> None:
        """Whatever is found alive: RECYCLE cannot be reached again from where it goes on."""
        reached = {resume_from(state, old_lives_alive=alive)} - {None}
        while True:
            more = {after for s in reached if s for after in TRANSITIONS.get(s, {}).values()} | reached
            if more == reached:
                break
            reached = more
        assert not reached & {*BEFORE_THE_ACT, State.RECYCLE}

    def test_an_act_that_may_not_have_begun_is_a_persons(self) -> None:
        """The old worker lives: the order may have been given or not, and is never given twice."""
        assert resume_from(State.RECYCLE, old_lives_alive=True) is None
        assert resume_from(State.RECYCLE, old_lives_alive=False) is State.WAIT_READY
        assert resume_from(State.RECYCLE, old_lives_alive=None) is State.WAIT_READY


POLICY = RecyclePolicy()
OPEN_GATE = GateFacts(
    trigger=Trigger.INCIDENT,
    mode="act",
    has_recycler=True,
    firing=True,
    cause=Cause.MODEL,
    level=Level.PAGE,
    workers=4,
    youngest_uptime_s=POLICY.min_uptime_s,
    busy_in_group=0,
    group_size=8,
    acts=(NOW - POLICY.budget_window_s, NOW - 7300, NOW - 3700),
    last_ended_at=NOW - POLICY.cooldown_s,
)
"""Everything just right: each figure at the last value that is allowed."""

REFUSALS = [
    ({"has_recycler": False}, GateReason.NO_RECYCLER),
    ({"ineffective": 2}, GateReason.BREAKER_OPEN),
    ({"in_flight": True}, GateReason.IN_FLIGHT),
    ({"busy_in_group": 2}, GateReason.GROUP_BUSY),
    ({"firing": False}, GateReason.INCIDENT_OVER),
    ({"recovering": True}, GateReason.RECOVERING),
    ({"stale": True}, GateReason.EVIDENCE_STALE),
    ({"blamed": False}, GateReason.CAUSE_NOT_MODEL),
    ({"cause": Cause.LOAD}, GateReason.CAUSE_NOT_MODEL),
    ({"cause": Cause.ENVIRONMENT}, GateReason.CAUSE_NOT_MODEL),
    ({"cause": Cause.HARDWARE}, GateReason.CAUSE_NOT_MODEL),
    ({"cause": Cause.VERSION_CHANGED}, GateReason.CAUSE_NOT_MODEL),
    ({"cause": Cause.UNKNOWN}, GateReason.CAUSE_NOT_MODEL),
    ({"cause": None}, GateReason.CAUSE_NOT_MODEL),
    ({"level": Level.WATCH}, GateReason.LEVEL_TOO_LOW),
    ({"level": Level.INFO}, GateReason.LEVEL_TOO_LOW),
    ({"level": None}, GateReason.LEVEL_TOO_LOW),
    ({"workers": None, "youngest_uptime_s": None}, GateReason.EVIDENCE_MISSING),
    ({"missing": "gpu"}, GateReason.EVIDENCE_MISSING),
    ({"hardware": "gpu_lost"}, GateReason.HARDWARE),
    ({"workers": 0}, GateReason.WORKER_GONE),
    ({"silenced": True}, GateReason.SILENCED),
    ({"youngest_uptime_s": POLICY.min_uptime_s - 1}, GateReason.TOO_YOUNG),
    ({"last_ended_at": NOW - POLICY.cooldown_s + 1}, GateReason.COOLING_DOWN),
    ({"acts": (NOW - 9000, NOW - 7300, NOW - 3700)}, GateReason.BUDGET_SPENT),
    ({"mode": "alert"}, GateReason.MODE),
    ({"mode": "observe"}, GateReason.MODE),
]
BINDING_A_PERSON = (GateReason.NO_RECYCLER, GateReason.BREAKER_OPEN, GateReason.IN_FLIGHT, GateReason.GROUP_BUSY)
ABOUT_THE_INCIDENT = (
    GateReason.INCIDENT_OVER,
    GateReason.RECOVERING,
    GateReason.EVIDENCE_STALE,
    GateReason.CAUSE_NOT_MODEL,
    GateReason.LEVEL_TOO_LOW,
    GateReason.EVIDENCE_MISSING,
)
OF_A_PERSON = {GateReason.REQUEST_STALE: {"asked_s": 301.0}, GateReason.JUST_RECYCLED: {"recycled_since_asked": True}}
LAST_REFUSALS = {reason: change for change, reason in REFUSALS}  # one of each, in the order in which they are asked


def ask(facts: GateFacts, policy: RecyclePolicy = POLICY) -> GateReason:
    return may_recycle(facts, policy, now=NOW)


class TestGate:
    @pytest.mark.parametrize("level", [Level.PAGE, Level.URGENT])
    def test_opens_when_everything_is_right(self, level: Level) -> None:
        """At the very limit of each rule."""
        assert ask(replace(OPEN_GATE, level=level)) is GateReason.ALLOWED

    @pytest.mark.parametrize(("change", "reason"), REFUSALS, ids=[f"{r}-{next(iter(c))}" for c, r in REFUSALS])
    def test_each_refusal_by_itself_has_its_name(self, change: dict[str, object], reason: GateReason) -> None:
        """One thing wrong, everything else right."""
        assert ask(replace(OPEN_GATE, **change)) is reason

    def test_the_table_names_every_reason(self) -> None:
        """A new reason needs a line above."""
        assert {reason for _, reason in REFUSALS} | set(OF_A_PERSON) == set(GateReason) - {GateReason.ALLOWED}

    def test_refusals_come_in_their_order_and_mode_is_last(self) -> None:
        """All wrong at once, put right one after the other: so MODE means "would have recycled"."""
        facts = OPEN_GATE
        for change in LAST_REFUSALS.values():
            facts = replace(facts, **change)
        heard = []
        for reason, change in LAST_REFUSALS.items():
            heard.append(ask(facts))
            assert heard[-1] is reason
            facts = replace(facts, **{name: getattr(OPEN_GATE, name) for name in change})
        assert heard[-1] is GateReason.MODE
        assert ask(facts) is GateReason.ALLOWED

    @pytest.mark.parametrize(("change", "reason"), REFUSALS, ids=[f"{r}-{next(iter(c))}" for c, r in REFUSALS])
    def test_a_person_is_held_by_what_would_do_harm_only(self, change: dict[str, object], reason: GateReason) -> None:
        """Not by evidence, age, cooldown, budget, silence or mode; but by a recycle under way, group and breaker."""
        by_hand = replace(OPEN_GATE, trigger=Trigger.HAND, **change)
        assert ask(by_hand) is (reason if reason in BINDING_A_PERSON else GateReason.ALLOWED)

    @pytest.mark.parametrize(("change", "reason"), REFUSALS, ids=[f"{r}-{next(iter(c))}" for c, r in REFUSALS])
    def test_age_needs_no_incident_and_obeys_the_rest(self, change: dict[str, object], reason: GateReason) -> None:
        """Scheduled recycling knows no cause and no level, and is as often as the configuration says."""
        by_age = replace(OPEN_GATE, trigger=Trigger.AGE, **change)
        passed = reason in ABOUT_THE_INCIDENT or reason is GateReason.BUDGET_SPENT
        assert ask(by_age) is (GateReason.ALLOWED if passed else reason)

    @pytest.mark.parametrize("reason", OF_A_PERSON)
    def test_a_person_is_not_obeyed_too_late_or_twice(self, reason: GateReason) -> None:
        """A request from before the lunch break, or one that an automatic recycle has overtaken."""
        assert ask(replace(OPEN_GATE, trigger=Trigger.HAND, **OF_A_PERSON[reason])) is reason
        assert ask(replace(OPEN_GATE, **OF_A_PERSON[reason])) is GateReason.ALLOWED

    def test_what_never_happened_refuses_nothing(self) -> None:
        """The first recycle of a target has no history."""
        assert ask(replace(OPEN_GATE, last_ended_at=None, acts=())) is GateReason.ALLOWED

    @pytest.mark.parametrize("ineffective", [0, 1, 2, 3])
    def test_the_cooldown_doubles_with_each_that_did_not_help(self, ineffective: int) -> None:
        """To the second."""
        policy = RecyclePolicy(breaker_limit=9, cooldown_s=100.0)
        facts = replace(OPEN_GATE, ineffective=ineffective)
        cooldown_s = 100.0 * 2**ineffective
        assert ask(replace(facts, last_ended_at=NOW - cooldown_s), policy) is GateReason.ALLOWED
        assert ask(replace(facts, last_ended_at=NOW - cooldown_s + 1), policy) is GateReason.COOLING_DOWN

    @pytest.mark.parametrize(
        ("group_size", "busy", "reason"),
        [
            (1, 0, GateReason.ALLOWED),
            (2, 0, GateReason.ALLOWED),  # a quarter of two is none, but one may always go
            (2, 1, GateReason.GROUP_BUSY),
            (7, 1, GateReason.GROUP_BUSY),
            (8, 1, GateReason.ALLOWED),
            (8, 2, GateReason.GROUP_BUSY),
            (12, 2, GateReason.ALLOWED),
        ],
    )
    def test_a_quarter_of_a_group_at_a_time_and_always_one(
        self, group_size: int, busy: int, reason: GateReason
    ) -> None:
        """Rounded down: never more than the share."""
        assert ask(replace(OPEN_GATE, group_size=group_size, busy_in_group=busy)) is reason

    @given(group_size=st.integers(1, 200), busy=st.integers(0, 200), share=st.floats(0.01, 1.0))
    def test_no_more_of_a_group_than_its_share_go_together(self, group_size: int, busy: int, share: float) -> None:
        """With this one: at most the share, or this one alone."""
        policy = RecyclePolicy(group_share=share)
        if ask(replace(OPEN_GATE, group_size=group_size, busy_in_group=busy), policy) is GateReason.ALLOWED:
            assert busy + 1 <= share * group_size or busy == 0

    def test_acts_outside_the_window_cost_no_budget(self) -> None:
        """Three in six hours: the fourth waits until the first is six hours old."""
        acts = tuple(NOW - hours * 3600 for hours in (5.99, 3, 2))
        assert ask(replace(OPEN_GATE, acts=acts)) is GateReason.BUDGET_SPENT
        assert may_recycle(replace(OPEN_GATE, acts=acts), POLICY, now=NOW + 60) is GateReason.ALLOWED


class TestWords:
    def test_only_time_or_evidence_lifts_a_passing_refusal(self) -> None:
        """An incident that is over and a late request need a new incident or a person; a configuration may change."""
        lasting = {GateReason.INCIDENT_OVER, *OF_A_PERSON}
        assert set(GateReason) - {GateReason.ALLOWED} - PASSING == lasting

    def test_a_proof_a_refusal_and_an_interruption_are_not_ineffective(self) -> None:
        """The breaker counts only what was done and did not help."""
        others = {Outcome.VERIFIED, Outcome.TRIMMED, Outcome.BLOCKED, Outcome.INTERRUPTED}
        assert set(Outcome) - INEFFECTIVE == others


lives = st.builds(lambda pid, ticks: f"{pid}@{ticks}", st.integers(1, 2**22), st.integers(0, 2**40))


class TestAge:
    @given(life=lives, max_age_s=st.floats(60, 1e6), jitter=st.floats(0, 0.5))
    def test_is_reached_within_the_jitter(self, life: str, max_age_s: float, jitter: float) -> None:
        """Never before the low end of the spread, always at the high end; and once reached it stays reached."""
        policy = RecyclePolicy(max_age_s=max_age_s, max_age_jitter=jitter)
        assert not is_too_old(life, max_age_s * (1 - jitter) * 0.999, policy)
        assert is_too_old(life, max_age_s * (1 + jitter), policy)
        answers = [is_too_old(life, max_age_s * (0.4 + 0.05 * i), policy) for i in range(30)]
        assert answers == sorted(answers)

    @given(life=lives, uptime_s=st.floats(0, 1e9))
    def test_without_a_limit_nobody_is(self, life: str, uptime_s: float) -> None:
        """None is never."""
        assert not is_too_old(life, uptime_s, RecyclePolicy(max_age_s=None))

    @given(life=lives, most=st.integers(10, 10**9), jitter=st.floats(0, 0.5))
    def test_requests_are_spread_likewise(self, life: str, most: int, jitter: float) -> None:
        """Within the jitter, and without a limit never."""
        policy = RecyclePolicy(max_requests=most, max_requests_jitter=jitter)
        assert not is_worn_out(life, int(most * (1 - jitter) * 0.999) - 1, policy)
        assert is_worn_out(life, int(most * (1 + jitter)) + 1, policy)
        assert not is_worn_out(life, 10**15, RecyclePolicy())

    def test_workers_started_together_do_not_go_together(self) -> None:
        """Over many lives the ages fill the whole spread evenly: a tenth of them in each tenth, give or take."""
        policy = RecyclePolicy(max_age_s=1000.0, max_age_jitter=0.1)
        ages = range(900, 1101, 20)
        too_old = [sum(is_too_old(f"{pid}@77", age, policy) for pid in range(2000)) for age in ages]
        shares = [(b - a) / 2000 for a, b in pairwise(too_old)]
        assert too_old[0] == 0
        assert too_old[-1] == 2000
        assert all(0.07 < share < 0.13 for share in shares)
