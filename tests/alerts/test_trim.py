"""Before a recycle for memory: what comes back was no leak, what is held goes with the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from builders import NOW, make_incident
from hypothesis import given
from hypothesis import strategies as st
from subject import OLD, Server
from test_recycling import Bench, Crash

from alerts.episode import Outcome, RecyclePolicy, State, Trigger
from alerts.incident import Incident
from alerts.recycle_requests import may_ask_again
from alerts.trim import ENOUGH, TRIMMABLE, Growth, Trimmed, find_growth, has_regrown, judge_trim
from baselines.database import Database
from baselines.verdict import Check, Reason, Status
from probes.messages import Life

MB = 1_000_000
LEAK: Mapping[str, object] = {
    "check": Check.MEMORY,
    "subject": "slot 0",
    "reason": Reason.LEAKING,
    "life": OLD.key,
    "since": NOW - 3600,
    "evidence": {
        "channel": "host_anon_bytes",
        "gain_bytes": 300.0 * MB,
        "slope_bytes_per_hour": 400.0 * MB,
        "used_bytes": 900.0 * MB,
    },
}


def leak(**evidence: object) -> Incident:
    about = dict(LEAK["evidence"])  # type: ignore[call-overload]
    return make_incident(**{**LEAK, "evidence": {**about, **evidence}})


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


class TestGrowth:
    def test_is_all_since_it_began(self) -> None:
        """Not only what the window saw: else the little that any process can spare would be the cure."""
        assert find_growth(leak(), now=NOW) == Growth(channel="host_anon_bytes", grown_bytes=400 * MB)
        assert find_growth(leak(slope_bytes_per_hour=100.0 * MB), now=NOW) == Growth(
            channel="host_anon_bytes", grown_bytes=300 * MB
        )

    @pytest.mark.parametrize(
        "about",
        [
            {"check": Check.AVAILABILITY},
            {"reason": Reason.LIMIT_EXCEEDED},
            {"evidence": {}},
            {"evidence": {"channel": "allocated_bytes", "gain_bytes": 1e9}},
            {"evidence": {"channel": "host_anon_bytes"}},
            {"evidence": {"channel": "host_anon_bytes", "gain_bytes": -5.0}},
        ],
        ids=["no memory", "a limit", "no evidence", "tensors", "no gain", "shrank"],
    )
    def test_of_nothing_else(self, about: dict[str, object]) -> None:
        """A tensor that is allocated is held by somebody: no allocator can give it back."""
        assert find_growth(make_incident(**{**LEAK, **about}), now=NOW) is None

    @pytest.mark.parametrize("channel", sorted(TRIMMABLE))
    def test_of_whatever_an_allocator_may_keep(self, channel: str) -> None:
        """Host memory, and what torch reserves."""
        growth = find_growth(leak(channel=channel), now=NOW)
        assert growth is not None
        assert growth.channel == channel


class TestJudging:
    @given(before=st.integers(0, 10**12), after=st.integers(0, 10**12), grown=st.floats(1, 1e12, allow_nan=False))
    def test_half_of_what_had_grown_is_the_line(self, before: int, after: int, grown: float) -> None:
        """Nothing else decides."""
        verdict = judge_trim(Growth(channel="host_anon_bytes", grown_bytes=grown), Trimmed(before=before, after=after))
        assert verdict.helped == (before - after >= ENOUGH * grown)
        assert (verdict.evidence["before_trim_bytes"], verdict.evidence["after_trim_bytes"]) == (before, after)

    def test_says_what_it_was(self) -> None:
        """The reference's own figures: a convolution with ever new shapes, and a leak of as much."""
        growth = Growth(channel="host_anon_bytes", grown_bytes=588 * MB)
        retention = judge_trim(growth, Trimmed(before=736 * MB, after=208 * MB))
        assert (retention.helped, retention.detail) == (
            True,
            "trimmed: allocator retention, not a leak; 528 MB of 588 MB came back",
        )
        held = judge_trim(growth, Trimmed(before=736 * MB, after=730 * MB))
        assert (held.helped, held.detail) == (False, "a trim does not help, it is held: 6 MB of 588 MB came back")

    @pytest.mark.parametrize("figures", [(None, 1), (1, None), (None, None)])
    def test_a_figure_that_is_missing_is_no_proof(self, figures: tuple[int | None, int | None]) -> None:
        """And says why nothing was trimmed."""
        verdict = judge_trim(
            Growth(channel="host_anon_bytes", grown_bytes=1.0),
            Trimmed(before=figures[0], after=figures[1], detail="the agent does not answer in time"),
        )
        assert not verdict.helped
        assert verdict.detail == "it could not be trimmed: the agent does not answer in time"


class TestEpisode:
    def test_what_comes_back_ends_it_without_a_recycle(self, bench: Bench) -> None:
        """Told, on record, and no act: it costs neither budget nor cooldown, and no breaker counts it."""
        server = Server(can_trim=True, trimmed=Trimmed(before=900 * MB, after=500 * MB))
        ended = bench.recycling.run(bench.ask_for_incident(server, **LEAK), server)
        assert (ended.state, ended.outcome, ended.acted_at) == (State.COOLDOWN, Outcome.TRIMMED, None)
        assert ended.detail == "trimmed: allocator retention, not a leak; 400 MB of 400 MB came back"
        assert (server.trims, server.acts) == ([(OLD, "host_anon_bytes")], [])
        assert [step.state for step in ended.steps] == [State.GATE, State.TRIM, State.COOLDOWN]
        assert bench.told() == ["cooldown"]
        assert bench.read(ended) == ended

    def test_what_is_held_goes_with_the_worker(self, bench: Bench) -> None:
        """Trimmed once, then recycled as ever."""
        server = Server(can_trim=True, trimmed=Trimmed(before=900 * MB, after=890 * MB))
        ended = bench.recycling.run(bench.ask_for_incident(server, **LEAK), server)
        assert ended.outcome is Outcome.VERIFIED
        assert (len(server.trims), server.acts) == (1, [(OLD,)])
        assert [step.state for step in ended.steps][:4] == [State.GATE, State.TRIM, State.DRAIN, State.RECYCLE]
        assert (ended.evidence["grown_bytes"], ended.evidence["after_trim_bytes"]) == (400 * MB, 890 * MB)

    @pytest.mark.parametrize("case", ["no agent", "by hand", "by age", "several workers", "tensors"])
    def test_where_it_is_not_tried(self, bench: Bench, case: str) -> None:
        """Everything is as it was without an agent."""
        server = Server(can_trim=case != "no agent", policy=RecyclePolicy(max_age_s=60.0, max_age_jitter=0.0))
        if case == "several workers":
            server.workers = [OLD, Life(pid=9, start_ticks=300)]
        if case in ("by hand", "by age"):
            asked = bench.ask(Trigger.HAND if case == "by hand" else Trigger.AGE)
        else:
            about = {**LEAK, **({"life": None} if case == "several workers" else {})}
            if case == "tensors":
                about["evidence"] = {"channel": "allocated_bytes", "gain_bytes": 1e9}
            asked = bench.ask_for_incident(server, **about)
        assert bench.recycling.run(asked, server).outcome is Outcome.VERIFIED
        assert server.trims == []

    def test_mode_alert_only_says_what_it_would_do(self, bench: Bench) -> None:
        """The gate holds the trim back as well."""
        server = Server(can_trim=True, mode="alert")
        ended = bench.recycling.run(bench.ask_for_incident(server, **LEAK), server)
        assert (ended.outcome, ended.detail, server.trims) == (Outcome.BLOCKED, "mode", [])

    def test_a_crash_while_trimming_is_followed_by_the_recycle(self, bench: Bench) -> None:
        """The row said so before; the gate is asked again, and it is not trimmed a second time."""
        server = Server(can_trim=True, trimmed=Trimmed(before=900 * MB, after=500 * MB))

        def die(what: str) -> None:
            if what == "trim":
                raise Crash

        server.hook = die
        asked = bench.ask_for_incident(server, **LEAK)
        with pytest.raises(Crash):
            bench.recycling.run(asked, server)
        left = bench.read(asked)
        assert left.state is State.TRIM
        server.hook = lambda _: None
        ended = bench.recycling.resume(left, server)
        assert (ended.outcome, server.acts, server.trims) == (Outcome.VERIFIED, [(OLD,)], [])

    def test_the_target_stays_in_rotation_meanwhile(self, bench: Bench) -> None:
        """/readyz is 503 from the drain on, not before."""
        recycling = bench.recycling
        server = Server(can_trim=True, trimmed=Trimmed(before=900 * MB, after=890 * MB))
        seen: dict[str, frozenset[str]] = {}
        server.hook = lambda what: seen.setdefault(what, recycling.acting())
        recycling.run(bench.ask_for_incident(server, **LEAK), server)
        assert (seen["trim"], seen["act"]) == (frozenset(), {"chat"})


class TestAskingAgain:
    def ended(self, bench: Bench) -> tuple[object, ...]:
        server = Server(can_trim=True, trimmed=Trimmed(before=900 * MB, after=500 * MB))
        return server, bench.recycling.run(bench.ask_for_incident(server, **LEAK), server)

    @pytest.mark.parametrize(
        ("change", "asks"),
        [
            ({"used_bytes": 899.0 * MB}, False),
            ({"used_bytes": 900.0 * MB}, True),
            ({"used_bytes": 950.0 * MB, "status": Status.OK}, False),
            ({"channel": "gpu_used_bytes", "used_bytes": 2e9}, False),
            ({"channel": "gpu_used_bytes", "used_bytes": 2e9, "later_s": 3600}, True),
        ],
        ids=["below", "back", "steady since", "another figure", "another figure for long"],
    )
    def test_only_once_it_is_back_where_it_was(self, bench: Bench, change: dict[str, object], asks: bool) -> None:
        """The detector calls it a leak for a while after; trimming what is trimmed would prove the contrary."""
        _, last = self.ended(bench)
        later = change.pop("later_s", 60)
        status = change.pop("status", Status.WORSE)
        incident = replace(leak(**change), status=status, updated_at=bench.clock.at + later)  # type: ignore[operator]
        assert may_ask_again(incident, last) is asks  # type: ignore[arg-type]

    def test_cannot_be_told_without_figures(self) -> None:
        """None, so that the caller goes by time."""
        assert has_regrown(leak(), {"channel": "host_anon_bytes", "before_trim_bytes": None}) is None
        assert has_regrown(leak(used_bytes=None), {"channel": "host_anon_bytes", "before_trim_bytes": 5}) is None
