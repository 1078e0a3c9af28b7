"""`watchdog history --by`: the long view on a terminal and for programs."""

from __future__ import annotations

import time

from builders import make_burst
from cli_stage import Ended, Stage

from baselines import burst_store, memory_store
from probes.messages import MemorySample, Outcome

DAY_S = 86400


def test_days_of_requests_and_memory(stage: Stage) -> None:
    """A line a day and canary with what failed, then a line a day and worker; also as one JSON document."""
    today = int(time.time() // DAY_S) * DAY_S
    yesterday = today - DAY_S
    memory = MemorySample(target="chat", slot=0, life="7@1", at=yesterday, host_anon_bytes=1_200_000_000)
    database = stage.database()
    with database.write() as connection:
        burst_store.add_bursts(connection, [make_burst(at=yesterday + i, latency_s=0.04) for i in range(10)])
        burst_store.add_burst(
            connection, make_burst(Outcome.GOOD, Outcome.TIMEOUT, Outcome.TIMEOUT, at=today, latency_s=0.08)
        )
        memory_store.add_memory(connection, [memory])
    database.close()
    plain, as_json = stage.run("history chat --by day"), stage.run("history chat --by day --json")
    head, first, second, memory_head, worker = plain.out.splitlines()
    assert head.split() == ["from", "(UTC)", "canary", "requests", "failed", "p50", "p95", "p99"]
    assert first.split()[2:5] == ["default", "50", "0"]
    assert second.endswith("timeout 2")
    assert second.split()[2:5] == ["default", "3", "2"]
    assert memory_head.endswith("memory: least, greatest, last")
    assert worker.endswith("host 1.2 GB, 1.2 GB, 1.2 GB")
    assert plain.code == as_json.code == 0
    said = as_json.json()
    assert [(s["begin"], s["requests"], s["failed"]) for s in said["canaries"]] == [(yesterday, 50, 0), (today, 3, 2)]
    assert [w["host_anon_bytes"]["last"] for w in said["workers"]] == [1_200_000_000]


def test_only_as_far_back_as_asked(stage: Stage) -> None:
    """And an empty stretch says so."""
    database = stage.database()
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst(at=time.time() - 20 * DAY_S))
    database.close()
    assert stage.run("history chat --by day --since 2d") == Ended(0, "nothing in the last 2d\n", "")
    assert len(stage.run("history chat --by hour --since 30d").out.splitlines()) == 2


def test_another_step_is_refused(stage: Stage) -> None:
    """With the two that there are."""
    ended = stage.run("history chat --by week")
    assert ended.code == 1
    assert "'hour', 'day'" in ended.err
