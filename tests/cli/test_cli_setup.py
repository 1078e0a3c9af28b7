"""`watchdog init`, `check`, `notify test`: getting to a configuration that works, without a secret on the screen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_stage import answer_of, folder, life, script, stop, wait_for
from cli_stage import SECRET, Ended, Stage

from baselines import memory_store
from probes.messages import MemorySample
from watchdog.demo.receiver import Receiver

__all__ = ["folder"]

NOTIFIER = '[[notifier]]\nname = "oncall"\nkind = "{kind}"\nurl = "{url}"\n{more}\n'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


# --- init -------------------------------------------------------------------------------------------------------------


def test_init_writes_a_configuration_that_check_takes(stage: Stage) -> None:
    """The starter is valid once its one secret is there."""
    new = stage.folder / "new.toml"
    written = stage.start("init", str(new))
    assert written == Ended(0, f"wrote {new}; edit it, then: watchdog check --live -c {new}\n", "")
    without = stage.run("check -c", str(new))
    assert without.code == 1
    assert "the environment variable SLACK_WEBHOOK_URL is not set" in without.err
    stage.variables["SLACK_WEBHOOK_URL"] = f"https://hooks.example.com/{SECRET}"
    assert stage.run("check -c", str(new)) == Ended(0, f"{new}: good. 1 target(s), 1 canary(ies), 1 notifier(s)\n", "")


def test_init_overwrites_nothing(stage: Stage) -> None:
    """A file that is there stays as it is; exit code 1."""
    before = stage.config.read_text()
    ended = stage.run("init", str(stage.config))
    assert ended == Ended(1, "", f"watchdog: {stage.config} exists and was left as it is; name another file\n")
    assert stage.config.read_text() == before


def test_init_speaks_json(stage: Stage) -> None:
    """What was written."""
    assert stage.run("init new.toml --json").json() == {"wrote": "new.toml"}


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_counts_what_it_read(stage: Stage) -> None:
    """Exit code 0 and the counts; nothing was asked of anybody."""
    assert stage.run("check") == Ended(0, f"{stage.config}: good. 1 target(s), 1 canary(ies), 0 notifier(s)\n", "")
    assert stage.run("check --json").json() == {"config": str(stage.config), "targets": ["chat"], "live": []}
    assert stage.model.requests == []


def test_check_live_asks_everything(stage: Stage, receiver: Receiver) -> None:
    """Each canary once, the processes, the notifiers' hosts without posting anything."""
    pid = stage.folder / "server.pid"
    pid.write_text(f"{os.getpid()}\n")
    process = f'[target.process]\npid_file = "{pid}"\nworkers = "self"\n'
    stage.write_config(before=NOTIFIER.format(kind="slack", url=receiver.url, more=""), after=process)
    ended = stage.start("check", "--live", "--json")
    assert ended.code == 0
    rows = {row["what"]: row for row in ended.json()["live"]}
    assert set(rows) == {"chat/default", "chat workers", "notifier oncall"}
    assert all(row["ok"] for row in rows.values())
    assert rows["chat workers"]["detail"] == str(os.getpid())
    assert len(stage.model.requests) == 2, "warm-up and one request"
    assert receiver.received == ()


@pytest.mark.parametrize(
    ("change", "what", "says"),
    [
        ("canary", "chat/default", "refused"),
        ("process", "chat workers", "no process found"),
        ("notifier", "notifier oncall", "ConnectError"),
        ("wrong", "chat/default", "not_finite"),
        ("control", "chat/default control", "no good answer from http://127.0.0.1:1/"),
    ],
)
def test_check_live_exits_two_when_something_cannot_be_reached(stage: Stage, change: str, what: str, says: str) -> None:
    """Each thing by itself; the others are asked all the same."""
    notifier = (
        NOTIFIER.format(kind="slack", url=f"http://127.0.0.1:1/{SECRET}", more="") if change == "notifier" else ""
    )
    process = f'[target.process]\npid_file = "{stage.folder}/none.pid"\n' if change == "process" else ""
    stage.write_config(before=notifier, after=process)
    if change == "canary":
        stage.config.write_text(stage.config.read_text().replace(f":{stage.model.port}/", ":1/"))
    if change == "control":
        text = stage.config.read_text()
        stage.config.write_text(text.replace("\njson", '\ncontrol_url = "http://127.0.0.1:1/"\njson', 1))
    if change == "wrong":
        stage.model.scale = float("nan")
    ended = stage.run("check --live")
    assert ended.code == 2
    (failed,) = [line for line in ended.out.splitlines() if "FAIL" in line]
    assert what in failed
    assert says in failed
    assert SECRET not in ended.said


def test_check_live_tells_of_each_workers_agent(stage: Stage, folder: Path) -> None:
    """Good with what it says, or why it is not; and status shows what the daemon stored last."""
    code = "import sys\nfrom watchdog_agent.attach import attach\nattach(folder=sys.argv[1], version='0.24')\n"
    code += "print('ready', flush=True)\nsys.stdin.read()\n"
    agent = f'[target.agent]\nfolder = "{folder}"\n'
    with script(code, str(folder)) as worker:
        answer_of(folder, life(worker.pid))
        stage.write_config(after=f"[target.process]\nparent_pid = {worker.pid}\nworkers = 'self'\n{agent}")
        rows = {row["what"]: row for row in stage.run("check --live --json").json()["live"]}
        answered = rows[f"chat agent of {worker.pid}"]
        assert answered["ok"] is True
        assert answered["detail"].startswith("good, serves 0.24, python 3.")
        stop(worker.pid)
        ended = stage.run("check --live")
        worker.send_signal(signal.SIGCONT)
        assert ended.code == 2
        assert f"FAIL chat agent of {worker.pid}: the agent does not answer in time" in ended.out
        sample = MemorySample(
            target="chat",
            slot=0,
            life=life(worker.pid).key,
            at=time.time(),
            host_anon_bytes=10**8,
            agent="good",
            version="0.24",
            requests=7,
        )
    database = stage.database()
    with database.write() as connection:
        memory_store.add_memory(connection, [sample])
    database.close()
    assert "worker 0: 100 MB, agent good, serves 0.24, 7 requests" in stage.run("status").out


@pytest.mark.parametrize(
    ("load", "mark", "says"),
    [
        ("", "FAIL", "torch is not loaded in this process\n"),
        ("import torch\ntorch.set_num_threads(1)\n", "ok  ", " ms (gemm 512 float32 cpu)\n"),
    ],
    ids=["without torch", "with torch"],
)
def test_check_live_tells_of_the_kernel_in_each_worker(
    stage: Stage, folder: Path, load: str, mark: str, says: str
) -> None:
    """What it took there, or why there is none; a crowded machine may need more than one question to build it."""
    code = f"import sys\n{load}from watchdog_agent.attach import attach\nattach(folder=sys.argv[1])\n"
    with script(code + "print('ready', flush=True)\nsys.stdin.read()\n", str(folder)) as worker:
        answer_of(folder, life(worker.pid))
        process = f"[target.process]\nparent_pid = {worker.pid}\nworkers = 'self'\n"
        stage.write_config(after=f'{process}[target.agent]\nfolder = "{folder}"\n')
        stage.config.write_text(stage.config.read_text().replace("\njson", '\ncontrol = "agent"\njson', 1))
        said = wait_for(lambda: text if says in (text := stage.run("check --live").out) else "", says)
        assert f"{mark} chat/default control in {worker.pid}: " in said


def test_check_live_misses_no_gpu_that_nobody_asked_for(stage: Stage) -> None:
    """device = "auto" without a GPU is fine; "cuda" without one is not."""
    text = stage.config.read_text()
    stage.config.write_text(text.replace('device = "cpu"', 'device = "auto"'))
    rows = {row["what"]: row for row in stage.run("check --live --json").json()["live"]}
    if rows["chat GPU"]["ok"]:
        pytest.skip("this machine has a GPU")
    assert rows["chat GPU"]["ok"] is None
    stage.config.write_text(text.replace('device = "cpu"', 'device = "cuda"'))
    ended = stage.run("check --live")
    assert ended.code == 2
    assert "FAIL chat GPU: no GPU: " in ended.out


# --- notify test ------------------------------------------------------------------------------------------------------


def test_notify_test_reaches_the_receiver(stage: Stage, receiver: Receiver) -> None:
    """One real message to each notifier, signed where a secret is given; exit code 0."""
    events = '[[notifier]]\nname = "events"\nkind = "webhook"\nurl = "env:HOOK"\nsecret = "env:KEY"\n'
    stage.variables |= {"HOOK": receiver.url, "KEY": SECRET}
    stage.write_config(before=NOTIFIER.format(kind="slack", url=receiver.url, more="") + events)
    ended = stage.start("notify", "test")
    assert ended == Ended(0, "ok   oncall: taken\nok   events: taken\n", "")
    slack, webhook = receiver.received
    assert "blocks" in slack.payload
    assert webhook.payload["event"] == "test"
    assert webhook.headers["x-watchdog-signature"].startswith("sha256=")

    assert stage.run("notify test events --json").json() == [{"notifier": "events", "taken": True, "detail": "taken"}]
    assert len(receiver.received) == 3


def test_notify_test_says_who_did_not_take_it(stage: Stage, receiver: Receiver) -> None:
    """Exit code 2; the other notifier is told all the same, and no address shows."""
    stage.variables["HOOK"] = f"http://127.0.0.1:1/{SECRET}"
    broken = '[[notifier]]\nname = "broken"\nkind = "webhook"\nurl = "env:HOOK"\ntimeout = "1s"\n'
    stage.write_config(before=broken + NOTIFIER.format(kind="slack", url=receiver.url, more=""))
    ended = stage.run("notify test")
    assert ended.code == 2
    failed, taken = ended.out.splitlines()
    assert failed.startswith("FAIL broken: ")
    assert taken == "ok   oncall: taken"
    assert SECRET not in ended.said


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_command_shows_a_secret(stage: Stage, receiver: Receiver) -> None:
    """Token, webhook, signature key, header: asked in every way, good and bad, none of them is printed or stored."""
    (stage.folder / "token").write_text(SECRET)
    stage.variables |= {"HOOK": f"{receiver.url}/{SECRET}", "KEY": SECRET}
    web = f'[web]\ntoken = "file:{stage.folder}/token"\n'
    notifier = NOTIFIER.format(kind="webhook", url="env:HOOK", more='secret = "env:KEY"')
    stage.write_config(before=web + notifier, canary='headers = { Authorization = "env:KEY" }')
    commands = ["check", "check --live --json", "notify test", "canary chat --json", "baseline --quick --apart 1ms"]
    commands += [
        "status --json",
        "baseline show 1 --json",
        "recycle chat --dry-run",
        "incidents",
        "replay --target chat",
    ]
    for command in commands:
        assert SECRET not in stage.run(command).said, command
    stage.model.status = 500
    assert SECRET not in stage.run("canary chat").said
    stage.config.write_text(stage.config.read_text().replace('"env:KEY"', f'"{SECRET}"').replace("file:", ""))
    assert SECRET not in stage.run("check").said
    assert stage.model.requests[0][0]["authorization"] == SECRET, "it was really sent"
    assert not [path for path in _files(stage.folder) if SECRET.encode() in path.read_bytes()]


def _files(folder: Path) -> list[Path]:
    kept = {"token", "config.toml"}  # where the test itself wrote it
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in kept]
