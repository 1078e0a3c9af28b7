"""The header that says which worker answered, from real servers."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import psutil
import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from watchdog_agent import identity
from watchdog_agent.middleware import WatchdogASGI, WatchdogWSGI

ASKING = {"X-Watchdog-Canary": "default"}


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello", headers={"X-Own": "kept"})


async def _receive(*_: Any) -> dict[str, Any]:
    return {}


def _wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Own", "kept")])
    return [b"hello"]


@pytest.fixture(params=["asgi", "wsgi"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A real server with the middleware, on a free port."""
    if request.param == "asgi":
        config = uvicorn.Config(
            WatchdogASGI(Starlette(routes=[Route("/", _hello)])), log_level="critical", ws="none", lifespan="off"
        )
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(10)
        listener.close()
    else:
        with make_server("127.0.0.1", 0, WatchdogWSGI(_wsgi), handler_class=_QuietHandler) as simple:
            thread = threading.Thread(target=simple.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield f"http://127.0.0.1:{simple.server_port}"
            simple.shutdown()
            thread.join(10)


def _get(url: str, headers: dict[str, str]) -> httpx.Response:
    deadline = time.monotonic() + 10
    while True:
        try:
            return httpx.get(url, headers=headers, timeout=10, trust_env=False)
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise


def test_a_canary_is_told_who_answered(url: str) -> None:
    """pid@start_ticks of this very process, then the versions of what is loaded; the answer is untouched otherwise."""
    answer = _get(url, ASKING)
    life, *versions = answer.headers["x-watchdog-worker"].split(";")
    stat = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
    assert life == f"{os.getpid()}@{stat[19]}"
    assert f"torch={torch.__version__}" in versions
    assert (answer.text, answer.headers["x-own"]) == ("hello", "kept")


def test_other_requests_are_not_touched(url: str) -> None:
    """A client that is no canary learns nothing about the process."""
    answer = _get(url, {})
    assert "x-watchdog-worker" not in answer.headers
    assert (answer.text, answer.headers["x-own"]) == ("hello", "kept")


def test_an_error_of_the_server_stays_its_own() -> None:
    """An exception of the application goes through as it was."""

    async def broken(*_: Any) -> None:
        raise RuntimeError("the model is broken")

    scope = {"type": "http", "headers": [(b"x-watchdog-canary", b"x")]}
    with pytest.raises(RuntimeError, match="the model is broken"):
        asyncio.run(WatchdogASGI(broken)(scope, _receive, _receive))


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_what_is_not_http_passes_as_it_is(kind: str) -> None:
    """The application is handed the very same objects."""
    seen: list[tuple[Any, ...]] = []

    async def noting(*given: Any) -> None:
        seen.append(given)

    scope = {"type": kind, "headers": [(b"x-watchdog-canary", b"x")]}
    asyncio.run(WatchdogASGI(noting)(scope, _receive, _receive))
    assert len(seen) == 1
    assert all(a is b for a, b in zip(seen[0], (scope, _receive, _receive), strict=True))


def test_an_answer_is_never_spoiled_by_the_header() -> None:
    """Should naming the worker fail, the answer goes out without a name."""
    broken = WatchdogWSGI(_wsgi)
    broken._worker.header = lambda *_: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    sent: list[Any] = []
    assert broken({"HTTP_X_WATCHDOG_CANARY": "x"}, lambda *a: sent.append(a)) == [b"hello"]
    assert sent == [("200 OK", [("Content-Type", "text/plain"), ("X-Own", "kept")])]


def test_each_forked_worker_names_itself() -> None:
    """A value worked out in the master before the fork is not the worker's; without torch no version is named."""
    script = (
        "import os\n"
        "from watchdog_agent.middleware import WatchdogWSGI\n"
        "def app(environ, start):\n"
        "    start('200 OK', [])\n"
        "    return []\n"
        "wrapped = WatchdogWSGI(app)\n"
        "def ask():\n"
        "    wrapped({'HTTP_X_WATCHDOG_CANARY': 'x'}, lambda s, h: print(os.getpid(), dict(h), flush=True))\n"
        "ask()\n"
        "if os.fork() == 0:\n"
        "    ask(); ask()\n"
        "else:\n"
        "    os.wait(); ask()\n"
    )
    root = Path(identity.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    named = [re.fullmatch(r"(\d+) \{'X-Watchdog-Worker': '(\d+)@\d+'\}", line) for line in done.stdout.splitlines()]
    pids = [match and match[1] for match in named]
    assert pids == [match and match[2] for match in named]
    assert len(pids) == 4
    assert len(set(pids)) == 2
    assert None not in pids


@pytest.mark.parametrize("name", ["python", "a b", ") R 1 2 (", ""])
def test_start_is_read_after_the_name(tmp_path: Path, name: str) -> None:
    """Field 2 of stat is the program's name, which may hold anything."""
    stat = tmp_path / "stat"
    stat.write_text(f"7 ({name}) S {' '.join(str(n) for n in range(4, 53))}\n")
    assert identity.start_ticks(str(stat)) == 22
    assert identity.start_ticks(str(tmp_path / "missing")) is None


def test_start_agrees_with_psutil() -> None:
    """Ticks since boot, at the kernel's rate."""
    ticks = identity.start_ticks()
    assert ticks is not None
    since_boot = psutil.Process().create_time() - psutil.boot_time()
    assert ticks / os.sysconf("SC_CLK_TCK") == pytest.approx(since_boot, abs=2)
