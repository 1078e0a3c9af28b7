"""What is kept for how long, and the caps that hold whatever the ages say."""

from __future__ import annotations

import pytest
from builders import NOW, make_baseline, make_burst
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select

from baselines import retention, schema, store
from baselines.database import Database
from baselines.retention import KEPT_BASELINES, KEPT_VERSIONS, RetentionPolicy, newest_per_version, prune
from probes.messages import MemorySample, Outcome

DAY = 86400.0
POLICY = RetentionPolicy()


def ages(connection: Connection) -> list[float]:
    """Of the bursts that are left, in days, oldest first."""
    found = store.bursts_since(connection, "chat", "default", limit=1000)
    return [(NOW - burst.at) / DAY for burst in found]


class TestAge:
    @pytest.mark.parametrize(
        ("outcome", "age_d", "kept"),
        [
            (Outcome.GOOD, 13, True),
            (Outcome.GOOD, 15, False),
            (Outcome.TIMEOUT, 15, True),
            (Outcome.DRIFTED, 89, True),
            (Outcome.OVERLOADED_503, 89, True),
            (Outcome.TIMEOUT, 91, False),
        ],
    )
    def test_failures_outlive_successes(self, database: Database, outcome: Outcome, age_d: float, kept: bool) -> None:
        """A failure is what an incident page needs weeks later; its samples go with it."""
        with database.write() as connection:
            store.add_burst(connection, make_burst(outcome, at=NOW - age_d * DAY))
            store.add_burst(connection, make_burst(at=NOW))
            assert prune(connection, POLICY, now=NOW) == (not kept)
            assert ages(connection) == [*([age_d] if kept else []), 0]
            assert connection.execute(select(func.count()).select_from(schema.samples)).scalar() == 5 + kept

    def test_one_failed_request_keeps_its_burst(self, database: Database) -> None:
        """The good ones beside it are its context."""
        with database.write() as connection:
            burst = make_burst(Outcome.GOOD, Outcome.GOOD, Outcome.TIMEOUT, at=NOW - 30 * DAY)
            store.add_burst(connection, burst)
            assert prune(connection, POLICY, now=NOW) == 0
            assert store.bursts_since(connection, "chat", "default", limit=1) == [burst]

    def test_memory_has_an_age_of_its_own(self, database: Database) -> None:
        """And what is not past it stays."""
        with database.write() as connection:
            for age_d in (15, 13):
                sample = MemorySample(target="chat", slot=0, life="7@1", at=NOW - age_d * DAY, host_anon_bytes=1)
                store.add_memory(connection, [sample])
            assert prune(connection, POLICY, now=NOW) == 1
            assert store.memory_since(connection, "chat", "7@1") == [sample]

    def test_nothing_to_delete_deletes_nothing(self, database: Database) -> None:
        """On an empty database too."""
        with database.write() as connection:
            assert prune(connection, POLICY, now=NOW) == 0


class TestSampleCap:
    @settings(max_examples=60)
    @given(
        kinds=st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=12),
        cap=st.integers(1, 30),
    )
    def test_oldest_successes_go_first_and_no_more_than_needed(
        self, scratch: Database, kinds: list[tuple[bool, int]], cap: int
    ) -> None:
        """Against the plain rule: drop the oldest good burst, else the oldest burst, until the samples fit."""
        left = [(i, good, size) for i, (good, size) in enumerate(kinds)]
        while sum(size for _, _, size in left) > cap:
            left.remove(min(left, key=lambda b: (not b[1], b[0])))
        with scratch.write() as connection:
            connection.execute(schema.bursts.delete())
            for i, (good, size) in enumerate(kinds):
                outcome = Outcome.GOOD if good else Outcome.TIMEOUT
                store.add_burst(connection, make_burst(*[outcome] * size, at=NOW + i))
            prune(connection, RetentionPolicy(max_rows=cap), now=NOW)
            found = store.bursts_since(connection, "chat", "default", limit=100)
        assert [b.at - NOW for b in found] == [i for i, _, _ in left]


class TestBaselines:
    def save(self, connection: Connection, version: str | None, **about: object) -> int:
        provenance = {} if version is None else {"model_version": version}
        saved = store.save_baseline(connection, make_baseline(provenance=provenance, **about))
        assert saved.id is not None
        return saved.id

    def left(self, connection: Connection) -> set[int | None]:
        return {b.id for b in store.list_baselines(connection, "chat")}

    def test_the_last_three_versions_survive_any_number_of_baselines(self, database: Database) -> None:
        """So that a rollback always can; older versions go."""
        with database.write() as connection:
            old = [self.save(connection, version) for version in ("v1", "v2", "v2", "v3")]
            new = [self.save(connection, "v4") for _ in range(KEPT_BASELINES + 5)]
            assert prune(connection, POLICY, now=NOW) == 2 + 5  # v1, the older v2, five of v4
            assert self.left(connection) == {old[2], old[3], *new[5:]}
            versions = newest_per_version(store.list_baselines(connection, "chat"))
        assert [b.provenance["model_version"] for b in versions] == ["v4", "v3", "v2"]
        assert len(versions) == KEPT_VERSIONS

    def test_the_active_one_survives_however_old(self, database: Database) -> None:
        """What is judged by must not go; nor may its promotion."""
        with database.write() as connection:
            first = store.save_baseline(connection, make_baseline())
            for i in range(KEPT_BASELINES + 5):
                later = store.save_baseline(connection, make_baseline(taken_at=NOW + i))
                store.promote(connection, later, at=NOW + i, by="ana", why="")
            store.promote(connection, first, at=NOW, by="ana", why="rollback")
            prune(connection, POLICY, now=NOW)
            assert store.active_baseline(connection, "chat", "default") == first
            stored = self.left(connection)
            promoted = {p.baseline_id for p in store.promotions(connection, "chat", "default")}
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
            one, two = (store.save_baseline(connection, make_baseline(label=label)) for label in "ab")
            for i in range(retention.KEPT_PROMOTIONS + 3):
                store.promote(connection, (one, two)[i % 2], at=NOW + i, by="ana", why="")
            active = store.active_baseline(connection, "chat", "default")
            assert prune(connection, POLICY, now=NOW) == 3
            assert store.active_baseline(connection, "chat", "default") == active
            newest = store.promotions(connection, "chat", "default", limit=1)
        assert newest[0].at == NOW + retention.KEPT_PROMOTIONS + 2
