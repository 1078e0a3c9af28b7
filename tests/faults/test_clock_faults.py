"""The wall clock of the real daemon is set forward and back by an hour and a day: probes and judgement go on."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from builders import leave_out
from daemon_stage import Webhook, wait_until
from fault_stage import FaultStage
from ports import free_port

pytestmark = pytest.mark.slow

SHIM = Path(__file__).with_name("set_clock.c")
HOUR_S, DAY_S = 3600.0, 86400.0


class WallClock:
    """The daemon's wall clock, which can be set."""

    def __init__(self, folder: Path) -> None:
        self.file, self.library = folder / "offset", folder / "set_clock.so"
        self.set_by(0.0)

    def set_by(self, seconds: float) -> None:
        """So many seconds off the true time."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))


@pytest.fixture
def wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    if shutil.which("gcc") is None:
        leave_out("gcc is not installed")
    clock = WallClock(tmp_path)
    build = ["gcc", "-O1", "-shared", "-fPIC", "-o", clock.library, SHIM, "-ldl"]
    subprocess.run(build, check=True)
    monkeypatch.setenv("CLOCK_OFFSET_FILE", str(clock.file))
    return clock


def test_jumps_of_the_clock_stop_nothing_and_tell_nothing(
    stage: FaultStage, webhook: Webhook, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes go on within seconds, the open incident is neither resolved nor told again and again, the target that is
    well stays so, and nothing that was stored is deleted."""
    well, sick = stage.start_server("well"), free_port()
    stage.write_config(stage.target(well, "well"), stage.target(sick, "sick"), webhook=webhook)
    assert stage.run("baseline", "well", "--quick", "--apart", "50ms", "--samples", "60").returncode == 0
    monkeypatch.setenv("LD_PRELOAD", str(wall_clock.library))
    daemon = stage.start_daemon()
    monkeypatch.delenv("LD_PRELOAD")
    wait_until(lambda: webhook.taken("firing"), "the sick one is told")
    baselines = stage.rows("select id, target, taken_at from baselines")

    def asked(target: str) -> float:
        return stage.value("watchdog_canary_requests_total", target=target)

    for offset_s in (HOUR_S, 0.0, -HOUR_S, DAY_S, -DAY_S):
        stored = stage.count()
        wall_clock.set_by(offset_s)
        for target in ("well", "sick"):
            before = asked(target)
            wait_until(lambda t=target, n=before: asked(t) >= n + 4, f"{target} is probed at {offset_s:+.0f} s")
        wait_until(lambda n=stored: stage.count() > n, "results are stored")
        assert stage.count() > stored
        assert stage.health()["alive"]

    wall_clock.set_by(0.0)
    assert "the clock was set" in stage.log_of(daemon)
    assert [p["incident"]["target"] for _, p in webhook.taken("firing")] == ["sick"]
    assert webhook.taken("resolved") == []
    assert len(webhook.taken("reminder")) <= 2, "one for each time a day seemed to pass, and no storm"
    assert stage.rows("select count(*) from incidents") == [(1,)]
    assert stage.rows("select id, target, taken_at from baselines") == baselines
    assert stage.value("watchdog_internal_errors_total", where="probe") == 0
    assert stage.value("watchdog_internal_errors_total", where="judge") == 0

    stage.start_server("healed", sick)
    wait_until(lambda: webhook.taken("resolved"), "it is over, and that is told")
    assert len(webhook.taken("resolved")) == 1
    assert stage.end(daemon) == 0


@pytest.mark.parametrize("offset_s", [DAY_S, -DAY_S], ids=["a day ahead", "a day behind"])
def test_message_is_not_held_up_by_a_clock_that_was_set(
    stage: FaultStage, webhook: Webhook, wall_clock: WallClock, monkeypatch: pytest.MonkeyPatch, offset_s: float
) -> None:
    """It is neither put off until a day that never comes, nor given up for its age."""
    wall_clock.set_by(-offset_s)
    webhook.mode = "fail"
    stage.write_config(stage.target(free_port()), webhook=webhook)
    monkeypatch.setenv("LD_PRELOAD", str(wall_clock.library))
    stage.start_daemon()
    monkeypatch.delenv("LD_PRELOAD")
    wait_until(lambda: webhook.attempts, "it was tried")
    wall_clock.set_by(0.0)
    before = len(webhook.attempts)
    wait_until(lambda: len(webhook.attempts) > before, "it is tried again")
    webhook.mode = "ok"
    wait_until(lambda: webhook.taken("firing"), "it is told")
    assert len(webhook.taken("firing")) == 1
