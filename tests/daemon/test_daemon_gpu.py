"""The whole daemon beside a (stub) NVIDIA driver: GPU memory of a worker is watched, judged and told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_stage import Stage, Webhook, wait_until
from nvml_stage import Driver, build_stub

pytestmark = pytest.mark.slow
GIB = 2**30
OFTEN = '[nvml]\ninterval = "50ms"\nlists = "100ms"\ndeadline = "1s"\n'


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """The stub driver that child processes load instead of a real one."""
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library"))
    yield driver
    driver.set("")  # what hangs in it may end


def test_growing_gpu_memory_of_a_worker_is_told_with_the_time_left(
    stage: Stage, webhook: Webhook, driver: Driver
) -> None:
    """Host memory is flat; the worker's memory on the device grows: leaking, channel gpu, with a date."""
    port = stage.start_server()
    pid = int((stage.folder / "toy.pid").read_text())
    used = GIB

    def grow() -> None:
        nonlocal used
        used += 8_000_000
        driver.set(f"device 0 {80 * GIB} {GIB // 2} {used + GIB}\nprocess 0 {pid} {used}\n")

    grow()
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    leak = '[target.leak]\ninterval = "100ms"\nwarmup = "1s"\nwindow = "6s"\n'
    stage.write_config(
        stage.target(port).replace('device = "cpu"', 'device = "cuda"') + process + leak + OFTEN, webhook=webhook
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


def test_missing_gpu_is_unknown_and_blocks_acting(stage: Stage, driver: Driver) -> None:
    """device = "cuda" without a device: a wrong answer is told and not acted on, for want of evidence."""
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


def test_a_driver_that_hangs_is_said_and_delays_nothing(stage: Stage, driver: Driver) -> None:
    """The target on the GPU keeps its canaries and its host memory, the other one everything; what NVML should tell is
    missing, not zero, and is said with the call's name. When the driver answers again, all is as before."""
    ports = [stage.start_server(name) for name in ("toy", "other")]
    pid = int((stage.folder / "toy.pid").read_text())
    well = f"device 0 {80 * GIB} 0 {3 * GIB}\nprocess 0 {pid} {2 * GIB}\n"
    driver.set(well)
    memory = '[target.process]\npid_file = "{}/{}.pid"\n[target.leak]\ninterval = "250ms"\nwindow = "10s"\n'
    toy = stage.target(ports[0]).replace('device = "cpu"', 'device = "cuda"') + memory.format(stage.folder, "toy")
    other = stage.target(ports[1], name="other") + memory.format(stage.folder, "other")
    stage.write_config(toy, other, OFTEN)
    daemon = stage.start_daemon()
    figures = "host_anon_bytes, gpu_used_bytes, device_used_bytes"
    newest = f"select {figures} from memory_samples where target = 'toy' order by at desc limit 1"

    def wait_for(wanted: tuple[int | None, int | None], what: str) -> None:
        wait_until(lambda: (rows := stage.rows(newest)) and rows[0][0] and rows[0][1:] == wanted, what)

    def notes() -> str:
        said = stage.get("/healthz")
        assert said is not None
        assert said.status_code == 200
        return " ".join(said.json()["notes"])

    def counts() -> list[int]:
        tables = (f"select count(*) from {table} where target = '{{}}'" for table in ("bursts", "memory_samples"))
        return [stage.rows(query.format(target))[0][0] for query in tables for target in ("toy", "other")]

    wait_for((2 * GIB, 3 * GIB), "the worker's memory on the GPU")
    assert "driver" not in notes()
    driver.set(well + "hang nvmlDeviceGetMemoryInfo_v2\n")
    said = wait_until(lambda: (text := notes()) and "driver_unresponsive" in text and text, "the hang is said")
    assert "nvmlDeviceGetMemoryInfo has not returned" in said
    wait_for((None, None), "figures that are missing")
    before, began = counts(), time.monotonic()
    wait_until(lambda: time.monotonic() - began > 5.0, "five seconds")
    made = [after - count for count, after in zip(before, counts(), strict=True)]
    assert min(made) >= max(8, 0.7 * max(made)), made  # bursts and samples come four times a second
    metrics = stage.get("/metrics")
    assert metrics is not None
    assert 'watchdog_memory_bytes{target="toy",slot="0",kind="gpu_used"}' not in metrics.text
    driver.set(well)
    wait_for((2 * GIB, 3 * GIB), "the worker's memory again")
    assert "driver" not in notes()
    daemon.terminate()
    assert daemon.wait(20) == 0
    left = {call.pid for call in driver.calls("nvmlInitWithFlags")}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "its children end with it")
    assert "nvmlDeviceGetMemoryInfo" in stage.log_of(daemon)


def test_check_live_says_what_nvml_sees_of_the_workers(stage: Stage, driver: Driver) -> None:
    """A device that there is not; pids of another namespace; and all is well."""
    port = stage.start_server()
    pid = int((stage.folder / "toy.pid").read_text())
    process = f'[target.process]\npid_file = "{stage.folder}/toy.pid"\n'
    toy = stage.target(port).replace('device = "cpu"', 'device = "cuda"') + process
    device = f"device 0 {80 * GIB} 0 {3 * GIB}\n"
    for scenario, devices, code, words in (
        (device + f"process 0 {pid} 5\n", "[]", 0, "NVML answers: Stub GPU 0; the workers: seen"),
        (device + "process 0 4000001 5\n", "[]", 0, "the workers: foreign_pids"),
        (device + "lost 0\n", '["GPU-stub-0"]', 2, "no device"),
        (device, '["GPU-stub-9"]', 2, "NVML knows no device GPU-stub-9"),
        ("return nvmlInitWithFlags 18\n", "[]", 2, "no GPU: version_mismatch"),
    ):
        driver.set(scenario)
        stage.write_config(toy + f"[target.gpu]\ndevices = {devices}\n")
        done = stage.run("check", "--live")
        assert (words in " ".join(done.stdout.split()), done.returncode) == (True, code), done.stdout + done.stderr
