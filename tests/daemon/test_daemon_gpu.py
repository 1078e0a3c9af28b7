"""The whole daemon beside a (stub) NVIDIA driver: GPU memory of a worker is watched, judged and told."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon_stage import Stage, Webhook, wait_until
from nvml_stage import build_stub

pytestmark = pytest.mark.slow
GIB = 2**30


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the stub driver reads at every call; child processes load the stub instead of a real driver."""
    build_stub(tmp_path)
    state = tmp_path / "driver"
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("NVML_STUB_STATE", str(state))
    return state


def test_growing_gpu_memory_of_a_worker_is_told_with_the_time_left(
    stage: Stage, webhook: Webhook, driver: Path
) -> None:
    """Host memory is flat; the worker's memory on the device grows: leaking, channel gpu, with a date."""
    port = stage.start_server()
    pid = int((stage.folder / "toy.pid").read_text())
    used = GIB

    def grow() -> None:
        nonlocal used
        used += 8_000_000
        part = driver.with_suffix(".new")
        part.write_text(f"device 0 {80 * GIB} {GIB // 2} {used + GIB}\nprocess 0 {pid} {used}\n")
        part.replace(driver)

    grow()
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    leak = '[target.leak]\ninterval = "100ms"\nwarmup = "1s"\nwindow = "6s"\n'
    stage.write_config(
        stage.target(port).replace('device = "cpu"', 'device = "cuda"') + process + leak, webhook=webhook
    )
    stage.start_daemon()

    def told() -> list[tuple[str, dict[str, object]]]:
        grow()
        return webhook.taken("firing")

    ((_, payload),) = wait_until(told, "the leak is told")
    incident = payload["incident"]
    assert (incident["check"], incident["reason"], incident["cause"]) == ("memory", "leaking", "model")
    assert incident["evidence"]["channel"] == "gpu_used_bytes"
    assert incident["evidence"]["capacity_bytes"] == 80 * GIB
    assert incident["evidence"]["seconds_to_capacity"] > 0
    metrics = stage.get("/metrics")
    assert metrics is not None
    assert 'watchdog_memory_bytes{target="toy",slot="0",kind="gpu_used"}' in metrics.text


def test_missing_gpu_is_unknown_and_blocks_acting(stage: Stage, driver: Path) -> None:
    """device = "cuda" without a device: a wrong answer is told and not acted on, for want of evidence."""
    driver.write_text("")
    port = stage.start_server()
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    recycle = '[target.recycle]\nkind = "process"\nmin_uptime = 0\n'
    target = stage.target(port, more='mode = "act"').replace('device = "cpu"', 'device = "cuda"')
    stage.write_config(target + process + recycle)
    stage.take_baseline()
    stage.start_daemon()
    stage.break_server(port, "wrong")
    query = "select state, detail from recycles"
    wait_until(lambda: stage.rows(query), "the gate was asked and answered")
    wait_until(lambda: stage.rows(query) == [("blocked", "evidence_missing")], "it refused")
