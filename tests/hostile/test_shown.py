"""What others wrote, where people read it: terminals, logs, Slack and the page show it as words and obey none of it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import NOW, make_baseline, make_burst, make_incident
from cli_stage import Driver
from hypothesis import given
from hypothesis import strategies as st

from alerts import store as alert_store
from alerts.incident import Event, StepReason
from alerts.message import incident_message, slack_payload
from baselines import baseline_store, burst_store
from baselines.database import open_database
from baselines.verdict import Check, Reason
from probes.canary.provenance import read_provenance
from probes.messages import Outcome
from probes.printable import one_line, plain
from watchdog.logs import set_up_logging
from watchdog.migrations.migrate import bring_up_to_date

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
HOSTILE = f"{ESCAPE}<!channel> <http://evil|click> *bold* `rm -rf`\r\n2026-11-20 [info] all is well\u202e"


@given(
    st.text(max_size=80) | st.text(st.sampled_from("\x1b\r\n\t \u2028\u202e\ud800ab"), max_size=80), st.integers(1, 40)
)
def test_one_line_is_one_printable_line(text: str, limit: int) -> None:
    """Whatever it was made of; and what was one already stays as it is."""
    line = one_line(text, limit=limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert one_line(line, limit=limit) == line
    assert plain(text).replace("\n", "").isprintable()
    assert plain(line) == line


@given(st.dictionaries(st.sampled_from(["server", "x-model-version", "x-watchdog-worker"]), st.text(max_size=60)))
def test_what_a_server_says_of_itself_is_printable(headers: dict[str, str]) -> None:
    """It is shown in `watchdog canary`, on the page and in messages."""
    found = read_provenance(headers, version_header="x-model-version")
    assert all(value.isprintable() and 0 < len(value) <= 100 for value in found.values())
    assert all(name.isidentifier() for name in found)


@given(st.text(max_size=100) | st.just(HOSTILE))
def test_slack_reads_no_markup_in_the_words_of_others(said: str) -> None:
    """No mention, no link: the three characters that make one are escaped wherever they stand."""
    incident = make_incident(reason=Reason.SERVER_ERROR, evidence={"detail": said, "changed": said, "outcome": said})
    message = incident_message(incident, Event.FIRING, why=StepReason.FIRED, now=NOW)
    for text in strings(slack_payload(message)):
        assert "<" not in text
        assert ">" not in text
        for part in text.split("&")[1:]:
            assert part.startswith(("amp;", "lt;", "gt;"))


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def test_terminal_gets_no_escape(tmp_path: Path, driver: Driver) -> None:
    """Whatever stands in the database: a name, a label, a detail, words of a person or of a server."""
    database = open_database(f"sqlite:///{tmp_path}/watchdog.db")
    bring_up_to_date(database)
    with database.write() as connection:
        burst_store.add_burst(connection, make_burst(Outcome.STATUS_OTHER, provenance={"server": HOSTILE}))
        baseline = baseline_store.save_baseline(
            connection, make_baseline(label=HOSTILE, provenance={"server": HOSTILE})
        )
        baseline_store.promote(connection, baseline, at=NOW, by=HOSTILE, why=HOSTILE)
        alert_store.save_incident(
            connection, make_incident(check=Check.OUTPUT, acked_by=HOSTILE, evidence={"detail": HOSTILE}, life=HOSTILE)
        )
    database.close()
    config = tmp_path / "config.toml"
    config.write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/watchdog.db"\n[[target]]\nname = "chat"\ndevice = "cpu"\n'
        '[[target.canary]]\nurl = "http://127.0.0.1:1/"\n'
    )
    for command in ("status", "incidents", "incidents show i1", "baseline list", "baseline show 1", "history chat"):
        done = driver.run([*command.split(), "-c", str(config)], tmp_path, {"COLUMNS": "200"})
        assert "\x1b]" not in done.said, command
        assert "\x1b[2J" not in done.said, command
        assert "\u202e" not in done.said, command


@pytest.mark.parametrize("format", ["console", "json"])
def test_log_line_stays_one_line(format: str) -> None:
    """Nobody can write a line of his own into the log."""
    import structlog

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        set_up_logging(format=format, level="debug")
        structlog.get_logger("test").warning("something", reason=HOSTILE)
        structlog.reset_defaults()
    lines = said.getvalue().splitlines()
    assert len(lines) == 1, lines
    assert "\x1b[2J" not in lines[0]
    if format == "json":
        assert json.loads(lines[0])["reason"] == HOSTILE
    assert sys.stderr is not said
