"""SIGHUP on the real daemon: a bad file changes nothing, a good one only what it says, and nobody is told twice."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import ioctl
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from builders import leave_out
from daemon_stage import Webhook, receiving, wait_until
from fault_stage import FaultStage, metronome

pytestmark = pytest.mark.slow

OK = "watchdog_config_last_reload_successful"
READ_AT = "watchdog_config_last_reload_success_timestamp_seconds"
REQUESTS = "watchdog_canary_requests_total"
SECRET = "WATCHDOG_TEST_RELOAD_TOKEN"


@dataclass
class Reloading:
    """A daemon whose file is rewritten under it."""

    stage: FaultStage
    daemon: subprocess.Popen[bytes]

    def hang_up(self) -> None:
        self.daemon.send_signal(signal.SIGHUP)

    def take_up(self, text: str | None = None) -> None:
        """Write the file, if it is to change, and wait until it is in use."""
        if text is not None:
            self.stage.config.write_text(text)
        before = self.times_read()
        self.hang_up()
        wait_until(lambda: self.times_read() > before, "it is in use")
        assert "configuration refused" not in self.log().splitlines()[-1]

    def times_read(self) -> int:
        return self.log().count("configuration taken up") + self.log().count("the one in use")

    def refuse(self, text: str) -> str:
        """Write a file that is refused; the note that /healthz shows of it."""
        refused = self.log().count("configuration refused")
        self.stage.config.write_text(text)
        self.hang_up()
        wait_until(lambda: self.log().count("configuration refused") > refused, "it is refused")
        wait_until(lambda: self.stage.value(OK) == 0, "the metric says so")
        health = self.stage.health()
        assert (health["status"], health["alive"]) == (200, True), "a typo must not get the daemon killed"
        (note,) = self.stage.notes()
        return note

    def log(self) -> str:
        return self.stage.log_of(self.daemon)


def reloading(stage: FaultStage) -> Reloading:
    return Reloading(stage, stage.start_daemon())


def notifier(name: str, hook: Webhook) -> str:
    return f'[[notifier]]\nname = "{name}"\nkind = "webhook"\nurl = "{hook.url}"\ntimeout = "2s"\n'


@contextmanager
def rhythm_kept(stage: FaultStage, target: str, interval_s: float = 0.25) -> Iterator[None]:
    """While the block runs no burst is doubled, and none left out but those whose predecessor still ran.

    To within one: the first and the last may have begun late themselves, on a busy machine. One that is due while the
    machine pauses is left out, too.
    """
    began = time.time()
    with metronome() as machine:
        yield
    where = f"target = '{target}' and at > {began}"
    ((count, first, last),) = stage.rows(f"select count(*), min(at), max(at) from bursts where {where}")
    left_out = round((last - first) / interval_s) + 1 - count
    overlapped = stage.value("watchdog_internal_errors_total", where="probe_overlapped")
    assert -1 <= left_out <= overlapped + 1 + machine.paused_s / interval_s, (left_out, overlapped, machine)


# --- a bad file -------------------------------------------------------------------------------------------------------


def test_bad_file_changes_nothing_and_is_said(stage: FaultStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in use goes on, whatever is wrong with it; health, metric and log name the key. A good file ends that."""
    monkeypatch.setenv(SECRET, "hush-hush")
    body = stage.folder / "body.bin"
    body.write_bytes(b"one")
    port = stage.start_server()
    with_body = f'[[target]]\nname = "file"\ndevice = "cpu"\n[[target.canary]]\nbody_file = "{body}"\n'
    with_body += f'url = "http://127.0.0.1:{port}/predict"\ninterval = "250ms"\n'
    stage.write_config(stage.target(port), with_body)
    good = stage.config.read_text()
    run = reloading(stage)
    wait_until(lambda: stage.count("target = 'toy'") >= 2, "it probes")

    bad: dict[str, tuple[str, str]] = {
        "no TOML": ("[[target\n", "not TOML"),
        "an unknown key": (good.replace("max_busy", "max_bussy"), "target[toy].canary[0].max_bussy: unknown key"),
        "a secret that is gone": (
            good + notifier("x", Webhook(url="http://127.0.0.1:1/")) + 'secret = "env:NO_SUCH"\n',
            "notifier[x].secret",
        ),
        "a file that is gone": (good.replace(str(body), f"{body}.gone"), "body_file: there is no such file"),
        "another port": (good.replace(str(stage.web_port), "9"), "web.listen: needs a restart"),
        "another database": (good.replace("watchdog.db", "other.db"), "store.url: needs a restart"),
        "no target": (good.partition("[[target]]")[0], "target: is needed"),
    }
    for what, (text, said) in bad.items():
        probed = stage.count()
        assert said in run.refuse(text), what
        assert said in run.log(), what
        wait_until(lambda probed=probed: stage.count() > probed + 2, f"it probes on: {what}")

    two = good.replace("max_busy", "max_bussy").replace('device = "cpu"', 'device = "gpu"', 1)
    note = run.refuse(two)
    assert "target[toy].device" in note
    assert "target[toy].canary[0].max_bussy" in note
    assert "hush-hush" not in run.log()

    stage.config.unlink()
    run.hang_up()
    wait_until(lambda: "No such file" in run.log(), "a file that cannot be read is refused, too")
    run.take_up(good)
    assert stage.notes() == []
    assert stage.value(OK) == 1
    assert stage.value(READ_AT) == pytest.approx(stage.config.stat().st_mtime, abs=30)
    assert stage.end(run.daemon) == 0


# --- a good file ------------------------------------------------------------------------------------------------------


def test_unchanged_targets_keep_their_rhythm_and_their_counters(stage: FaultStage) -> None:
    """Others come, change and go beside it: no probe of it is left out or doubled, nothing is counted anew."""
    port = stage.start_server()
    stays, changes, goes, comes = (stage.target(port, name) for name in ("stays", "changes", "goes", "comes"))
    stage.write_config(stays, changes, goes)
    before = stage.config.read_text()
    run = reloading(stage)
    stage.wait_for_bursts(4, "target = 'stays'")
    counted = stage.value(REQUESTS, target="stays")

    with stage.keeping_time(), rhythm_kept(stage, "stays"):
        for _ in range(3):
            run.take_up(before.replace(goes, comes).replace(changes, changes.replace("250ms", "500ms")))
            stage.wait_for_bursts(3, "target = 'comes'")
            assert stage.value(REQUESTS, target="stays") > counted
            counted = stage.value(REQUESTS, target="stays")
            names = [t["name"] for t in (stage.get("/api/v1/targets") or pytest.fail("no answer")).json()]
            assert names == ["stays", "changes", "comes"]
            assert (stage.get("/readyz/goes") or pytest.fail("no answer")).status_code == 404
            assert not any("goes" in dict(labels).values() for _, labels in stage.metrics())
            run.take_up(before)
            stage.wait_for_bursts(3, "target = 'goes'")

    assert stage.value("watchdog_internal_errors_total") == stage.value(
        "watchdog_internal_errors_total", where="probe_overlapped"
    ), run.log()
    assert stage.end(run.daemon) == 0


def test_file_that_changed_is_a_change_though_its_name_did_not(stage: FaultStage) -> None:
    """The bytes that a canary sends are part of the configuration: it is asked something else from now on."""
    body = stage.folder / "body.bin"
    body.write_bytes(b"one")
    port = stage.start_server()
    target = stage.target(port).replace("json = [1]", f'body_file = "{body}"')
    stage.write_config(target)
    run = reloading(stage)
    stage.wait_for_bursts(2)
    run.take_up()
    assert "the one in use" in run.log()
    body.write_bytes(b"another")
    run.take_up()
    assert "targets_changed" in run.log()
    wait_until(lambda: len(stage.rows("select distinct identity from bursts")) == 2, "asked with the new bytes")


def test_removed_target_is_told_to_be_over_and_may_come_back(stage: FaultStage, webhook: Webhook) -> None:
    """Its open incident is closed and told once. Added again, it is a target like any other."""
    port, other = stage.start_server("sick"), stage.start_server("well")
    sick, well = stage.target(port, "sick"), stage.target(other, "well")
    stage.write_config(sick, well, webhook=webhook)
    both = stage.config.read_text()
    stage.take_baseline()
    run = reloading(stage)
    stage.break_server(port, "wrong")
    firing = wait_until(lambda: webhook.taken("firing"), "it is told")
    assert stage.value("watchdog_incident_open", target="sick") == 1

    run.take_up(both.replace(sick, ""))
    resolved = wait_until(lambda: webhook.taken("resolved"), "that it is over")
    assert resolved[0][1]["incident"]["id"] == firing[0][1]["incident"]["id"]
    assert stage.rows("select count(*) from incidents where state in ('pending', 'firing')") == [(0,)]
    assert not any(dict(labels).get("target") == "sick" for _, labels in stage.metrics())

    run.take_up(both)
    wait_until(lambda: len(webhook.taken("firing")) == 2, "it is still sick, which is a new incident")
    stage.break_server(port, "none")
    wait_until(lambda: len(webhook.taken("resolved")) == 2, "it is well")
    assert stage.value("watchdog_internal_errors_total", where="judge") == 0, run.log()


def test_incident_survives_reload(stage: FaultStage, webhook: Webhook) -> None:
    """Of a target whose section changed as of one that did not: the same incident goes on, and nobody is told twice."""
    ports = [stage.start_server(name) for name in ("same", "changed")]
    same, changed = stage.target(ports[0], "same"), stage.target(ports[1], "changed")
    stage.write_config(same, changed, webhook=webhook)
    stage.take_baseline()
    run = reloading(stage)
    for port in ports:
        stage.break_server(port, "wrong")
    wait_until(lambda: len(webhook.taken("firing")) == 2, "both are told")
    for burst in (4, 5):
        run.take_up(
            stage.config.read_text().replace(changed, changed := changed.replace("burst = 3", f"burst = {burst}"))
        )
        stage.wait_for_bursts(3, "target = 'changed'")
    for port in ports:
        stage.break_server(port, "none")
    wait_until(lambda: len(webhook.taken("resolved")) == 2, "both are over")
    assert len(webhook.taken("firing")) == 2
    assert {p["incident"]["id"] for _, p in webhook.taken("firing")} == {
        p["incident"]["id"] for _, p in webhook.taken("resolved")
    }


# --- notifiers --------------------------------------------------------------------------------------------------------


def test_messages_of_a_removed_notifier_are_given_up_and_counted(stage: FaultStage, webhook: Webhook) -> None:
    """They are kept as dead with the reason; the other notifier goes on undisturbed."""
    port = stage.start_server()
    with receiving() as gone:
        gone.mode = "fail"
        stage.write_config(stage.target(port), webhook=webhook)
        one = stage.config.read_text()
        stage.config.write_text(one + notifier("gone", gone))
        stage.take_baseline()
        run = reloading(stage)
        stage.break_server(port, "wrong")
        wait_until(lambda: gone.attempts and webhook.taken("firing"), "one is told, the other cannot be")
        run.take_up(one)
        rows = stage.rows("select state, last_error from deliveries where notifier = 'gone'")
        assert rows == [("dead", "the notifier is no longer configured")]
        assert stage.value("watchdog_deliveries_total", notifier="gone", result="dead") == 1
        wait_until(lambda: stage.value("watchdog_dead_letters", notifier="gone") == 1, "shown as given up")
        assert "messages were given up" in run.log()
        attempts = len(gone.attempts)
        stage.break_server(port, "none")
        wait_until(lambda: webhook.taken("resolved"), "the other is told that it is over")
        assert len(gone.attempts) == attempts
        assert len(webhook.taken("firing")) == 1


def test_delivery_under_way_is_not_cut_in_two(stage: FaultStage) -> None:
    """Its notifier gets another URL meanwhile: the attempt ends first, and one receiver takes the message, once."""
    port = stage.start_server()
    with receiving() as old, receiving() as new:
        old.mode = "drip"
        stage.write_config(stage.target(port), webhook=old)
        stage.take_baseline()
        run = reloading(stage)
        stage.break_server(port, "wrong")
        wait_until(lambda: old.attempts, "an attempt is under way")
        run.take_up(stage.config.read_text().replace(old.url, new.url))
        ((key, payload),) = wait_until(lambda: new.taken("firing"), "the new receiver takes it")
        assert (key, payload) == (old.attempts[0][1], old.attempts[0][2])
        assert len(old.attempts) == 1
        stage.break_server(port, "none")
        wait_until(lambda: new.taken("resolved"), "that it is over")
        assert len(new.taken("firing")) == 1
        assert stage.end(run.daemon) == 0


# --- at any moment ----------------------------------------------------------------------------------------------------


def test_sighup_during_start_and_stop_and_many_in_a_row(stage: FaultStage) -> None:
    """None is fatal, none is lost: the file of the last one is what is in use."""
    port = stage.start_server()
    stage.write_config(stage.target(port))
    daemon = stage.spawn(stage.argv("run"))
    wait_until(lambda: catches(daemon.pid, signal.SIGHUP), "its signals are its own")
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: stage.get("/healthz"), "the daemon answers")
    run = Reloading(stage, daemon)
    for number in range(20):
        stage.write_config(stage.target(port, f"toy{number}"))
        run.hang_up()
    wait_until(
        lambda: [t["name"] for t in (stage.get("/api/v1/targets") or pytest.fail("no answer")).json()] == ["toy19"],
        "the last one counts",
    )
    stage.wait_for_bursts(2, "target = 'toy19'")
    daemon.terminate()
    for _ in range(5):
        run.hang_up()
    assert daemon.wait(20) == 0, run.log()
    assert "Traceback" not in run.log()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for a signal (proc_pid_status(5), SigCgt)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_a_thousand_targets_are_taken_up_in_passing(stage: FaultStage) -> None:
    """Only what changed is built and begun anew; meanwhile the others keep their rhythm."""
    port = stage.start_server()
    many = "".join(
        f'[[target]]\nname = "t{number}"\ndevice = "cpu"\n[[target.canary]]\nurl = "http://127.0.0.1:1/"\n'
        for number in range(1000)
    )
    stage.write_config(stage.target(port), many)
    run = reloading(stage)
    stage.wait_for_bursts(4, "target = 'toy'")
    with rhythm_kept(stage, "toy"):
        run.take_up(stage.config.read_text().replace('name = "t999"', 'name = "other"'))
        wait_until(lambda: stage.count("target = 'other'"), "the new one is asked")
        run.take_up()
        stage.wait_for_bursts(4, "target = 'toy'")
    assert "targets_new" in run.log()
    assert "targets_changed" not in run.log()


def test_database_that_is_locked_delays_a_reload_and_loses_nothing(stage: FaultStage) -> None:
    """What is in use stays until the change can be written down, and /healthz says what it waits for."""
    port = stage.start_server()
    gone, stays = stage.target(port, "gone"), stage.target(port, "stays")
    stage.write_config(gone, stays)
    run = reloading(stage)
    stage.wait_for_bursts(2)
    with rhythm_kept(stage, "stays"):
        other = sqlite3.connect(stage.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        stage.config.write_text(stage.config.read_text().replace(gone, ""))
        run.hang_up()
        wait_until(lambda: any("waits until the database" in note for note in stage.notes()), "it says so")
        assert stage.value(REQUESTS, target="gone") > 0, "still in use"
        other.execute("COMMIT")
        other.close()
        wait_until(lambda: stage.value(REQUESTS, target="gone") == 0, "the new one is in use")
        wait_until(lambda: stage.notes() == [], "and nothing waits")


def test_closing_the_terminal_ends_the_daemon(stage: FaultStage) -> None:
    """SIGHUP from a terminal that is gone is no wish for another configuration."""
    stage.write_config(stage.target(stage.start_server()))
    ours, its = pty.openpty()
    daemon = subprocess.Popen(
        stage.argv("run"),
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (one system call)
    )
    os.close(its)
    try:
        wait_until(lambda: stage.get("/healthz"), "the daemon answers")
        daemon.send_signal(signal.SIGHUP)  # with its terminal there, this is a reload
        before = stage.value(READ_AT)
        wait_until(lambda: stage.value(READ_AT) >= before, "it is alive")
        os.close(ours)
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait(10)


# --- what is under way ------------------------------------------------------------------------------------------------


def test_recycle_under_way_goes_on_and_acts_once(stage: FaultStage, webhook: Webhook) -> None:
    """Its target's section changes in the middle of the act: the episode ends as it began, nothing is done twice."""
    port = stage.start_server()
    ran, go = stage.folder / "ran", stage.folder / "go"
    (stage.folder / "recycle.py").write_text(f"""
import pathlib, time
with open({str(ran)!r}, "a") as file: file.write("ran\\n")
until = time.monotonic() + 120
while not pathlib.Path({str(go)!r}).exists() and time.monotonic() < until: time.sleep(0.02)
""")
    rules = f'[target.recycle]\nkind = "command"\ncommand = ["{sys.executable}", "{stage.folder}/recycle.py"]\n'
    rules += 'min_uptime = 0\ncooldown = 0\nready_timeout = "5s"\n'
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    stage.write_config(stage.target(port, more='mode = "act"') + process + rules, webhook=webhook)
    stage.take_baseline()
    run = reloading(stage)
    stage.break_server(port, "wrong")
    wait_until(ran.exists, "the recycle command runs")
    run.take_up(stage.config.read_text().replace("cooldown = 0", 'cooldown = "1h"'))
    run.take_up(stage.config.read_text().replace("verify_bursts = 3", "verify_bursts = 2"))
    go.touch()
    wait_until(lambda: stage.rows("select 1 from recycles where ended_at is not null"), "the episode has ended")
    assert ran.read_text().count("ran") == 1
    wait_until(lambda: webhook.taken("recycle"), "people are told how it ended")
    assert len(stage.rows("select id from recycles where acted_at is not null")) == 1


def test_recycle_of_a_removed_target_goes_on_and_is_told(stage: FaultStage, webhook: Webhook) -> None:
    """The act is not cut off; a request that was not begun is ended, and nothing is left in the middle."""
    port, other = stage.start_server(), stage.start_server("well")
    ran, go = stage.folder / "ran", stage.folder / "go"
    (stage.folder / "recycle.py").write_text(f"""
import pathlib, time
with open({str(ran)!r}, "a") as file: file.write("ran\\n")
until = time.monotonic() + 120
while not pathlib.Path({str(go)!r}).exists() and time.monotonic() < until: time.sleep(0.02)
""")
    rules = f'[target.recycle]\nkind = "command"\ncommand = ["{sys.executable}", "{stage.folder}/recycle.py"]\n'
    rules += 'min_uptime = 0\ncooldown = 0\nready_timeout = "2s"\n'
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    sick = stage.target(port, more='mode = "act"') + process + rules
    stage.write_config(sick, stage.target(other, "well"), webhook=webhook)
    stage.take_baseline()
    run = reloading(stage)
    stage.break_server(port, "wrong")
    wait_until(ran.exists, "the recycle command runs")
    run.take_up(stage.config.read_text().replace(sick, ""))
    go.touch()
    wait_until(lambda: webhook.taken("recycle"), "people are told how it ended")
    wait_until(lambda: webhook.taken("resolved"), "and that the incident is over")
    assert stage.rows("select count(*) from recycles where ended_at is null") == [(0,)]
    assert ran.read_text().count("ran") == 1
    assert not any(dict(labels).get("target") == "toy" for _, labels in stage.metrics())
    assert stage.end(run.daemon) == 0


MODEL = """
import torch

class Toy(torch.nn.Module):
    def forward(self, x):
        return x.sum()
"""


def workers_of(daemon: subprocess.Popen[bytes]) -> set[int]:
    """The isolated workers that run now, by pid."""
    found = set()
    for child in psutil.Process(daemon.pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "watchdog_agent.worker" in child.cmdline():
                found.add(child.pid)
    return found


def test_isolated_worker_outlives_a_reload_and_never_has_a_twin(stage: FaultStage) -> None:
    """A loaded model stays loaded unless its own section changed; then the old one ends before the new one begins."""
    if find_spec("torch") is None:
        leave_out("torch is not installed")
    (stage.folder / "toy.py").write_text(MODEL)
    model = f"""
[[target]]
name = "model"
device = "cpu"
[[target.canary]]
kind = "torch"
model = "{stage.folder}/toy.py:Toy"
input = {{ shape = [2, 16], seed = 0 }}
interval = "250ms"
timeout = "2s"
burst = 1
max_busy = 1.0
"""
    well = stage.target(stage.start_server(), "well")
    stage.write_config(model, well)
    run = reloading(stage)
    stage.wait_for_bursts(2, "target = 'model'")
    (first,) = workers_of(run.daemon)
    most = 1
    run.take_up(stage.config.read_text().replace(well, well.replace("burst = 3", "burst = 2")))
    stage.wait_for_bursts(2, "target = 'model'")
    assert workers_of(run.daemon) == {first}

    run.take_up(stage.config.read_text().replace("burst = 1", "burst = 2"))
    asked = stage.count("target = 'model'")

    def answers_anew() -> bool:
        nonlocal most
        most = max(most, len(workers_of(run.daemon)))
        return stage.count("target = 'model'") > asked + 1

    wait_until(answers_anew, "the new one answers")
    (second,) = workers_of(run.daemon)
    assert (second != first, most) == (True, 1)
    stage.write_config(well)
    run.take_up()
    wait_until(lambda: workers_of(run.daemon) == set(), "its worker ends with the target")
    assert stage.end(run.daemon) == 0
