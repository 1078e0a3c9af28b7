"""What the daemon says of itself: everybody is asked, and a note makes nothing unhealthy."""

from __future__ import annotations

from pathlib import Path

from builders import NOW

from baselines.condition import set_aside
from baselines.database import Database
from watchdog.bootstrap import build_metrics
from watchdog.config import parse_config
from watchdog.exposition import render
from watchdog.health import Health
from watchdog.metrics import Metrics

SET_ASIDE = "watchdog_database_set_aside_timestamp_seconds "


def make_metrics() -> Metrics:
    return build_metrics(parse_config({"target": [{"name": "a", "canary": [{"url": "http://127.0.0.1:1/"}]}]}))


def test_everybody_is_asked_each_time(database: Database) -> None:
    """Who has nothing to say is left out."""
    health = Health(database, make_metrics())
    said: list[str | None] = [None]
    health.ask(problems=[lambda: said[0], lambda: None], notes=[lambda: "late"])
    assert health.liveness().problems == ()
    said[0] = "stuck"
    assert (health.liveness().problems, health.liveness().notes) == (("stuck",), ("late",))


def test_dropped_results_stay_a_note(database: Database) -> None:
    """They are lost: it is said until somebody starts the daemon again."""
    metrics = make_metrics()
    health = Health(database, metrics)
    health.count_error("probe")
    assert health.liveness().notes == ()
    health.count_error("results_dropped")
    health.count_error("results_dropped")
    assert health.liveness().notes[0].startswith("2 results were dropped since the start")
    assert 'watchdog_internal_errors_total{where="results_dropped"} 2.0' in render(metrics.registry).decode()


def set_aside_at(metrics: Metrics) -> list[float]:
    return [
        float(line.split()[1]) for line in render(metrics.registry).decode().splitlines() if line.startswith(SET_ASIDE)
    ]


def test_database_that_lies_aside_is_said_until_it_is_moved_away(database: Database, tmp_path: Path) -> None:
    """In words and as a metric, which is absent when there is none."""
    metrics = make_metrics()
    health = Health(database, metrics)
    assert health.liveness().notes == ()
    assert set_aside_at(metrics) == []
    (tmp_path / "elsewhere").write_text("broken")
    kept = set_aside(tmp_path / "elsewhere", now=NOW).path
    there = kept.rename(database.path.parent / kept.name.replace("elsewhere", database.path.name))
    (note,) = health.liveness().notes
    assert str(there) in note
    assert set_aside_at(metrics) == [NOW]
    there.unlink()
    assert health.liveness().notes == ()
    assert set_aside_at(metrics) == []
