"""The promises of "How it must behave", seen from outside: real processes, real SQLite, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_stage import TOY_SERVER, Stage, Webhook, wait_until

pytestmark = pytest.mark.slow


def test_open_incident_and_undelivered_message_survive_kill_nine(stage: Stage, webhook: Webhook) -> None:
    """Killed between saving and telling: the same incident goes on and is told once, with the same idempotency key."""
    port = stage.start_server()
    stage.write_config(stage.target(port), webhook=webhook)
    stage.take_baseline()
    webhook.mode = "fail"
    daemon = stage.start_daemon()
    stage.break_server(port, "wrong")
    wait_until(lambda: webhook.attempts, "a first attempt to deliver")
    daemon.send_signal(signal.SIGKILL)
    daemon.wait(10)
    before = stage.rows("select id from incidents where state = 'firing'")

    webhook.mode = "ok"
    stage.start_daemon()
    (key, payload) = wait_until(lambda: webhook.taken("firing"), "the message goes out")[0]
    assert key == webhook.attempts[0][1]
    assert payload["incident"]["id"] == before[0][0]
    stage.break_server(port, "none")
    wait_until(lambda: webhook.taken("resolved"), "the incident resolves")
    assert len(webhook.taken("firing")) == 1
    assert len({p["incident"]["id"] for _, _, p in webhook.attempts}) == 1


def test_recycle_is_not_repeated_after_kill_nine(stage: Stage, webhook: Webhook) -> None:
    """Killed while the recycle command runs: the next start follows it up and never runs it again."""
    port = stage.start_server()
    ran = stage.folder / "ran"
    script = f"""
import os, pathlib, signal, subprocess, sys, time
with open({str(ran)!r}, "a") as file: file.write("ran\\n")
until = time.monotonic() + 120
while not pathlib.Path({str(stage.folder / "go")!r}).exists() and time.monotonic() < until: time.sleep(0.02)
"""
    (stage.folder / "recycle.py").write_text(script)
    command = f'[target.recycle]\nkind = "command"\ncommand = ["{sys.executable}", "{stage.folder}/recycle.py"]\n'
    rules = 'min_uptime = 0\ncooldown = 0\nready_timeout = "20s"\n'
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    stage.write_config(stage.target(port, more='mode = "act"') + process + command + rules, webhook=webhook)
    stage.take_baseline()
    daemon = stage.start_daemon()
    stage.break_server(port, "wrong")
    wait_until(ran.exists, "the recycle command runs")
    daemon.send_signal(signal.SIGKILL)
    daemon.wait(10)
    assert [row[0] for row in stage.rows("select state from recycles")] == ["recycle"]

    stage.start_daemon()
    wait_until(lambda: stage.rows("select 1 from recycles where ended_at is not null"), "the episode is ended")
    (stage.folder / "go").touch()
    rows = stage.rows("select state, outcome from recycles order by requested_at")
    assert rows[0] == ("escalated", "interrupted"), "the old worker still runs, so nobody knows what was done"
    assert ran.read_text().count("ran") == 1
    wait_until(lambda: webhook.taken("recycle"), "people are told that it was interrupted")


def test_hung_target_and_hung_webhook_delay_no_other_canary(stage: Stage, webhook: Webhook) -> None:
    """One target hangs and the receiver hangs: the other target's canary keeps its schedule."""
    sick, well = stage.start_server("sick"), stage.start_server("well")
    webhook.mode = "hang"
    stage.write_config(stage.target(sick, "sick"), stage.target(well, "well"), webhook=webhook)
    stage.break_server(sick, "hang")
    stage.start_daemon()
    wait_until(lambda: webhook.attempts, "the receiver is being told and hangs")
    count = "select count(*), min(at), max(at) from bursts where target = 'well' and all_good"
    began = stage.rows(count)[0][0]
    wait_until(lambda: stage.rows(count)[0][0] >= began + 20, "twenty more bursts of the healthy target")
    number, first, last = stage.rows(count)[0]
    assert (last - first) / (number - 1) < 0.5, "intervals of 250 ms, so that even a loaded machine keeps half of them"


def test_sigterm_ends_it_in_order(stage: Stage, webhook: Webhook) -> None:
    """SIGTERM: exit code 0, the last line says so, and nothing is left running or locked."""
    port = stage.start_server()
    stage.write_config(stage.target(port), webhook=webhook)
    daemon = stage.start_daemon()
    wait_until(lambda: stage.rows("select 1 from bursts"), "a burst is stored")
    daemon.terminate()
    assert daemon.wait(15) == 0
    assert "stopped" in stage.log_of(daemon)
    stage.start_daemon()


def test_second_daemon_on_the_same_database_is_refused(stage: Stage) -> None:
    """Two daemons would act twice; the second ends with exit code 1 and says why."""
    port = stage.start_server()
    stage.write_config(stage.target(port))
    stage.start_daemon()
    second = stage.run("run")
    assert second.returncode == 1
    assert "another watchdog is already running" in second.stderr


def test_busy_port_is_an_error_that_names_the_key(stage: Stage) -> None:
    """The web side's port is taken: exit code 1 with the key to change, before anything is started."""
    port = stage.start_server()
    stage.web_port = port
    stage.write_config(stage.target(port))
    done = stage.run("run")
    assert done.returncode == 1
    assert "web.listen" in done.stderr


def test_hand_recycle_is_carried_out_by_the_running_daemon(stage: Stage) -> None:
    """`watchdog recycle` beside a daemon: the daemon does it, the command shows the steps and the proof."""
    port = stage.start_server()
    restart = f"""
import os, pathlib, signal, subprocess, sys
os.kill(int(os.environ["WATCHDOG_PIDS"]), signal.SIGKILL)
subprocess.Popen([sys.executable, {str(TOY_SERVER)!r}, "{port}", {str(stage.folder / "toy.pid")!r}],
                 start_new_session=True)
"""
    (stage.folder / "restart.py").write_text(restart)
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    command = f'[target.recycle]\nkind = "command"\ncommand = ["{sys.executable}", "{stage.folder}/restart.py"]\n'
    stage.write_config(stage.target(port) + process + command)
    stage.take_baseline()
    stage.start_daemon()
    try:
        done: subprocess.CompletedProcess[str] = stage.run("recycle", "toy")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "verified" in done.stdout
    finally:
        os.kill(int((stage.folder / "toy.pid").read_text()), signal.SIGKILL)


def test_judging_against_a_baseline_does_without_numpys_generators(stage: Stage) -> None:
    """They would be 7 MB of the daemon's memory; see test_modules_loaded for torch and scipy."""
    port = stage.start_server()
    stage.write_config(stage.target(port))
    stage.take_baseline()
    daemon = stage.start_daemon()
    wait_until(lambda: stage.rows("select 1 from verdicts where reason = 'within_baseline'"), "a judgement")
    mapped = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "_multiarray_umath" in mapped
    assert "/numpy/random/" not in mapped
