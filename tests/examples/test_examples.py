"""Each example as its docstring says to run it, watched as its configuration says."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from ports import free_port

from probes.expectation import Expectation, check_body
from probes.messages import Outcome
from watchdog.config import HttpCanarySection, load_config

pytest.importorskip("torch", reason="the examples serve PyTorch models")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    canary: HttpCanarySection
    client: httpx.Client
    pid: int

    def ask(self, body: object) -> httpx.Response:
        path = httpx.URL(self.canary.url).path
        headers = {"X-Watchdog-Canary": "1"}
        return self.client.request(self.canary.method, path, json=body, headers=headers)


def _run_line(server: Path) -> list[str]:
    """The indented command of the docstring."""
    text = ast.get_docstring(ast.parse(server.read_text())) or ""
    (line,) = (line for line in text.splitlines() if line.startswith("    "))
    return shlex.split(line)


@pytest.fixture(scope="module", params=["fastapi", "flask"])
def example(request: pytest.FixtureRequest) -> Iterator[Example]:
    pytest.importorskip(request.param, reason="a package of the extra [test]")
    (target,) = load_config(ROOT / "examples" / f"{request.param}.toml").target
    (canary,) = target.canary
    assert isinstance(canary, HttpCanarySection)
    written_port = str(httpx.URL(canary.url).port)
    port = str(free_port())
    command, *arguments = _run_line(ROOT / "examples" / f"{request.param}_server.py")
    assert written_port in arguments, "server and configuration must name the same port"
    arguments = [port if argument == written_port else argument for argument in arguments]
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen([Path(sys.executable).with_name(command), *arguments], cwd=ROOT))
        stack.callback(process.kill)
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0, trust_env=False))
        deadline = time.monotonic() + START_S
        while not _answers(client):
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        yield Example(canary=canary, client=client, pid=process.pid)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _expectation(canary: HttpCanarySection) -> Expectation:
    expect = canary.expect
    return Expectation(**(expect.model_dump() | {"shape": tuple(expect.shape or ())}))


def test_canary_of_the_configuration_gets_a_good_answer_every_time(example: Example) -> None:
    """Status, path, shape and the comparison with a golden output all fit the server."""
    expectation = _expectation(example.canary)
    first, second = (example.ask(example.canary.json_) for _ in range(2))

    assert first.status_code == second.status_code == expectation.status
    outcome, detail, golden = check_body(first.content, expectation, None)
    assert (outcome, detail) == (Outcome.GOOD, "")
    assert check_body(second.content, expectation, golden)[:2] == (Outcome.GOOD, "")


def test_answer_to_another_input_is_told_from_the_golden_one(example: Example) -> None:
    """The expectation of the configuration can fail."""
    expectation = _expectation(example.canary)
    _, _, golden = check_body(example.ask(example.canary.json_).content, expectation, None)
    ((key, values),) = example.canary.json_.items()

    other = example.ask({key: values[::-1]})

    assert check_body(other.content, expectation, golden)[0] in {Outcome.DRIFTED, Outcome.WRONG_TOP_K}


def test_answer_names_the_worker(example: Example) -> None:
    """The agent's one line is in place."""
    answer = example.ask(example.canary.json_)

    assert answer.headers["X-Watchdog-Worker"].startswith(f"{example.pid}@")


def test_malformed_input_is_refused(example: Example) -> None:
    """An honest server does not answer nonsense."""
    assert example.ask({"nothing": []}).status_code == 422


@pytest.mark.parametrize("name", ["fastapi", "flask"])
def test_commented_parts_of_the_configuration_are_valid_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncommenting the notifier and the recycle section, as the comments invite to, gives a valid file."""
    lines = (ROOT / "examples" / f"{name}.toml").read_text().splitlines()
    whole = tmp_path / "whole.toml"
    whole.write_text("\n".join(_uncommented(lines)).replace('mode = "alert"', 'mode = "act"'))
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.example.com/services/x")
    monkeypatch.setenv("WATCHDOG_WEBHOOK_SECRET", "s")

    config = load_config(whole)

    assert len(config.notifier) == 1
    assert config.target[0].recycle is not None


def _uncommented(lines: list[str]) -> Iterator[str]:
    """Every commented table with the keys that follow it."""
    inside = False
    for line in lines:
        inside = line.startswith("# [") or (inside and line.startswith("# "))
        yield line.removeprefix("# ") if inside else line
