"""`watchdog recycle` without a daemon: the gate's answer, the act, the proof, the breaker."""

from __future__ import annotations

import pytest
from cli_stage import FAST, Stage

RECYCLE = """
[target.recycle]
kind = "command"
command = {command}
ready_timeout = "3s"
verify_bursts = 1
"""


def with_recycler(stage: Stage, *command: str) -> None:
    stage.write_config(after=RECYCLE.format(command=list(command)))


def test_dry_run_shows_the_steps_and_does_nothing(stage: Stage) -> None:
    """Exit code 0 when the gate would let it through."""
    with_recycler(stage, "touch", "acted")
    ended = stage.start("recycle", "chat", "--dry-run")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "gate: allowed"
    assert lines[1].startswith("  1. run ['touch', 'acted'] with WATCHDOG_PIDS=''")
    assert lines[3] == "  3. verify with 1 burst(s) of each canary"
    assert not (stage.folder / "acted").exists()
    assert stage.run("recycle chat --dry-run --json").json()["gate"] == "allowed"


def test_dry_run_says_that_the_daemon_would_trim_first(stage: Stage) -> None:
    """Where there is an agent, and only for a leak."""
    with_recycler(stage, "touch", "acted")
    agent = '[target.process]\nport = 1\n[target.agent]\nfolder = "/run/nowhere"\n'
    stage.config.write_text(stage.config.read_text() + agent)
    steps = stage.run("recycle chat --dry-run --json").json()["steps"]
    assert steps[0].startswith("for a leak, and not by hand: trim memory")


@pytest.mark.parametrize("command", ["recycle chat", "recycle chat --dry-run"])
def test_target_that_cannot_be_recycled_is_refused(stage: Stage, command: str) -> None:
    """Exit code 3 and the gate's reason in words."""
    ended = stage.run(command)
    assert ended.code == 3
    assert "no [target.recycle] is configured" in ended.out


def test_recycle_acts_and_proves_that_it_helped(stage: Stage) -> None:
    """Exit code 0: the command ran once, and the canary is within its baseline afterwards."""
    with_recycler(stage, "sh", "-c", "echo $WATCHDOG_TARGET >> acted")
    stage.run(FAST)
    ended = stage.run("recycle chat --why", "the monthly one")
    assert ended.code == 0, ended.said
    assert ended.out.splitlines()[-1].startswith("verified: ")
    assert (stage.folder / "acted").read_text() == "chat\n"
    status = stage.run("status --json").json()[0]
    assert (status["last_recycle"]["outcome"], status["last_recycle"]["reason"]) == ("verified", "the monthly one")


def test_recycle_that_does_not_help_exits_two_and_the_second_opens_the_breaker(stage: Stage) -> None:
    """Two in a row that did not help: only a person goes on, and --reset is how."""
    with_recycler(stage, "false")
    first, second, third = (stage.run("recycle chat --json") for _ in range(3))
    assert [e.code for e in (first, second, third)] == [2, 2, 3]
    assert [e.json()["outcome"] for e in (first, second, third)] == ["act_failed", "act_failed", "blocked"]
    assert second.json()["state"] == "tripped"
    assert third.json()["detail"] == "breaker_open"
    assert "the recycle breaker is OPEN: watchdog recycle chat --reset" in stage.run("status").out

    assert stage.run("recycle chat --reset --json").json() == {"target": "chat", "breaker": "closed"}
    assert stage.run("recycle chat --dry-run").code == 0
    assert "OPEN" not in stage.run("status").out


def test_recycle_after_which_nobody_answers_is_not_verified(stage: Stage) -> None:
    """Exit code 2: it acted, and the server is not back in time."""
    with_recycler(stage, "true")
    stage.model.status = 500
    ended = stage.run("recycle chat --json")
    assert ended.code == 2
    assert (ended.json()["outcome"], ended.json()["state"]) == ("not_ready", "escalated")
