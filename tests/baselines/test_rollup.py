"""Hours that outlive their details: each request counts once in them, whatever happens to the daemon or the clock."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from builders import NOW, make_burst
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from baselines import burst_store, memory_store, rollup_store, schema
from baselines.database import Database
from baselines.histogram import histogram_of
from baselines.retention import RetentionPolicy, prune
from baselines.rollup import HOUR_S, MemoryRollup, Rollup, Span, regroup, roll_up
from probes.messages import Burst, MemorySample, Outcome, Sample

HOUR = int(NOW // HOUR_S) * HOUR_S
SHORT = RetentionPolicy(samples_s=60, failures_s=120, memory_s=60, max_rows=9)  # nine hours at most in these tests

WRITE_FOR_EVER = """
import sys
from itertools import count
from builders import NOW, make_burst
from baselines import burst_store, memory_store, retention
from baselines.database import open_database
database = open_database(f"sqlite:///{sys.argv[1]}")
for i in count():
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst(at=NOW + 60 * i))
    with database.write() as connection:
        retention.prune(connection, retention.RetentionPolicy(samples_s=600), now=NOW + 60 * i)
    print(i, flush=True)
"""


def hours(connection: Connection) -> list[Rollup]:
    return rollup_store.rollups_since(connection, "chat", "default", since=0, limit=1000)


def empty(connection: Connection) -> None:
    for table in (schema.bursts, schema.rollups):
        connection.execute(table.delete())


outcomes = st.lists(st.sampled_from([Outcome.GOOD, Outcome.TIMEOUT, Outcome.DRIFTED]), min_size=1, max_size=4)
trips = st.lists(
    st.tuples(st.integers(-4 * HOUR_S, 4 * HOUR_S), outcomes, st.floats(1e-4, 10), st.booleans()), max_size=12
)


@settings(max_examples=60)  # a real file, on a machine that may be busy
@given(trips=trips)
def test_each_request_counts_once_whatever_is_pruned_and_however_the_clock_jumps(
    scratch: Database, trips: list[tuple[int, list[Outcome], float, bool]]
) -> None:
    """Bursts of any hour in any order, with pruning between them that deletes nearly all: the hours hold them all."""
    requests: dict[int, Counter[Outcome]] = {}
    latencies: dict[int, list[float]] = {}
    with scratch.write() as connection:
        empty(connection)
        for offset_s, burst_outcomes, latency_s, then_prune in trips:
            burst = make_burst(*burst_outcomes, at=HOUR + offset_s, latency_s=latency_s)
            burst_store.add_burst(connection, burst)
            begin = int(burst.at // HOUR_S) * HOUR_S
            requests.setdefault(begin, Counter()).update(burst_outcomes)
            latencies.setdefault(begin, []).extend([latency_s] * burst_outcomes.count(Outcome.GOOD))
            if then_prune:
                prune(connection, SHORT, now=burst.at)
        found = hours(connection)
    assert {r.begin: r.requests for r in found} == requests
    assert {r.begin: r.latencies for r in found} == {begin: histogram_of(x) for begin, x in latencies.items()}


def test_at_once_and_one_by_one_make_the_same_hours(database: Database) -> None:
    """A batch is added up before it is written, a lone burst is added to what is there."""
    rng = random.Random(1)
    bursts = [make_burst(at=HOUR + 97.0 * i, latency_s=rng.lognormvariate(-3, 0.3)) for i in range(200)]
    with database.write() as connection:
        burst_store.add_bursts(connection, bursts)
        at_once = hours(connection)
        empty(connection)
        for burst in bursts:
            burst_store.add_burst(connection, burst)
        assert hours(connection) == at_once == roll_up(bursts)


def test_a_transaction_taken_back_counts_nothing(database: Database) -> None:
    """The judge tries again what could not be committed; then it counts once."""

    def fail() -> None:
        with database.write() as connection:
            burst_store.add_burst(connection, make_burst())
            raise OSError("disk full")

    for _ in range(3):
        with pytest.raises(OSError, match="disk full"):
            fail()
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst())
        assert [r.total for r in hours(connection)] == [5]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_counted_twice_by_kill_nine(database: Database, tmp_path: Path, seed: int) -> None:
    """Killed while it writes and prunes: the hours hold exactly the bursts that were committed."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path])
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, database.path],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    assert child.stdout is not None
    with child:
        for _ in range(random.Random(seed).randrange(20, 60)):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        told = [int(line) for line in child.stdout if line.endswith("\n")]
    with database.read() as connection:
        newest = burst_store.bursts_since(connection, "chat", "default", limit=1)[0]
        found = hours(connection)
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    committed = round((newest.at - NOW) / 60) + 1
    assert committed > 20
    assert committed >= max(told, default=0) + 1
    assert sum(r.total for r in found) == sum(r.latencies.count for r in found) == 5 * committed


def test_only_good_untainted_latencies_are_in_the_histogram(database: Database) -> None:
    """Every request counts; a latency that says nothing of the server does not."""
    samples = (
        Sample(at=NOW, outcome=Outcome.GOOD, latency_s=0.05),
        Sample(at=NOW, outcome=Outcome.GOOD, latency_s=9.0, tainted=True),
        Sample(at=NOW, outcome=Outcome.DRIFTED, latency_s=0.01),
        Sample(at=NOW, outcome=Outcome.TIMEOUT),
    )
    burst = Burst(target="chat", canary="default", at=NOW, samples=samples, identity=make_burst().identity)
    with database.write() as connection:
        burst_store.add_burst(connection, burst)
        (hour,) = hours(connection)
    assert hour.requests == {Outcome.GOOD: 2, Outcome.DRIFTED: 1, Outcome.TIMEOUT: 1}
    assert (hour.total, hour.failed) == (4, 2)
    assert hour.latencies == histogram_of([0.05])


def test_hours_are_of_one_target_and_canary_since_a_moment(database: Database) -> None:
    """The hour that the moment lies in is among them: it has not ended."""
    with database.write() as connection:
        for canary in ("default", "long"):
            burst_store.add_bursts(connection, [make_burst(at=HOUR + i * HOUR_S, canary=canary) for i in range(3)])
        burst_store.add_burst(connection, make_burst(target="image", at=HOUR))
        since = HOUR + HOUR_S + 1.0
        for limit, expected in ((9, [HOUR_S, 2 * HOUR_S]), (1, [2 * HOUR_S])):
            found = rollup_store.rollups_since(connection, "chat", "long", since=since, limit=limit)
            assert [(r.begin - HOUR, r.canary) for r in found] == [(begin, "long") for begin in expected]
        assert rollup_store.rollups_since(connection, "chat", "long", since=HOUR + 3 * HOUR_S, limit=9) == []
        assert len(rollup_store.rollups_since(connection, "image", "default", since=0, limit=9)) == 1


def test_regrouped_hours_hold_the_same_requests() -> None:
    """Days begin at midnight UTC; canaries stay apart, empty days are left out."""
    day = 24 * HOUR_S
    midnight = HOUR // day * day
    bursts = [make_burst(at=midnight + i * HOUR_S, latency_s=0.01 * (i + 1)) for i in (0, 5, 23, 24, 72)]
    bursts.append(make_burst(at=midnight, canary="long"))
    days = regroup(roll_up(bursts), day)
    assert [(r.begin - midnight, r.canary, r.total) for r in days] == [
        (0, "default", 15),
        (0, "long", 5),
        (day, "default", 5),
        (3 * day, "default", 5),
    ]
    assert days[0].latencies == histogram_of([0.01] * 5 + [0.06] * 5 + [0.24] * 5)


class TestMemory:
    def at(self, offset_s: float, host: int | None, gpu: int | None = None, life: str = "7@1") -> MemorySample:
        sample = MemorySample(target="chat", slot=0, life=life, at=HOUR + offset_s, host_anon_bytes=host)
        return MemorySample(
            **{name: getattr(sample, name) for name in ("target", "slot", "life", "at", "host_anon_bytes")},
            gpu_used_bytes=gpu,
        )

    def test_an_hour_keeps_the_least_the_greatest_and_the_last(self, database: Database) -> None:
        """Of each life apart; a figure that could not be read changes nothing."""
        with database.write() as connection:
            for offset_s, host, gpu in ((0, 5, None), (15, 9, None), (30, 3, None), (45, None, 7), (60, 4, None)):
                memory_store.add_memory(connection, [self.at(offset_s, host, gpu)])
            memory_store.add_memory(connection, [self.at(90, 1, life="8@2"), self.at(HOUR_S, 2, life="8@2")])
            found = rollup_store.memory_rollups_since(connection, "chat", since=0, limit=1000)
        about = {"target": "chat", "slot": 0, "gpu_used_bytes": None}
        assert found == [
            MemoryRollup(
                target="chat",
                slot=0,
                life="7@1",
                begin=HOUR,
                host_anon_bytes=Span(low=3, high=9, last=4),
                gpu_used_bytes=Span(low=7, high=7, last=7),
            ),
            MemoryRollup(**about, life="8@2", begin=HOUR, host_anon_bytes=Span(low=1, high=1, last=1)),
            MemoryRollup(**about, life="8@2", begin=HOUR + HOUR_S, host_anon_bytes=Span(low=2, high=2, last=2)),
        ]

    @settings(max_examples=50)
    @given(figures=st.lists(st.tuples(st.none() | st.integers(0, 2**60), st.integers(1, 3)), min_size=1, max_size=9))
    def test_any_figures_in_any_batches(self, scratch: Database, figures: list[tuple[int | None, int]]) -> None:
        """Against Python's own min and max; in one batch or in several."""
        with scratch.write() as connection:
            for table in (schema.memory_samples, schema.memory_rollups, schema.lives):
                connection.execute(table.delete())
            for host, times in figures:
                memory_store.add_memory(connection, [self.at(0, host)] * times)
            (found,) = rollup_store.memory_rollups_since(connection, "chat", since=0, limit=1000)
        known = [host for host, _ in figures if host is not None]
        expected = Span(low=min(known), high=max(known), last=known[-1]) if known else None
        assert found.host_anon_bytes == expected

    def test_hours_outlive_the_samples(self, database: Database) -> None:
        """That is what they are for."""
        with database.write() as connection:
            memory_store.add_memory(connection, [self.at(0, 5)])
            assert prune(connection, RetentionPolicy(), now=HOUR + 30 * 86400.0) == 1
            assert connection.execute(select(schema.memory_samples)).all() == []
            assert len(rollup_store.memory_rollups_since(connection, "chat", since=0, limit=1000)) == 1


def test_hours_too_go_at_their_age(database: Database) -> None:
    """After four hundred days, bursts and memory alike."""
    memory = MemorySample(target="chat", slot=0, life="7@1", at=NOW, host_anon_bytes=1)
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst(at=NOW))
        memory_store.add_memory(connection, [memory])
        prune(connection, RetentionPolicy(), now=NOW + 399 * 86400.0)
        assert len(hours(connection)) == 1
        assert prune(connection, RetentionPolicy(), now=NOW + 401 * 86400.0) == 2
        assert hours(connection) == rollup_store.memory_rollups_since(connection, "chat", since=0, limit=1000) == []
