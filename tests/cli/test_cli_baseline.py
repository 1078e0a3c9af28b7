"""`watchdog baseline` against a real server: what is promoted, what is refused, and what goes on record."""

from __future__ import annotations

import getpass
import re

import pytest
from cli_stage import FAST, Ended, Stage

from baselines.baseline_store import Promotion
from watchdog.cli.stored_baselines import earlier_baseline
from watchdog.turns import hold

SLOW_S = 0.025  # five times the usual; the target allows three times, since the machine that runs this is busy
KEYS = {
    "target",
    "canary",
    "result",
    "detail",
    "baseline",
    "compared_with",
    "samples",
    "p50_s",
    "p95_s",
    "p95_low_s",
    "p95_high_s",
    "between_burst_sd",
    "noisy",
    "ratio",
    "ratio_low",
    "ratio_high",
    "reason",
    "bursts",
    "looks",
    "stopped_early",
    "control_ratio",
    "control_p95_ratio",
    "own_floor_ratio",
    "delay_at_threshold_bursts",
    "smallest_rise",
    "false_alarms_per_month",
}


def listed(stage: Stage) -> list[tuple[int, bool]]:
    """(id, is it active) of the stored baselines, newest first."""
    ended = stage.run("baseline list --json")
    return [(row["id"], row["active"]) for row in ended.json()]


def test_first_baseline_is_promoted(stage: Stage) -> None:
    """Exit code 0, figures on standard output, progress on standard error."""
    ended = stage.start(*FAST.split(), "chat", "--label", "v1")
    assert ended.code == 0
    assert ended.out.startswith("PROMOTED chat/default: the first baseline of this canary\n  baseline 1: p50 ")
    assert "burst 6 of 6, good" in ended.err


def test_json_is_one_document_with_its_keys(stage: Stage) -> None:
    """Everything that a deploy script may want, and nothing else on standard output."""
    first, second = stage.run(FAST, "--json"), stage.run(FAST, "--json")
    (row,) = second.json()
    assert (first.code, second.code) == (0, 0)
    assert row.keys() == KEYS
    assert (row["target"], row["result"], row["baseline"], row["compared_with"]) == ("chat", "promoted", 2, 1)
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_slower_server_is_refused_until_a_person_accepts_it(stage: Stage) -> None:
    """Exit code 2, stored and not active; --accept promotes it and records who and why; rollback takes it back."""
    first = stage.run(FAST)
    stage.model.delay_s = SLOW_S
    refused = stage.run(FAST)
    assert (first.code, refused.code) == (0, 2)
    assert re.match("SLOWER chat/default: (p95|median) is ", refused.out)
    assert listed(stage) == [(2, False), (1, True)]

    accepted, shown, diff = (
        stage.run(FAST, "--accept", "--why", "a larger model"),
        stage.run("baseline show 3"),
        stage.run("baseline diff 1 2"),
    )
    assert accepted.code == 0
    assert accepted.out.startswith(f"ACCEPTED chat/default: accepted by {getpass.getuser()} (a larger model) although ")
    assert f"by {getpass.getuser()}: a larger model" in shown.out
    assert diff.code == 2
    assert ": slower" in diff.out
    assert listed(stage) == [(3, True), (2, False), (1, False)]

    same, back, promoted = (
        stage.run("baseline diff 1 1"),
        stage.run("baseline rollback chat"),
        stage.run("baseline promote 2 --why", "after all"),
    )
    assert (same.code, back.code, promoted.code) == (0, 0, 0)
    assert back.out.startswith("active for chat/default: baseline 1: ")
    assert listed(stage) == [(3, False), (2, True), (1, False)]


def test_answer_is_told_as_soon_as_it_is_sure(stage: Stage) -> None:
    """On the way, for people who wait; nothing of the kind while there is nothing to compare with."""
    long = "baseline --apart 10ms --samples 144"  # twelve bursts, looked at after 6 and 9
    first, second = stage.run(long), stage.run(long)
    assert (first.code, second.code) == (0, 0)
    assert "so far" not in first.err
    assert "of 12, good; not slower so far" in second.err


def test_json_tells_how_it_was_measured(stage: Stage) -> None:
    """How many bursts it took, how often it was looked at, and what the control did."""
    stage.write_config(canary=f'control_url = "http://127.0.0.1:{stage.model.port}/health"')
    stage.run(FAST)
    same = stage.run(FAST, "--json")
    stage.model.scale = 1.5
    other = stage.run("baseline --apart 10ms --samples 144 --json")
    (row,), (refused,) = same.json(), other.json()
    assert row["bursts"] >= 6
    assert row["looks"] >= 1
    assert row["stopped_early"] is False
    assert min(row["control_ratio"], row["control_p95_ratio"], row["own_floor_ratio"]) > 0
    assert (refused["result"], refused["looks"], refused["stopped_early"]) == ("output_differs", 1, True)
    assert (refused["control_ratio"], refused["reason"]) == (None, None)


def test_another_answer_is_refused(stage: Stage) -> None:
    """Exit code 2 with what differs, however fast it is."""
    stage.run(FAST)
    stage.model.scale = 1.5
    ended = stage.run(FAST, "--json")
    assert ended.code == 2
    (row,) = ended.json()
    assert row["result"] == "output_differs"
    assert row["detail"].startswith("the answer differs from baseline 1: ")
    assert listed(stage) == [(2, False), (1, True)]


@pytest.mark.parametrize(("status", "says"), [(500, "status_500"), (503, "overloaded_503")])
def test_server_that_fails_is_not_ready(stage: Stage, status: int, says: str) -> None:
    """Exit code 3: nothing was decided, and nothing is stored."""
    stage.model.status = status
    ended = stage.run(FAST)
    assert ended.code == 3
    assert ended.out.startswith("NOT READY chat/default: 1 requests failed, the first with ")
    assert says in ended.out
    assert listed(stage) == []


def test_server_that_is_down_is_not_ready(stage: Stage) -> None:
    """Exit code 3 and the reason: nobody listens there."""
    stage.config.write_text(stage.config.read_text().replace(f":{stage.model.port}/", ":1/"))
    ended = stage.run(FAST, "--json")
    assert ended.code == 3
    (row,) = ended.json()
    assert (row["result"], row["baseline"]) == ("not_ready", None)
    assert "refused" in row["detail"]


def test_wait_waits_for_a_server_that_is_loading(stage: Stage) -> None:
    """A deploy script calls it right after the start."""
    stage.model.busy = 1
    ended = stage.run(FAST, "--wait", "30s")
    assert ended.code == 0


def test_too_few_bursts_decide_nothing(stage: Stage) -> None:
    """Exit code 3 and how many more would do; the active one stays."""
    stage.run(FAST)
    stage.config.write_text(stage.config.read_text().replace("burst = 12", "burst = 24"))
    ended = stage.run("baseline --quick --apart 10ms --samples 72")
    assert ended.code == 3
    assert ended.out.startswith("UNDECIDED chat/default: ")
    assert "more bursts would decide" in ended.out
    assert listed(stage) == [(2, False), (1, True)]


def test_list_says_how_to_begin(stage: Stage) -> None:
    """An empty list is no error."""
    stage.database().close()
    plain, as_json = stage.run("baseline list"), stage.run("baseline list --json")
    assert plain == Ended(0, "no baseline yet; take one with: watchdog baseline\n", "")
    assert (as_json.code, as_json.json()) == (0, [])


def test_show_and_promote_speak_json(stage: Stage) -> None:
    """--json everywhere."""
    _, shown, diff, promoted = (
        stage.run(FAST, "--label", "v1"),
        stage.run("baseline show 1 --json"),
        stage.run("baseline diff 1 1 --json"),
        stage.run("baseline promote 1 --json"),
    )
    assert shown.json()["baseline"]["label"] == "v1"
    assert shown.json()["baseline"]["active"] is True
    assert diff.json()["comparison"]["answer"] == "not_slower"
    assert promoted.json() == {"promoted": 1, "why": "promoted by hand"}


def test_several_targets_and_canaries_are_all_taken(stage: Stage) -> None:
    """Without a name all of them; the worst decides the exit code, and the good ones are promoted all the same."""
    other = '[[target]]\nname = "gone"\n[[target.canary]]\nurl = "http://127.0.0.1:1/"\nmax_busy = 1.0\n'
    second = (
        f'[[target.canary]]\nname = "second"\nurl = "{stage.model.url}"\njson = {{ inputs = [2] }}\nmax_busy = 1.0\n'
    )
    stage.write_config(after=second + other)
    ended = stage.run(FAST, "--json")
    assert ended.code == 3
    assert [(row["target"], row["canary"], row["result"]) for row in ended.json()] == [
        ("chat", "default", "promoted"),
        ("chat", "second", "promoted"),
        ("gone", "default", "not_ready"),
    ]


def test_command_that_another_watchdog_holds_up_says_so(stage: Stage) -> None:
    """A canary that is in use and stays so: exit code 3 and which lock, not a traceback."""
    stage.config.write_text(stage.config.read_text().replace('timeout = "5s"', 'timeout = "100ms"'))
    lock = stage.folder / "watchdog.db.chat.default.lock"
    with hold(lock, wait_s=0, monotonic=lambda: 0.0, sleep=lambda _: None):
        for ended in (stage.run(FAST), stage.run("canary chat")):
            assert ended.code == 3
            assert f"another watchdog holds {lock}" in ended.err


@pytest.mark.parametrize(
    ("promoted", "expected"),
    [
        pytest.param([], None, id="none yet"),
        pytest.param([1], None, id="the first"),
        pytest.param([1, 2], 1, id="the one before"),
        pytest.param([1, 2, 3, 2], 1, id="further back after a rollback"),
        pytest.param([1, 2, 1], None, id="nothing before the first"),
    ],
)
def test_rollback_goes_to_what_was_active_before(promoted: list[int], expected: int | None) -> None:
    """Twice is two steps back, not there and back again."""
    history = [Promotion(baseline_id=number, at=0.0, by="", why="") for number in reversed(promoted)]
    assert earlier_baseline(history) == expected
