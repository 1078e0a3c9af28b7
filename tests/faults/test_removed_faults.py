"""What is watched, or who is told, is taken out of the configuration while an incident is open; then a restart."""

from __future__ import annotations

import pytest
from daemon_stage import Webhook, receiving, wait_until
from fault_stage import FaultStage
from ports import free_port

pytestmark = pytest.mark.slow


def test_incident_of_a_target_that_is_gone_is_ended_and_told_so(stage: FaultStage, webhook: Webhook) -> None:
    """Who heard that it began hears once that it is over; the other target's incident is left alone."""
    gone, stays = stage.target(free_port(), "gone"), stage.target(free_port(), "stays")
    stage.write_config(gone, stays, webhook=webhook)
    daemon = stage.start_daemon()
    wait_until(lambda: len(webhook.taken("firing")) == 2, "both are told")
    assert stage.end(daemon) == 0

    stage.write_config(stays, webhook=webhook)
    daemon = stage.start_daemon()
    ((_, payload),) = wait_until(lambda: webhook.taken("resolved"), "the end is told")
    assert payload["incident"]["target"] == "gone"
    stage.wait_for_bursts(4, "target = 'stays'")
    assert len(webhook.taken("firing")) == 2
    assert len(webhook.taken("resolved")) == 1
    assert stage.rows("select target from incidents where state = 'firing'") == [("stays",)]
    assert stage.end(daemon) == 0


def test_messages_of_a_notifier_that_is_gone_are_given_up_and_said(stage: FaultStage, webhook: Webhook) -> None:
    """What it was still to be told is kept, with the reason; the end of the incident goes to who else heard of it."""
    port = free_port()
    with receiving() as other:
        more = f'[[notifier]]\nname = "other"\nkind = "webhook"\nurl = "{other.url}"\n'
        webhook.mode = "fail"
        stage.write_config(stage.target(port), webhook=webhook)
        stage.config.write_text(stage.config.read_text() + more)
        daemon = stage.start_daemon()
        wait_until(lambda: webhook.attempts and other.taken("firing"), "one is told, the other one fails")
        assert stage.end(daemon) == 0

        stage.write_config(stage.target(port))
        stage.config.write_text(stage.config.read_text() + more)
        webhook.mode = "ok"
        daemon = stage.start_daemon()
        query = "select state, last_error from deliveries where notifier = 'events'"
        assert stage.rows(query) == [("dead", "the notifier is no longer configured")]
        assert "no longer configured" in stage.log_of(daemon)
        stage.start_server("healed", port)
        wait_until(lambda: other.taken("resolved"), "the end is told to who is left")
        assert [len(other.taken(event)) for event in ("firing", "resolved")] == [1, 1]
        assert webhook.taken("firing") == webhook.taken("resolved") == []
        assert stage.end(daemon) == 0
