"""What people get wrong, per command: exit code 1, and one line that says what is wrong and what is possible."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_stage import Ended, Stage

HINT = "watchdog: `watchdog --help` and `watchdog COMMAND --help` say what is possible"
DURATION = 'must be a duration like "500ms", "30s", "10m", "4h" or "7d"'
NOBODY = "no target is named 'nobody'; there are: chat"

PARSER: dict[str, str] = {
    "frobnicate": "No such command 'frobnicate'.",
    "--frob": "No such option: --frob",
    "demo --frob": "No such option: --frob",
    "run extra": "Got unexpected extra argument(s) (extra)",
    "check --liv": "No such option: --liv",
    "baseline --samples 3": "Invalid value for '--samples': must be greater than or equal to 20",
    "baseline --samples many": (
        "Invalid value for '--samples': must be a valid integer, unable to parse string as an integer"
    ),
    "baseline --label": "Option '--label' requires an argument.",
    "baseline show": "Missing argument 'ID'.",
    "baseline show first": "Invalid value for 'ID': must be a valid integer, unable to parse string as an integer",
    "baseline diff 1": "Missing argument 'B'.",
    "baseline promote": "Missing argument 'ID'.",
    "baseline rollback": "Missing argument 'TARGET'.",
    "canary": "Missing argument 'TARGET'.",
    "canary chat --bursts 0": "Invalid value for '--bursts': must be greater than or equal to 1",
    "history": "Missing argument 'TARGET'.",
    "headroom": "Missing argument 'TARGET'.",
    "profile": "Missing argument 'TARGET'.",
    "recycle": "Missing argument 'TARGET'.",
    "incidents show": "Missing argument 'ID'.",
    "incidents ack": "Missing argument 'ID'.",
    "silence chat --check speed": (
        "Invalid value for '--check': 'speed' is not one of 'availability', 'output', 'latency', 'memory', 'gpu'."
    ),
    "replay x.csv --metric speed": "Invalid value for '--metric': 'speed' is not one of 'latency', 'memory'.",
    "verify": "Missing argument 'MODEL'.",
    "notify tset": "No such command 'tset'.",
}

OURS: dict[str, str] = {
    "check -c nowhere.toml": "nowhere.toml: No such file or directory",
    "run -c nowhere.toml": "nowhere.toml: No such file or directory",
    "init config.toml": "config.toml exists and was left as it is; name another file",
    "init no/such/folder.toml": "no/such/folder.toml: No such file or directory",
    "status nobody": NOBODY,
    "baseline nobody": NOBODY,
    "baseline lst": "no target is named 'lst'; there are: chat",
    "baseline list nobody": NOBODY,
    "baseline --wait soon": f"--wait {DURATION} (given: 'soon')",
    "baseline --apart 10": f"--apart {DURATION} (given: '10')",
    "baseline show 9": "there is no baseline 9; see: watchdog baseline list",
    "baseline diff 8 9": "there is no baseline 8; see: watchdog baseline list",
    "baseline promote 9": "there is no baseline 9; see: watchdog baseline list",
    "baseline rollback chat": "chat/default has no earlier baseline to go back to",
    "baseline rollback chat --canary x": "chat has no canary 'x'; there are: default",
    "canary nobody": NOBODY,
    "canary chat --record no/such/file.csv": "--record no/such/file.csv: No such file or directory",
    "history nobody": NOBODY,
    "history chat --since yesterday": f"--since {DURATION} (given: 'yesterday')",
    "headroom nobody": NOBODY,
    "profile nobody": NOBODY,
    "profile chat": 'chat has no canary of kind = "torch"; only those can be profiled so far',
    "recycle nobody": NOBODY,
    "incidents show i1": "there is no incident 'i1'; see: watchdog incidents",
    "incidents ack i1": "there is no incident 'i1'; see: watchdog incidents",
    "incidents --target nobody": NOBODY,
    "silence nobody": NOBODY,
    "silence chat --for long": f"--for {DURATION} (given: 'long')",
    "silence chat --for 0s": "--for must be longer than nothing (given: '0s')",
    "silence --for 2h": "which target? Name one, or '*' for all",
    "silence --end 7": "no silence 7 holds now; see: watchdog silence",
    "notify test": "no [[notifier]] is configured",
    "notify test oncall": "no notifier is named 'oncall'; there are: none",
    "verify model.pt2 --shape wide": "--shape must be whole numbers with commas, for example 1,16 (given: 'wide')",
    "replay": "name a file, or a --target whose history is to be judged",
    "replay nowhere.csv --baseline-rows 0:9": "nowhere.csv: No such file or directory",
    "replay config.toml": "--metric latency needs --baseline-rows A:B: which rows are normal?",
    "replay config.toml --metric memory --baseline-rows 0:9": "--baseline-rows is for --metric latency",
    "replay -c config.toml config.toml --baseline-rows 0:9": "-c is for the rules of a target: say which with --target",
    "replay --target nobody": NOBODY,
    "replay --target chat": "the store holds no burst of chat/default in the last 30d",
    "replay --target chat --canary x": "chat has no canary 'x'; there are: default",
    "replay --target chat --since 1": f"--since {DURATION} (given: '1')",
}


@pytest.fixture(scope="module")
def ended(shared: Stage) -> dict[str, Ended]:
    """Every mistake made once."""
    shared.run("silence")  # makes the database, which commands that only look do not
    return {command: shared.run(command) for command in (*PARSER, *OURS)}


@pytest.mark.parametrize("command", PARSER)
def test_parsers_own_errors_exit_one(ended: dict[str, Ended], command: str) -> None:
    """What the parser does not understand: its message, where to look, and 1 instead of the parser's own 2."""
    told, hint = ended[command].err.splitlines()
    assert (ended[command].code, ended[command].out, hint) == (1, "", HINT)
    assert told.startswith(f"watchdog: {PARSER[command]}")  # it may go on with a guess at what was meant


@pytest.mark.parametrize("command", OURS)
def test_mistake_is_named_with_what_is_possible(ended: dict[str, Ended], command: str) -> None:
    """What cannot be done: why, and what can."""
    assert ended[command] == Ended(1, "", f"watchdog: {OURS[command]}\n")


@pytest.mark.parametrize("command", ["", "notify"])
def test_command_alone_shows_its_help(shared: Stage, command: str) -> None:
    """Exit code 1, for nothing was done, and no empty complaint."""
    alone = shared.run(command)
    assert alone.code == 1
    assert "Usage: watchdog" in alone.said
    assert "watchdog: " not in alone.err


@pytest.fixture
def foreign(stage: Stage) -> Iterator[Stage]:
    """The database is some other file."""
    (stage.folder / "watchdog.db").write_text("a shopping list, perhaps\n" * 500)
    yield stage
    assert (stage.folder / "watchdog.db").read_text().startswith("a shopping list"), "it was left as it is"


def test_file_that_is_no_database_is_left_alone(foreign: Stage) -> None:
    """A wrong path in store.url destroys nothing, and every command says which file."""
    for command in ("status", "baseline list", "silence", "run", "check --live"):
        ended = foreign.run(command)
        assert ended.code == 1, command
        assert f"{foreign.folder}/watchdog.db: file is not a database" in ended.err


def test_configuration_problems_come_one_a_line(stage: Stage) -> None:
    """All of them, each with the prefix that says who speaks."""
    stage.write_config(target="colour = 1", canary='method = "FETCH"')
    ended = stage.run("status")
    assert ended.code == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in ended.err.splitlines()] == [
        "target[chat].canary[0].method",
        "target[chat].colour",
    ]


def test_missing_folder_of_the_database_is_named(stage: Stage) -> None:
    """Made by nobody: it may be a mount that is not there yet."""
    stage.config.write_text(stage.config.read_text().replace("watchdog.db", "data/watchdog.db"))
    ended = stage.run("status")
    assert ended == Ended(1, "", f"watchdog: store.url: the folder {stage.folder}/data does not exist\n")
