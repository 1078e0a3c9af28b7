"""The whole daemon beside a stub driver: the health of a GPU from the driver's answer to the message and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon_stage import Stage, Webhook, wait_until
from nvml_stage import Driver, build_stub

pytestmark = pytest.mark.slow
GB = 10**9
WELL = f"""
device 0 {80 * GB} {GB} {10 * GB}
field 0 230 0
field 0 270 0
value nvmlDeviceGetRemappedRows 0 0 0 0 0
value nvmlDeviceGetPowerUsage 0 400000
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    return driver


def test_gpu_that_needs_a_reset_is_told_and_over_when_it_was_reset(
    stage: Stage, webhook: Webhook, driver: Driver
) -> None:
    """Row remap pending: a page with what to do; after the reset it is told to be over. Errors and time are counted."""
    driver.set(WELL.replace("0 0 0 0 0", "0 0 1 1 0"))
    port = stage.start_server()
    quick = '[target.leak]\ninterval = "100ms"\nwarmup = "1s"\nwindow = "6s"\n'
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    stage.write_config(
        '[nvml]\ninterval = "100ms"\nlists = "200ms"\n',
        stage.target(port).replace('device = "cpu"', 'device = "cuda"') + process + quick,
        webhook=webhook,
    )
    stage.start_daemon()
    ((_, payload),) = wait_until(lambda: webhook.taken("firing"), "it is told")
    incident = payload["incident"]
    assert (incident["check"], incident["subject"]) == ("gpu", "gpu 0")
    assert (incident["reason"], incident["cause"], incident["level"]) == (
        "memory_repair_pending",
        "hardware",
        "page",
    )
    assert "What to do: Drain the GPU and reset it soon: nvidia-smi --gpu-reset -i 0" in payload["text"]
    shown = stage.run("status", "--json")
    assert '"memory_repair_pending"' in shown.stdout
    driver.set(WELL)
    wait_until(lambda: webhook.taken("resolved"), "it is over")
    driver.set(WELL.replace("270 0", "270 0+100000000/s") + "xid 1 0 74\n")

    def counted() -> bool:
        answer = stage.get("/metrics")
        text = answer.text if answer is not None else ""
        lines = dict(line.rpartition(" ")[::2] for line in text.splitlines() if line.startswith("watchdog_gpu"))
        xid = lines.get('watchdog_gpu_xid_total{target="toy",device="0",remedy="workflow"}')
        throttled = lines.get('watchdog_gpu_throttle_seconds_total{target="toy",device="0",kind="hw_thermal"}')
        return xid is not None and float(xid) == 1 and throttled is not None and float(throttled) > 0

    wait_until(counted, "the error and the throttled time are counted")
    assert stage.rows("select xid from gpu_xids") == [(74,)]
