"""The long view: what a year of requests and memory looks like by the hour and by the day, read and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders import NOW, make_burst
from site_stage import Site, opened_site

from baselines import burst_store, memory_store
from baselines.database import Database
from baselines.rollup import HOUR_S, Span
from probes.messages import MemorySample, Outcome
from watchdog.history import MAX_STEPS, By, read_canaries, read_workers

DAY_S = 24 * HOUR_S
MIDNIGHT = int(NOW // DAY_S) * DAY_S


def fill(database: Database) -> None:
    """Three days: a good one, one with failures on a second canary, one of twice the latency."""
    bursts = [make_burst(at=MIDNIGHT + i * HOUR_S, latency_s=0.05) for i in range(24)]
    bursts.append(make_burst(Outcome.GOOD, Outcome.TIMEOUT, at=MIDNIGHT + DAY_S, canary="long"))
    bursts += [make_burst(at=MIDNIGHT + 2 * DAY_S + i * HOUR_S, latency_s=0.1) for i in range(2)]
    first = MemorySample(target="chat", slot=0, life="7@1", at=MIDNIGHT, host_anon_bytes=100)
    samples = [
        first,
        replace(first, at=MIDNIGHT + HOUR_S, host_anon_bytes=300),
        replace(first, at=MIDNIGHT + 2 * HOUR_S, host_anon_bytes=50, life="8@2", gpu_used_bytes=7),
        replace(first, at=MIDNIGHT + DAY_S, host_anon_bytes=60, life="8@2"),
        replace(first, at=MIDNIGHT, slot=1, life="9@3", host_anon_bytes=None),
    ]
    with database.write() as connection:
        burst_store.add_bursts(connection, bursts)
        memory_store.add_memory(connection, samples)


class TestReading:
    def test_days_and_hours_of_each_canary(self, database: Database) -> None:
        """Oldest first; the sum of the hours is the day; canaries apart."""
        fill(database)
        with database.read() as connection:
            days = read_canaries(connection, "chat", ["default", "long"], by=By.DAY)
            hours = read_canaries(connection, "chat", ["default", "long"], by=By.HOUR)
        assert [(d.begin - MIDNIGHT, d.canary, d.requests, d.failed) for d in days] == [
            (0, "default", 120, 0),
            (DAY_S, "long", 2, 1),
            (2 * DAY_S, "default", 10, 0),
        ]
        assert dict(days[1].outcomes) == {"good": 1, "timeout": 1}
        assert [d.p95_s for d in days] == [pytest.approx(x, rel=0.011) for x in (0.05, 0.05, 0.1)]
        assert len(hours) == 24 + 1 + 2
        assert sum(h.requests for h in hours) == sum(d.requests for d in days)

    @pytest.mark.parametrize(
        ("by", "begins"), [(By.DAY, [DAY_S, 2 * DAY_S]), (By.HOUR, [2 * DAY_S, 2 * DAY_S + HOUR_S])]
    )
    def test_since_gives_whole_steps(self, database: Database, by: By, begins: list[int]) -> None:
        """The step that the moment lies in is there from its beginning: half a day would look like a bad one."""
        fill(database)
        since = MIDNIGHT + (DAY_S + 5.0 * HOUR_S if by is By.DAY else 2 * DAY_S + 5.0)
        with database.read() as connection:
            found = read_canaries(connection, "chat", ["default", "long"], by=by, since=since)
        assert [s.begin - MIDNIGHT for s in found] == begins

    def test_no_more_than_so_many_steps_come(self, database: Database) -> None:
        """The newest, however long the history and whatever a clock that ran ahead has left there."""
        bursts = [make_burst(Outcome.GOOD, at=MIDNIGHT + i * HOUR_S) for i in range(MAX_STEPS + 10)]
        with database.write() as connection:
            burst_store.add_bursts(connection, [*bursts, make_burst(at=NOW + 9e8)])
            found = read_canaries(connection, "chat", ["default"], by=By.HOUR)
        assert len(found) == MAX_STEPS
        assert found[-2].begin == MIDNIGHT + (MAX_STEPS + 9) * HOUR_S

    def test_failures_alone_have_no_quantiles(self, database: Database) -> None:
        """None, not zero."""
        with database.write() as connection:
            burst_store.add_burst(connection, make_burst(Outcome.REFUSED))
            (step,) = read_canaries(connection, "chat", ["default"], by=By.DAY)
        assert (step.p50_s, step.p95_s, step.p99_s) == (None, None, None)

    def test_memory_of_a_slot_over_its_lives(self, database: Database) -> None:
        """The least and the greatest of all, the last of the newest, and how many lives there were."""
        fill(database)
        with database.read() as connection:
            found = read_workers(connection, "chat", by=By.DAY, since=0.0)
            hours = read_workers(connection, "chat", by=By.HOUR, since=MIDNIGHT + DAY_S)
        assert [(w.begin - MIDNIGHT, w.slot, w.lives) for w in found] == [(0, 0, 2), (0, 1, 1), (DAY_S, 0, 1)]
        assert found[0].host_anon_bytes == Span(low=50, high=300, last=50)
        assert found[0].gpu_used_bytes == Span(low=7, high=7, last=7)
        assert found[1].host_anon_bytes is None
        assert [(w.begin - MIDNIGHT, w.slot) for w in hours] == [(DAY_S, 0)]

    def test_nothing_is_known_of_what_was_never_asked(self, database: Database) -> None:
        """An empty list, no error."""
        with database.read() as connection:
            assert read_canaries(connection, "chat", ["default"], by=By.DAY) == []
            assert read_workers(connection, "chat", by=By.DAY, since=0.0) == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with opened_site(tmp_path) as made:
        fill(made.database)
        yield made


class TestOverHttp:
    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ("target=chat", 2),
            ("target=chat&step=hour", 26),
            (f"target=chat&since={MIDNIGHT + DAY_S}", 1),
            ("target=chat&canary=default&step=day", 2),
            ("target=other", 0),
        ],
    )
    def test_steps_of_a_target(self, site: Site, query: str, count: int) -> None:
        """Of the canaries that are configured, by the day unless asked otherwise; as its document says."""
        answer = site.ask(f"/api/v1/history?{query}")
        assert answer.status_code == 200
        document = site.ask("/api/v1/openapi.json").json()
        told = document["paths"]["/api/v1/history"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {**told, "components": document["components"]})
        assert len(answer.json()) == count
        assert all(step["canary"] == "default" for step in answer.json())

    @pytest.mark.parametrize(
        ("query", "status", "problem"),
        [
            ("", 404, {"key": "target", "given": "", "allowed": "chat, other"}),
            ("target=nobody", 404, {"key": "target", "given": "nobody", "allowed": "chat, other"}),
            ("target=chat&canary=x", 404, {"key": "canary", "given": "x", "allowed": "default"}),
            ("target=chat&step=week", 422, {"key": "step", "given": "week", "allowed": "hour, day"}),
            ("target=chat&since=-1", 422, {"key": "since", "given": "-1"}),
            ("target=chat&since=nan", 422, {"key": "since", "given": "nan"}),
            ("target=chat&since=1e3", 422, {"key": "since", "given": "1e3"}),
            ("target=chat&since=" + "9" * 400, 422, {"key": "since"}),
            ("target=chat&since=%EF%BC%91", 422, {"key": "since"}),
        ],
        ids=["no target", "target", "canary", "step", "negative", "nan", "exponent", "endless", "not ASCII"],
    )
    def test_what_cannot_be_used_says_what_can(
        self, site: Site, query: str, status: int, problem: dict[str, Any]
    ) -> None:
        """Key, what was given, what is allowed."""
        answer = site.ask(f"/api/v1/history?{query}")
        assert answer.status_code == status
        (said,) = answer.json()["problems"]
        assert said | problem == said
        assert said["allowed"]
        assert len(answer.text) < 500
