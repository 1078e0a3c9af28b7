"""What history gives back is what it was given, in order and within limits; golden values live in baselines alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest
from builders import GOLDEN, NOW, make_baseline, make_burst
from hypothesis import given, settings
from hypothesis import strategies as st
from sql_plan import explain
from sqlalchemy import Connection, select

from baselines import baseline_store, burst_store, memory_store, schema, snapshot_store, verdict_store
from baselines.baseline import Baseline
from baselines.database import Database
from baselines.packing import pack_samples, unpack_samples
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Burst, Identity, MemorySample, OpStat, Outcome, Output, Sample, Snapshot

# Strategies for all that a field may hold. NaN is never measured (None is "not known"), and never equals itself.
number = st.floats(allow_nan=False)
moment = st.floats(min_value=0, max_value=4e9)  # Unix seconds until 2096
seconds = st.floats(min_value=0, max_value=1e6)
size = st.integers(min_value=0, max_value=2**62)
text = st.text(max_size=20)
figures = st.dictionaries(text, number, max_size=3)


def optional(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


outputs = st.builds(
    Output,
    content_hash=text,
    shape=optional(st.lists(size, max_size=3).map(tuple)),
    finite=optional(st.booleans()),
    count=size,
    mean=optional(number),
    std=optional(number),
    low=optional(number),
    high=optional(number),
    values=st.lists(number, max_size=5).map(tuple),
    top_k=st.lists(size, max_size=3).map(tuple),
    text_hash=optional(text),
)
identities = st.builds(Identity, input_hash=text, shapes=optional(text), dtype=optional(text), gpu_type=optional(text))
samples = st.builds(
    Sample,
    at=moment,
    outcome=st.sampled_from(Outcome),
    latency_s=optional(seconds),
    first_byte_s=optional(seconds),
    connect_s=optional(seconds),
    control_s=optional(seconds),
    life=optional(text),
    tainted=st.booleans(),
    detail=text,
)
bursts = st.builds(
    Burst,
    target=text,
    canary=text,
    at=moment,
    samples=st.lists(samples, min_size=1, max_size=4).map(tuple),
    identity=identities,
    output=optional(outputs),
    provenance=st.dictionaries(text, text, max_size=3),
    generation=optional(text),
    workers_alive=optional(size),
    worker_cpu=optional(number),
    facts=figures,
)
memory_samples = st.builds(
    MemorySample,
    target=text,
    slot=size,
    life=text,
    at=moment,
    host_anon_bytes=optional(size),
    capacity_bytes=optional(size),
    gpu_used_bytes=optional(size),
    gpu_capacity_bytes=optional(size),
    device_used_bytes=optional(size),
    allocated_bytes=optional(size),
    reserved_bytes=optional(size),
    uptime_s=optional(number),
    gpu_room_bytes=optional(size),
    gpu_ratio=optional(number),
    gpu_ranks=optional(size),
)
groups = st.lists(st.lists(number, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple)
baselines = st.builds(
    Baseline,
    target=text,
    canary=text,
    taken_at=number,
    label=optional(text),
    provisional=st.booleans(),
    identity=identities,
    provenance=st.dictionaries(text, text, max_size=3),
    golden=optional(outputs),
    bursts=groups.filter(bool),
    controls=groups,
)
snapshots = st.builds(
    Snapshot,
    target=text,
    canary=text,
    at=number,
    steps=size,
    step_s=number,
    ops=st.lists(
        st.builds(
            OpStat, name=text, calls_per_step=number, self_s=number, self_mad_s=number, device_self_s=optional(number)
        ),
        max_size=3,
    ).map(tuple),
    environment=st.dictionaries(text, text, max_size=3),
)
verdicts = st.builds(
    Verdict,
    target=text,
    check=st.sampled_from(Check),
    subject=text,
    at=st.floats(min_value=0, allow_infinity=False),
    status=st.sampled_from(Status),
    reason=st.sampled_from(Reason),
    cause=st.sampled_from(Cause),
    level=st.sampled_from(Level),
    since=optional(number),
    strikes=st.integers(0, 3),
    life=optional(text),
    evidence=st.dictionaries(text, optional(number | size | text), max_size=3),
)


@contextmanager
def undone(database: Database) -> Iterator[Connection]:
    """A transaction that leaves nothing behind, so that examples do not see each other."""
    with database.fast.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.rollback()


class TestRoundTrips:
    """Every field of every value: types included, since judges compare with `is` and `==`."""

    @given(burst=bursts)
    def test_bursts(self, scratch: Database, burst: Burst) -> None:
        """All but the output's values, which only a golden output keeps; samples to 0.1 us, see test_packing."""
        with undone(scratch) as connection:
            burst_store.add_burst(connection, burst)
            found = burst_store.bursts_since(connection, burst.target, burst.canary, limit=1)
        kept = replace(burst.output, values=()) if burst.output else None
        packed = unpack_samples(pack_samples(burst.samples, at=burst.at), at=burst.at)
        assert found == [replace(burst, output=kept, samples=packed)]

    @given(sample=memory_samples)
    def test_memory(self, scratch: Database, sample: MemorySample) -> None:
        """None stays None and never becomes zero."""
        with undone(scratch) as connection:
            memory_store.add_memory(connection, [sample])
            assert memory_store.memory_since(connection, sample.target, sample.life) == [sample]
            assert memory_store.latest_memory(connection, sample.target) == [sample]

    @given(baseline=baselines)
    def test_baselines(self, scratch: Database, baseline: Baseline) -> None:
        """Golden values included, to the last bit."""
        with undone(scratch) as connection:
            saved = baseline_store.save_baseline(connection, baseline)
            assert saved.id is not None
            assert saved == replace(baseline, id=saved.id)
            assert baseline_store.get_baseline(connection, saved.id) == saved
            assert baseline_store.list_baselines(connection, baseline.target) == [saved]

    @given(snapshot=snapshots)
    def test_snapshots(self, scratch: Database, snapshot: Snapshot) -> None:
        """The per-op table in its order."""
        with undone(scratch) as connection:
            snapshot_store.save_snapshot(connection, snapshot)
            assert snapshot_store.latest_snapshot(connection, snapshot.target, snapshot.canary) == snapshot

    @given(verdict=verdicts)
    def test_verdicts(self, scratch: Database, verdict: Verdict) -> None:
        """All but the strikes, which the incident counts."""
        with undone(scratch) as connection:
            verdict_store.save_verdict(connection, verdict)
            found = verdict_store.verdict_history(connection, verdict.target)
            assert found == verdict_store.latest_verdicts(connection) == [replace(verdict, strikes=0)]
        words = {Check, Status, Reason, Cause, Level}
        assert {type(getattr(found[0], f.name)) for f in fields(Verdict)} >= words


class TestBursts:
    @settings(max_examples=50)
    @given(
        times=st.lists(st.integers(0, 9), max_size=12),
        since=st.integers(0, 9),
        limit=st.integers(1, 12),
    )
    def test_the_newest_so_many_come_oldest_first(
        self, scratch: Database, times: list[int], since: int, limit: int
    ) -> None:
        """Of equal times the one stored last is the newest; stored out of order or not."""
        with undone(scratch) as connection:
            for number, at in enumerate(times):
                burst_store.add_burst(connection, make_burst(at=at, facts={"number": number}))
            found = burst_store.bursts_since(connection, "chat", "default", since=since, limit=limit)
        expected = sorted((at, number) for number, at in enumerate(times) if at >= since)[-limit:]
        assert [(b.at, b.facts["number"]) for b in found] == expected

    def test_samples_keep_the_order_they_were_sent_in(self, database: Database) -> None:
        """Also where the clock stepped back between two requests, by which the burst began after its samples."""
        burst = replace(make_burst(), samples=tuple(reversed(make_burst().samples)), at=NOW + 3600)
        with database.write() as connection:
            burst_store.add_burst(connection, burst)
            assert burst_store.bursts_since(connection, "chat", "default", limit=5) == [burst]

    def test_many_at_once_are_as_many_one_by_one(self, database: Database) -> None:
        """More than SQLite binds variables at once; each with its own samples, and none makes none."""
        with database.write() as connection:
            burst_store.add_bursts(connection, [])
            burst_store.add_bursts(connection, [make_burst(Outcome.GOOD, at=NOW + i) for i in range(1100)])
            burst_store.add_burst(connection, make_burst(Outcome.GOOD, at=NOW + 1100))
            found = burst_store.bursts_since(connection, "chat", "default", limit=2000)
        assert [b.at for b in found] == [b.samples[0].at for b in found] == [NOW + i for i in range(1101)]

    def test_sql_reads_the_samples_of_a_row(self, database: Database) -> None:
        """With SQLite's own JSON functions, for who looks at the file with another program."""
        with database.write() as connection:
            burst_store.add_burst(connection, make_burst(Outcome.GOOD, Outcome.TIMEOUT, Outcome.GOOD))
            rows = connection.exec_driver_sql(
                "SELECT json_extract(samples, '$.count'), json_extract(samples, '$.latency_us[0]') / 1e6,"
                " json_extract(samples, '$.outcome[1]'), json_extract(identity, '$.input_hash') FROM bursts"
            ).all()
        assert rows == [(3, 0.05, "timeout", "abc")]

    def test_canaries_and_targets_are_kept_apart(self, database: Database) -> None:
        """Each canary has its own baseline, so its own history."""
        with database.write() as connection:
            for target, canary in (("chat", "default"), ("chat", "long"), ("image", "default")):
                burst_store.add_burst(connection, make_burst(target=target, canary=canary))
            found = burst_store.bursts_since(connection, "chat", "long", limit=5)
        assert [(b.target, b.canary) for b in found] == [("chat", "long")]

    def test_last_good_is_the_last_burst_with_a_good_answer(self, database: Database) -> None:
        """One good answer of five proves that the server served; a wrong one, or another canary's, does not."""
        with database.write() as connection:
            assert burst_store.last_good_at(connection, "chat", "default") is None
            burst_store.add_burst(connection, make_burst(at=NOW))
            burst_store.add_burst(
                connection, make_burst(Outcome.TIMEOUT, Outcome.GOOD, Outcome.OVERLOADED_503, at=NOW + 60)
            )
            burst_store.add_burst(connection, make_burst(Outcome.DRIFTED, at=NOW + 120))
            burst_store.add_burst(connection, make_burst(at=NOW + 180, canary="long"))
            assert burst_store.last_good_at(connection, "chat", "default") == NOW + 60

    def test_first_burst_is_the_oldest_of_its_canary(self, database: Database) -> None:
        """What a canary that was never good counts from."""
        with database.write() as connection:
            assert burst_store.first_burst_at(connection, "chat", "default") is None
            burst_store.add_burst(connection, make_burst(Outcome.OVERLOADED_503, at=NOW + 60))
            burst_store.add_burst(connection, make_burst(Outcome.OVERLOADED_503, at=NOW + 120))
            burst_store.add_burst(connection, make_burst(at=NOW, canary="long"))
            assert burst_store.first_burst_at(connection, "chat", "default") == NOW + 60


class TestMemory:
    def at(self, slot: int, life: str, at: float, used: int = 5) -> MemorySample:
        return MemorySample(target="chat", slot=slot, life=life, at=at, host_anon_bytes=used)

    def test_windows_never_span_two_lives(self, database: Database) -> None:
        """The next life in the slot starts anew."""
        with database.write() as connection:
            memory_store.add_memory(connection, [])
            memory_store.add_memory(connection, [self.at(0, "7@1", NOW), self.at(1, "8@1", NOW)])
            memory_store.add_memory(connection, [self.at(0, "9@2", NOW + 60, used=1), self.at(1, "8@1", NOW + 60)])
            assert [s.at for s in memory_store.memory_since(connection, "chat", "8@1")] == [NOW, NOW + 60]
            assert [s.at for s in memory_store.memory_since(connection, "chat", "8@1", since=NOW + 1)] == [NOW + 60]
            assert [s.host_anon_bytes for s in memory_store.memory_since(connection, "chat", "9@2")] == [1]
            assert [(s.slot, s.life) for s in memory_store.latest_memory(connection, "chat")] == [
                (0, "9@2"),
                (1, "8@1"),
            ]

    def test_a_life_is_read_in_the_order_in_which_it_was_lived(self, database: Database) -> None:
        """The clock was set back by an hour: what was taken then is younger, and not before it."""
        with database.write() as connection:
            times = [NOW, NOW + 60, NOW - 3540, NOW - 3480]
            memory_store.add_memory(connection, [self.at(0, "7@1", at) for at in times])
            found = memory_store.memory_since(connection, "chat", "7@1", since=NOW - 7200)
        assert [sample.at for sample in found] == times

    @pytest.mark.parametrize("step", [600.0, -600.0], ids=["later", "clock set back"])
    def test_a_slot_that_is_sampled_no_more_is_nobodys(self, database: Database, step: float) -> None:
        """After a change to fewer workers, nobody reads of memory that was given back long ago."""
        with database.write() as connection:
            memory_store.add_memory(connection, [self.at(0, "7@1", NOW), self.at(1, "8@1", NOW)])
            memory_store.add_memory(connection, [self.at(0, "7@1", NOW + step)])
            assert [(s.slot, s.at) for s in memory_store.latest_memory(connection, "chat")] == [(0, NOW + step)]

    def test_newest_figures_are_found_without_reading_all(self, database: Database) -> None:
        """Weeks of samples are not scanned for what is asked at every look: an index leads there."""
        with database.write() as connection:
            memory_store.add_memory(connection, [self.at(0, "7@1", NOW)])
            plan = explain(connection, lambda: memory_store.latest_memory(connection, "chat"))
            assert any("ix_memory_samples_target_slot (target=? AND slot=?)" in step for step in plan), plan
            assert not any("SCAN memory_samples" in step for step in plan), plan
            plan = explain(connection, lambda: burst_store.last_good_at(connection, "chat", "default"))
            assert any("ix_bursts_target_canary_any_good_at (target=? AND canary=? AND any_good=?)" in s for s in plan)

    def test_lives_are_remembered_from_first_to_last_sight(self, database: Database) -> None:
        """One row a life; its slot is where it was seen last."""
        with database.write() as connection:
            memory_store.add_memory(connection, [self.at(0, "7@1", NOW)])
            memory_store.add_memory(connection, [self.at(0, "7@1", NOW + 60), self.at(1, "8@1", NOW + 30)])
            memory_store.add_memory(connection, [self.at(2, "7@1", NOW + 90)])
            assert memory_store.lives_seen(connection, "chat") == [
                ("8@1", 1, NOW + 30, NOW + 30),
                ("7@1", 2, NOW, NOW + 90),
            ]
            assert memory_store.lives_seen(connection, "image") == []


class TestBaselines:
    def test_none_is_active_before_the_first_promotion(self, database: Database) -> None:
        """Storing is not promoting."""
        with database.write() as connection:
            baseline_store.save_baseline(connection, make_baseline())
            assert baseline_store.active_baseline(connection, "chat", "default") is None
            assert baseline_store.promotions(connection, "chat", "default") == []
            assert baseline_store.get_baseline(connection, 99) is None

    def test_promotions_and_rollbacks_are_history(self, database: Database) -> None:
        """A rollback is one more row; nothing is forgotten, and each canary has a history of its own."""
        with database.write(durable=True) as connection:
            first, second = (
                baseline_store.save_baseline(connection, make_baseline(label=label)) for label in ("v1", "v2")
            )
            other = baseline_store.save_baseline(connection, make_baseline(canary="long"))
            for number, (baseline, why) in enumerate(
                [(first, "deploy"), (second, "deploy"), (other, "deploy"), (first, "rollback")]
            ):
                baseline_store.promote(connection, baseline, at=NOW + number, by="ana", why=why)
            active = [baseline_store.active_baseline(connection, "chat", name) for name in ("default", "long")]
            assert active == [replace(first, since=NOW + 3), replace(other, since=NOW + 2)]
            history = baseline_store.promotions(connection, "chat", "default")
            newest = baseline_store.promotions(connection, "chat", "default", limit=1)
            assert [b.label for b in baseline_store.list_baselines(connection, "chat", "default")] == ["v2", "v1"]
            assert len(baseline_store.list_baselines(connection, "chat")) == 3
        assert [(p.baseline_id, p.at, p.by, p.why) for p in history] == [
            (first.id, NOW + 3, "ana", "rollback"),
            (second.id, NOW + 1, "ana", "deploy"),
            (first.id, NOW, "ana", "deploy"),
        ]
        assert newest == history[:1]

    def test_a_promotion_counts_by_when_it_was_made_and_not_by_the_clock(self, database: Database) -> None:
        """A clock that was set back does not bring an old baseline back."""
        with database.write(durable=True) as connection:
            first, second = (
                baseline_store.save_baseline(connection, make_baseline(label=label)) for label in ("v1", "v2")
            )
            baseline_store.promote(connection, first, at=NOW, by="ana", why="")
            baseline_store.promote(connection, second, at=NOW - 3600, by="ana", why="")
            assert baseline_store.active_baseline(connection, "chat", "default") == replace(second, since=NOW - 3600)

    def test_the_active_one_is_found_without_reading_all(self, database: Database) -> None:
        """A year of promotions is neither read nor sorted for what every judgement asks for; nor are baselines."""
        with database.write(durable=True) as connection:
            saved = baseline_store.save_baseline(connection, make_baseline())
            baseline_store.promote(connection, saved, at=NOW, by="ana", why="")
            plan = explain(connection, lambda: baseline_store.active_baseline(connection, "chat", "default"))
            plan += explain(connection, lambda: baseline_store.list_baselines(connection, "chat", "default", limit=1))
        assert not [step for step in plan if "SCAN" in step or "TEMP B-TREE" in step], plan

    def test_golden_values_are_in_baselines_and_nowhere_else(self, database: Database) -> None:
        """Answers are never stored whole: of each burst's answer only a hash and summary numbers stay."""
        secret = 0.1234567890123
        golden = replace(GOLDEN, values=(secret, 1.0, 2.0))
        with database.write(durable=True) as connection:
            for _ in range(3):
                burst_store.add_burst(connection, make_burst(output=golden))
            baseline_store.save_baseline(connection, make_baseline(golden=golden))
            holding = [
                table.name
                for table in schema.metadata.sorted_tables
                if any(str(secret) in str(tuple(row)) for row in connection.execute(select(table)))
            ]
            outputs = connection.execute(select(schema.bursts.c.output)).scalars().all()
        assert holding == ["baselines"]
        assert [output.get("values") for output in outputs] == [None] * 3
        assert [output["content_hash"] for output in outputs] == [golden.content_hash] * 3


class TestVerdicts:
    def verdict(self, at: float, *, target: str = "chat", subject: str = "default") -> Verdict:
        return Verdict(
            target=target, check=Check.LATENCY, subject=subject, at=at, status=Status.OK, reason=Reason.WITHIN_BASELINE
        )

    def test_the_newest_of_each_subject_stands(self, database: Database) -> None:
        """One line per (target, check, subject), as `status` and a new start need them."""
        said = [self.verdict(1), self.verdict(2, subject="long"), self.verdict(3), self.verdict(4, target="image")]
        with database.write() as connection:
            for verdict in said:
                verdict_store.save_verdict(connection, verdict)
            assert verdict_store.latest_verdicts(connection) == said[1:]

    def test_newest_verdicts_are_found_without_reading_all(self, database: Database) -> None:
        """A year of changes is not scanned for what is asked at every look."""
        with database.write() as connection:
            verdict_store.save_verdict(connection, self.verdict(1))
            plan = explain(connection, lambda: verdict_store.latest_verdicts(connection))
            assert any("ix_verdicts_newest" in step for step in plan), plan
            plan = explain(connection, lambda: verdict_store.refresh_verdict(connection, self.verdict(2)))
            assert any("ix_verdicts_newest" in step for step in plan), plan

    def test_a_refreshed_verdict_keeps_its_words_and_its_time(self, database: Database) -> None:
        """Only its figures are those of now, and only those of the newest of this subject."""
        with database.write() as connection:
            for at in (1.0, 2.0):
                verdict_store.save_verdict(connection, self.verdict(at))
            verdict_store.save_verdict(connection, self.verdict(3.0, subject="long"))
            verdict_store.refresh_verdict(connection, replace(self.verdict(9.0), evidence={"ratio": 1.5}))
            history = verdict_store.verdict_history(connection, "chat")
        assert [(v.at, dict(v.evidence)) for v in history] == [(3.0, {}), (2.0, {"ratio": 1.5}), (1.0, {})]

    def test_history_is_newest_first_and_limited(self, database: Database) -> None:
        """Since a time, of one target."""
        with database.write() as connection:
            for at in range(5):
                verdict_store.save_verdict(connection, self.verdict(at))
            verdict_store.save_verdict(connection, self.verdict(9, target="image"))
            assert [v.at for v in verdict_store.verdict_history(connection, "chat")] == [4, 3, 2, 1, 0]
            assert [v.at for v in verdict_store.verdict_history(connection, "chat", since=2)] == [4, 3, 2]
            assert [v.at for v in verdict_store.verdict_history(connection, "chat", limit=2)] == [4, 3]


def test_the_newest_snapshot_is_shown(database: Database) -> None:
    """None before the first; by the time it was taken."""
    with database.write() as connection:
        assert snapshot_store.latest_snapshot(connection, "chat", "default") is None
        for at in (NOW, NOW + 2, NOW + 1):
            snapshot_store.save_snapshot(
                connection,
                Snapshot(target="chat", canary="default", at=at, steps=3, step_s=0.1, ops=(), environment={}),
            )
        found = snapshot_store.latest_snapshot(connection, "chat", "default")
    assert found is not None
    assert found.at == NOW + 2
