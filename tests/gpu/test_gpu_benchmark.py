"""The benchmark for a GPU, without one: it runs from end to end beside the stub driver, and writes nothing down."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nvml_stage import Driver, build_stub

from benchmarks import gpu
from benchmarks.bench import NOTHING
from benchmarks.gpu_effect import Effect, compare

ROOT = Path(__file__).resolve().parents[2]


def wanted(folder: Path, *, rehearse: bool) -> argparse.Namespace:
    return argparse.Namespace(only=None, rehearse=rehearse, json=folder / "gpu.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so, by its exit code too."""
    with pytest.raises(SystemExit) as ended:
        gpu.run(wanted(tmp_path, rehearse=False))
    assert ended.value.code == NOTHING
    assert capsys.readouterr().out.startswith("no GPU: nothing measured")


def test_a_rehearsal_is_never_written_down(tmp_path: Path) -> None:
    """None is even begun that somebody wants to be."""
    with pytest.raises(SystemExit, match="leave --json away"):
        gpu.run(wanted(tmp_path, rehearse=True))


@pytest.mark.slow
def test_a_rehearsal_goes_through_all_that_needs_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a driver: its calls, what they cost a model, the agent, the products. `leaks` has a test of its own."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    driver.set("device 0 80000000000 0 1000000000\n")
    parts = [part for part in gpu.PARTS if part != "leaks"]
    argv = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--only", *parts]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode in (0, 2), done.stderr
    assert "nvmlDeviceGetComputeRunningProcesses_v3" in done.stdout
    for measured in ("NVML's readings: change of the model's p99", "the agent's answers: change of the model's p99"):
        assert measured in done.stdout
    assert len(driver.calls("nvmlDeviceGetMemoryInfo_v2")) > 10


def test_what_a_question_delays_is_found() -> None:
    """Questions that delay nobody change nothing; those that make a request half as long again move the p99."""
    rng, seconds, turn_s = np.random.default_rng(1), 80.0, 4.0
    begins = np.cumsum(rng.uniform(3e-3, 3.5e-3, 24_000)) + 50.0
    took = rng.lognormal(np.log(1e-3), 0.1, len(begins))
    asked = np.arange(50.25, 50.0 + seconds, 0.5)
    asked = asked[(asked - 50.0) // turn_s % 2 == 0]
    met = np.searchsorted(begins, asked)

    def found(rarity: float) -> Effect:
        questions = np.column_stack([begins[met] - 1e-3, begins[met] + 1e-3])
        requests = np.column_stack([begins, took])
        return compare(requests, questions, began=50.0, seconds=seconds, turn_s=turn_s, rarity=rarity)

    harmless = found(rarity=0.1)
    assert harmless.questions == len(asked)
    assert harmless.change.low <= 0.0 <= harmless.change.high
    took[met] *= 1.5
    harmful = found(rarity=1.0)
    assert harmful.change.low > 0.0
    assert harmful.change.percent > found(rarity=0.1).change.percent
    assert harmful.p99_beside_ms > harmful.p99_apart_ms
