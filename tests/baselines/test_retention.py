"""What is kept for how long, and the caps that hold whatever the ages say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import NOW, make_baseline, make_burst
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_plan import explain
from sqlalchemy import Connection, select

from baselines import baseline_store, burst_store, memory_store, retention, schema, verdict_store
from baselines.database import Database
from baselines.retention import (
    KEPT_BASELINES,
    KEPT_VERDICTS,
    KEPT_VERSIONS,
    STEP,
    RetentionPolicy,
    newest_per_version,
    prune,
)
from baselines.verdict import Check, Reason, Status, Verdict
from probes.messages import MemorySample, Outcome

DAY = 86400.0
POLICY = RetentionPolicy()


def ages(connection: Connection) -> list[float]:
    """Of the bursts that are left, in days, oldest first."""
    found = burst_store.bursts_since(connection, "chat", "default", limit=1000)
    return [(NOW - burst.at) / DAY for burst in found]


class TestAge:
    @pytest.mark.parametrize(
        ("outcome", "age_d", "kept"),
        [
            (Outcome.GOOD, 6.9, True),
            (Outcome.GOOD, 7.1, False),
            (Outcome.TIMEOUT, 7.1, True),
            (Outcome.DRIFTED, 89, True),
            (Outcome.OVERLOADED_503, 89, True),
            (Outcome.TIMEOUT, 91, False),
        ],
    )
    def test_failures_outlive_successes(self, database: Database, outcome: Outcome, age_d: float, kept: bool) -> None:
        """A failure is what an incident page needs weeks later."""
        with database.write() as connection:
            burst_store.add_burst(connection, make_burst(outcome, at=NOW - age_d * DAY))
            burst_store.add_burst(connection, make_burst(at=NOW))
            assert prune(connection, POLICY, now=NOW) == (not kept)
            assert ages(connection) == pytest.approx([*([age_d] if kept else []), 0])

    def test_one_failed_request_keeps_its_burst(self, database: Database) -> None:
        """The good ones beside it are its context."""
        with database.write() as connection:
            burst = make_burst(Outcome.GOOD, Outcome.GOOD, Outcome.TIMEOUT, at=NOW - 30 * DAY)
            burst_store.add_burst(connection, burst)
            assert prune(connection, POLICY, now=NOW) == 0
            assert burst_store.bursts_since(connection, "chat", "default", limit=1) == [burst]

    def test_memory_has_an_age_of_its_own(self, database: Database) -> None:
        """And what is not past it stays."""
        with database.write() as connection:
            for age_d in (7.1, 6.9):
                sample = MemorySample(target="chat", slot=0, life="7@1", at=NOW - age_d * DAY, host_anon_bytes=1)
                memory_store.add_memory(connection, [sample])
            assert prune(connection, POLICY, now=NOW) == 1
            assert memory_store.memory_since(connection, "chat", "7@1") == [sample]

    def test_nothing_to_delete_deletes_nothing(self, database: Database) -> None:
        """On an empty database too."""
        with database.write() as connection:
            assert prune(connection, POLICY, now=NOW) == 0


class TestBurstCap:
    @settings(max_examples=60)
    @given(kinds=st.lists(st.booleans(), max_size=12), cap=st.integers(1, 15))
    def test_oldest_successes_go_first_and_no_more_than_needed(
        self, scratch: Database, kinds: list[bool], cap: int
    ) -> None:
        """Against the plain rule: drop the oldest good burst, else the oldest burst, until they fit."""
        left = list(enumerate(kinds))
        while len(left) > cap:
            left.remove(min(left, key=lambda b: (not b[1], b[0])))
        with scratch.write() as connection:
            connection.execute(schema.bursts.delete())
            for i, good in enumerate(kinds):
                burst_store.add_burst(connection, make_burst(Outcome.GOOD if good else Outcome.TIMEOUT, at=NOW + i))
            prune(connection, RetentionPolicy(max_rows=cap), now=NOW)
            found = burst_store.bursts_since(connection, "chat", "default", limit=100)
        assert [b.at - NOW for b in found] == [i for i, _ in left]


class TestSteps:
    def test_a_step_deletes_so_many_rows_of_a_table_and_says_that_there_are_more(self, database: Database) -> None:
        """After a week in which the daemon stood still nobody waits for the whole week to be deleted."""
        days = 9 * DAY
        with database.write() as connection:
            for first in range(0, 2 * STEP + 5, STEP):
                bursts = [
                    make_burst(Outcome.GOOD, at=NOW - days + i) for i in range(first, min(first + STEP, 2 * STEP + 5))
                ]
                burst_store.add_bursts(connection, bursts)
            deleted = [prune(connection, POLICY, now=NOW) for _ in range(4)]
        assert deleted == [STEP, STEP, 5, 0]

    def test_a_table_far_over_its_cap_shrinks_step_by_step(self, database: Database) -> None:
        """Somebody lowered max_rows."""
        with database.write() as connection:
            samples = [
                MemorySample(target="chat", slot=0, life="7@1", at=NOW + i, host_anon_bytes=1) for i in range(STEP + 30)
            ]
            memory_store.add_memory(connection, samples)
            deleted = [prune(connection, RetentionPolicy(max_rows=10), now=NOW) for _ in range(3)]
            assert memory_store.memory_since(connection, "chat", "7@1") == samples[-10:]
        assert deleted == [STEP, 20, 0]

    def test_what_is_past_its_age_is_found_without_reading_all(self, database: Database) -> None:
        """An index leads to it in every table that grows with time: the hourly look is quick while all is young."""
        with database.write() as connection:
            plan = explain(connection, lambda: prune(connection, POLICY, now=NOW))
        for step in (
            "SEARCH bursts USING COVERING INDEX ix_bursts_all_good_at (all_good=? AND at<?)",
            "SEARCH memory_samples USING COVERING INDEX ix_memory_samples_at (at<?)",
            "SEARCH rollups USING COVERING INDEX ix_rollups_hour (hour<?)",
            "SEARCH memory_rollups USING COVERING INDEX ix_memory_rollups_hour (hour<?)",
        ):
            assert step in plan, plan


class TestClock:
    def test_a_clock_set_back_deletes_nothing(self, database: Database) -> None:
        """What lies in its future is young."""
        with database.write() as connection:
            burst_store.add_burst(connection, make_burst(at=NOW))
            assert prune(connection, POLICY, now=NOW - 3600) == prune(connection, POLICY, now=0.0) == 0

    def test_what_a_clock_that_ran_ahead_wrote_keeps_nothing_else_alive(self, database: Database) -> None:
        """A sample of next year does not stand in the way of those that came after it."""
        ahead = MemorySample(target="chat", slot=0, life="7@1", at=NOW + 365 * DAY, host_anon_bytes=1)
        with database.write() as connection:
            memory_store.add_memory(connection, [ahead])
            memory_store.add_memory(connection, [replace(ahead, at=NOW)])
            assert prune(connection, POLICY, now=NOW + 8 * DAY) == 1
            assert memory_store.memory_since(connection, "chat", "7@1") == [ahead]


class TestVerdicts:
    def test_what_stands_outlives_what_was(self, database: Database) -> None:
        """A target that has been OK for a year still has a verdict when others changed theirs fifty thousand times."""
        quiet, loud = (
            Verdict(
                target=target,
                check=Check.LATENCY,
                subject="default",
                at=NOW,
                status=Status.OK,
                reason=Reason.WITHIN_BASELINE,
            )
            for target in ("chat", "image")
        )
        with database.write() as connection:
            verdict_store.save_verdict(connection, quiet)
            verdict_store.save_verdict(connection, loud)
            rows = [
                dict(connection.execute(select(schema.verdicts)).mappings().all()[1]) | {"id": None, "newest": False}
            ] * KEPT_VERDICTS
            connection.execute(schema.verdicts.insert(), [{k: v for k, v in r.items() if k != "id"} for r in rows])
            assert prune(connection, POLICY, now=NOW) == 2
            assert verdict_store.latest_verdicts(connection) == [quiet, loud]


class TestBaselines:
    def save(self, connection: Connection, version: str | None, **about: object) -> int:
        provenance = {} if version is None else {"model_version": version}
        saved = baseline_store.save_baseline(connection, make_baseline(provenance=provenance, **about))
        assert saved.id is not None
        return saved.id

    def left(self, connection: Connection) -> set[int | None]:
        return {b.id for b in baseline_store.list_baselines(connection, "chat")}

    def test_the_last_three_versions_survive_any_number_of_baselines(self, database: Database) -> None:
        """So that a rollback always can; older versions go."""
        with database.write() as connection:
            old = [self.save(connection, version) for version in ("v1", "v2", "v2", "v3")]
            new = [self.save(connection, "v4") for _ in range(KEPT_BASELINES + 5)]
            assert prune(connection, POLICY, now=NOW) == 2 + 5  # v1, the older v2, five of v4
            assert self.left(connection) == {old[2], old[3], *new[5:]}
            versions = newest_per_version(baseline_store.list_baselines(connection, "chat"))
        assert [b.provenance["model_version"] for b in versions] == ["v4", "v3", "v2"]
        assert len(versions) == KEPT_VERSIONS

    def test_the_active_one_survives_however_old(self, database: Database) -> None:
        """What is judged by must not go; nor may its promotion."""
        with database.write() as connection:
            first = baseline_store.save_baseline(connection, make_baseline())
            for i in range(KEPT_BASELINES + 5):
                later = baseline_store.save_baseline(connection, make_baseline(taken_at=NOW + i))
                baseline_store.promote(connection, later, at=NOW + i, by="ana", why="")
            baseline_store.promote(connection, first, at=NOW, by="ana", why="rollback")
            prune(connection, POLICY, now=NOW)
            assert baseline_store.active_baseline(connection, "chat", "default") == replace(first, since=NOW)
            stored = self.left(connection)
            promoted = {p.baseline_id for p in baseline_store.promotions(connection, "chat", "default")}
        assert len(stored) == KEPT_BASELINES + 1
        assert promoted <= stored

    def test_each_canary_has_a_cap_of_its_own(self, database: Database) -> None:
        """One canary that is baselined every night costs another nothing."""
        with database.write() as connection:
            lone = self.save(connection, None, canary="long")
            for _ in range(KEPT_BASELINES + 1):
                self.save(connection, None)
            assert prune(connection, POLICY, now=NOW) == 1
            assert lone in self.left(connection)

    def test_the_newest_promotion_survives_the_cap(self, database: Database) -> None:
        """Which baseline is active does not change when old promotions go."""
        with database.write() as connection:
            one, two = (baseline_store.save_baseline(connection, make_baseline(label=label)) for label in "ab")
            for i in range(retention.KEPT_PROMOTIONS + 3):
                baseline_store.promote(connection, (one, two)[i % 2], at=NOW + i, by="ana", why="")
            active = baseline_store.active_baseline(connection, "chat", "default")
            assert prune(connection, POLICY, now=NOW) == 3
            assert baseline_store.active_baseline(connection, "chat", "default") == active
            newest = baseline_store.promotions(connection, "chat", "default", limit=1)
        assert newest[0].at == NOW + retention.KEPT_PROMOTIONS + 2
