"""The crash benchmark on three seeds: the real thing, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SEED = (
    233  # one run that tells, one that recycles by a command, one by signals; killed in delivery, before and in the act
)


def test_nothing_is_lost_or_done_twice_whenever_the_daemon_is_killed(tmp_path: Path) -> None:
    """Three seeds of `benchmarks.crash`: exit code 0, every goal met, and what was aimed at was really killed."""
    report = tmp_path / "crash.json"
    argv = [sys.executable, "-m", "benchmarks.crash", "--seed", str(SEED), "--runs", "3", "--json", str(report)]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(report.read_text())
    assert (said["name"], said["figures"]["runs"], said["figures"]["failed_seeds"]) == ("crash", 3, [])
    assert all(goal["met"] for goal in said["goals"])
    assert said["figures"]["kills"] >= 3
    assert said["figures"]["incidents"] >= 3
    assert said["figures"]["acts"] >= 1
