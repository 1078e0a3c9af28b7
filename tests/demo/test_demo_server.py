"""The demo's model server, as a real child process."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ports import free_port

pytest.importorskip("torch", reason="the demo's server needs the extra [demo]")

from watchdog.demo import server as server_module

pytestmark = pytest.mark.slow

START_S, STOP_S = 60.0, 20.0
NO_KEEP_ALIVE = httpx.Limits(max_keepalive_connections=0)
TOKENS = list(range(24))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    process: subprocess.Popen[bytes]
    client: httpx.Client
    pid_file: Path

    def predict(self, tokens: list[int] = TOKENS) -> Any:
        return self.client.post("/predict", json={"tokens": tokens}).raise_for_status().json()

    def inject(self, kind: str, **parameters: float) -> None:
        self.client.post("/fault", json={"kind": kind, **parameters}).raise_for_status()


@contextmanager
def running_server(folder: Path) -> Iterator[Running]:
    port = free_port()
    pid_file = folder / "server.pid"
    command = [sys.executable, server_module.__file__, "--port", str(port), "--seed", "7", "--pid-file", str(pid_file)]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command))
        stack.callback(process.kill)
        # A connection for each request: uvicorn overlooks one made just while it closes its socket, and serves it on
        client = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0, trust_env=False, limits=NO_KEEP_ALIVE)
        )
        deadline = time.monotonic() + START_S
        while not _answers(client):
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        yield Running(process=process, client=client, pid_file=pid_file)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_server(tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    """The shared server, healthy before and after."""
    yield shared
    shared.inject("none")


def test_same_tokens_give_the_same_answer_bit_for_bit(server: Running) -> None:
    """A golden output is only worth something when the model is deterministic."""
    first = server.predict()

    assert len(first["embedding"]) == server_module.EMBEDDING
    assert all(math.isfinite(value) for value in first["embedding"])
    assert first["label"] in range(server_module.LABELS)
    assert [server.predict() for _ in range(5)] == [first] * 5
    assert server.predict([1, 2, 3])["embedding"] != first["embedding"]


def test_a_new_process_with_the_same_seed_gives_the_same_answer(server: Running, tmp_path: Path) -> None:
    """A recycled worker must be comparable with the one before it."""
    with running_server(tmp_path) as other:
        assert other.predict() == server.predict()


def test_answers_name_the_model_version(server: Running) -> None:
    """Provenance comes with the answer."""
    answer = server.client.post("/predict", json={"tokens": TOKENS})

    assert answer.headers["X-Model-Version"] == server_module.MODEL_VERSION


def test_answers_to_canaries_name_the_worker(server: Running) -> None:
    """The agent's middleware is in place: a canary can tell which life answered."""
    answer = server.client.post("/predict", json={"tokens": TOKENS}, headers={"X-Watchdog-Canary": "1"})

    assert answer.headers["X-Watchdog-Worker"].startswith(f"{server.process.pid}@")


def test_reference_answers_the_same_number(server: Running) -> None:
    """The control is a fixed piece of work."""
    assert server.client.get("/reference").json() == server.client.get("/reference").json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/predict", b"{", id="not JSON"),
        pytest.param("/predict", b'{"tokens": []}', id="no tokens"),
        pytest.param("/predict", b'{"tokens": [1000]}', id="token beyond the vocabulary"),
        pytest.param("/predict", b'{"tokens": [' + b"1," * 64 + b"1]}", id="too many tokens"),
        pytest.param("/fault", b'{"kind": "fire"}', id="unknown fault"),
        pytest.param("/fault", b'{"kind": "slow", "shares": 1}', id="unknown parameter"),
    ],
)
def test_bad_requests_are_refused_with_the_problem(server: Running, path: str, body: bytes) -> None:
    """A mistake is told, not turned into an answer."""
    answer = server.client.post(path, content=body)

    assert answer.status_code == 422
    assert answer.json()["problems"]


def test_slow_does_more_of_the_real_work() -> None:
    """The slow fault runs four encoder layers again; it does not sleep."""
    calls: list[int] = []
    slow = server_module.Inference.start(7, server_module.Fault(kind="slow"))
    for layer in slow.encoder.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))

    slow.predict(TOKENS)

    assert len(calls) == server_module.LAYERS + 4


def test_slow_answers_exactly_as_before(server: Running) -> None:
    """A slowdown must not look like a wrong output."""
    before = server.predict()

    server.inject("slow")

    assert server.predict() == before


def test_leak_keeps_memory_at_every_request_and_none_frees_it(server: Running) -> None:
    """The leak is anonymous memory of the process, really touched."""
    before, answer = _anonymous_bytes(server), server.predict()

    server.inject("leak", bytes_per_request=8_000_000)
    answers = [server.predict() for _ in range(10)]
    leaked = _anonymous_bytes(server) - before
    server.inject("none")

    assert answers == [answer] * 10
    assert leaked > 70_000_000
    assert _anonymous_bytes(server) - before < 40_000_000


def _anonymous_bytes(server: Running) -> int:
    memory = psutil.Process(server.process.pid).memory_full_info()
    return int(memory.uss)


def test_wrong_changes_the_answer_and_none_restores_it(server: Running) -> None:
    """Noise on the weights gives another, still plausible, answer."""
    before = server.predict()

    server.inject("wrong")
    wrong = server.predict()
    server.inject("none")

    assert len(wrong["embedding"]) == len(before["embedding"])
    assert all(math.isfinite(value) for value in wrong["embedding"])
    assert not all(
        math.isclose(a, b, rel_tol=0.1) for a, b in zip(wrong["embedding"], before["embedding"], strict=True)
    )
    assert server.predict() == before


def test_hang_stops_inference_and_leaves_health_and_reference_alone(server: Running) -> None:
    """The classic: /health says 200 and nothing is served; every later request waits behind the first."""
    before = server.predict()
    server.inject("hang")

    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/predict", json={"tokens": TOKENS}, timeout=0.5)
    assert server.client.get("/health").status_code == 200
    assert server.client.get("/reference").status_code == 200

    server.inject("none")
    assert server.predict() == before


def test_pid_file_holds_the_pid_and_goes_with_an_orderly_stop(tmp_path: Path) -> None:
    """A watcher finds the worker by its pid file."""
    with running_server(tmp_path) as server:
        assert server.pid_file.read_text() == f"{server.process.pid}\n"

        server.process.terminate()
        server.process.wait(STOP_S)

        assert server.process.returncode in (0, -signal.SIGTERM)
        assert not server.pid_file.exists()


def test_a_hung_inference_outlives_sigterm(tmp_path: Path) -> None:
    """After TERM the server no longer listens and still does not end: only KILL helps."""
    with running_server(tmp_path) as server:
        server.inject("hang")
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/predict", json={"tokens": TOKENS}, timeout=0.5)

        server.process.terminate()
        deadline = time.monotonic() + STOP_S
        while _answers(server.client):
            assert time.monotonic() < deadline, "SIGTERM was not noticed"
            time.sleep(0.05)

        assert server.process.poll() is None
        server.process.kill()
        assert server.process.wait(STOP_S) == -signal.SIGKILL
