"""The whole daemon beside a server with an agent: what it says is stored and shown, and a trim is tried first."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from daemon_stage import Stage, Webhook, wait_until

pytestmark = pytest.mark.slow
SERVER = Path(__file__).parents[1] / "watchdog" / "trimmed_child.py"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, as sockets need one."""
    with tempfile.TemporaryDirectory(prefix="agent-") as path:
        yield Path(path)


def test_memory_that_the_c_library_keeps_is_trimmed_and_nothing_is_recycled(
    stage: Stage, webhook: Webhook, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host memory grows like a leak and is called one; the worker gives it back, lives on, and people are told."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = stage.spawn([sys.executable, str(SERVER), str(folder)])
    port = int(wait_until(lambda: stage.log_of(server).strip(), "the server listens"))
    toy = stage.target(port, more='mode = "act"').replace("/predict", "/").replace('"numbers"', '"pid"')
    toy = toy.replace("json = [1]", 'method = "GET"')
    sections = f"""
[target.process]
port = {port}
[target.agent]
folder = "{folder}"
[target.leak]
interval = "100ms"
warmup = "1s"
window = "6s"
min_gain = "1MB"
capacity = "8GB"
[target.recycle]
kind = "command"
command = ["{sys.executable}", "-c", "open('{stage.folder}/recycled', 'w')"]
min_uptime = 0
"""
    stage.write_config(toy + sections, webhook=webhook)
    stage.start_daemon()

    def swell() -> list[tuple[str, dict[str, object]]]:
        httpx.get(f"http://127.0.0.1:{port}/swell", timeout=10, trust_env=False)
        return webhook.taken("recycle")

    _, payload = wait_until(swell, "the end of the episode is told", timeout_s=90.0)[0]
    recycle = payload["incident"]["recycle"]
    assert (recycle["outcome"], recycle["state"]) == ("trimmed", "cooldown"), recycle
    assert "allocator retention, not a leak" in recycle["detail"]
    assert recycle["acted_at"] is None
    assert not (stage.folder / "recycled").exists()
    assert server.poll() is None

    (target,) = stage.get("/api/v1/targets").json()  # type: ignore[union-attr]
    (worker,) = target["workers"]
    assert (worker["agent"], worker["version"]) == ("good", "0.24")
    assert worker["requests"] > 0
    query = "select trimmed_bytes from memory_samples where trimmed_bytes is not null"
    ((trimmed,),) = wait_until(lambda: stage.rows(query), "the next sample says that it follows a trim")
    assert trimmed > 1_000_000
    counted = 'watchdog_recycles_total{target="toy",reason="leaking",result="trimmed"} 1.0'
    wait_until(lambda: counted in stage.get("/metrics").text, "it is counted")  # type: ignore[union-attr]
    status = stage.run("status")
    assert "agent good, serves 0.24" in status.stdout
