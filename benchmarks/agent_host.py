"""A serving process that measures what the agent costs it: `python -m benchmarks.agent_host WHAT`, for `agent`.

    requests FOLDER     microseconds a request, with and without, block by block in turns
    memory FOLDER KIND  resident KiB before and after; KIND is what the host had loaded before: server or bare
    idle FOLDER         attaches and waits, for somebody to look at its threads

Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

BLOCKS, CALLS = 400, 500
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"content-length", b"64"),
    (b"content-type", b"application/json"),
    (b"x-request-id", b"5f8e7d6c"),
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"x-forwarded-proto", b"https"),
]
Message = MutableMapping[str, Any]


async def application(_scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[..., Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi_application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def wsgi_stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    yield from wsgi_application(environ, start_response)


def asgi_call(app: Any, headers: Sequence[tuple[bytes, bytes]]) -> Callable[[], None]:
    """One request, without an event loop: nothing in it waits."""
    scope = {"type": "http", "headers": headers}

    async def receive() -> Message:
        return {}

    async def send(_message: Message) -> None:
        return

    def call() -> None:
        try:
            app(scope, receive, send).send(None)
        except StopIteration:
            return

    return call


def wsgi_call(app: Any, environ: dict[str, Any]) -> Callable[[], None]:
    def call() -> None:
        body = app(environ, lambda *_: None)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()

    return call


def paired_us(plain: Callable[[], None], wrapped: Callable[[], None]) -> list[float]:
    """Microseconds more a call, of each block against the one beside it; which is first takes turns."""
    differences = []
    for block in range(BLOCKS):
        took = {}
        for call in (plain, wrapped) if block % 2 else (wrapped, plain):
            began = time.perf_counter()
            for _ in range(CALLS):
                call()
            took[call] = (time.perf_counter() - began) / CALLS * 1e6
        differences.append(took[wrapped] - took[plain])
    return differences


def requests(folder: str) -> dict[str, list[float]]:
    import torch

    from watchdog_agent.attach import attach
    from watchdog_agent.middleware import WatchdogASGI, WatchdogWSGI, watching

    canary = [*HEADERS, (b"x-watchdog-canary", b"default")]
    model, hooked = torch.nn.Identity(), torch.nn.Identity()
    batch = torch.zeros(8, 16)
    attach(folder=folder, model=hooked)

    def watched() -> None:
        with watching():
            pass

    def unwatched() -> None:
        return

    gc.disable()  # a collection is nobody's cost here
    pairs = {
        "ASGI": (asgi_call(application, HEADERS), asgi_call(WatchdogASGI(application), HEADERS)),
        "ASGI, a canary": (asgi_call(application, canary), asgi_call(WatchdogASGI(application), canary)),
        "WSGI": (wsgi_call(wsgi_application, {}), wsgi_call(WatchdogWSGI(wsgi_application), {})),
        "WSGI, streamed": (wsgi_call(wsgi_stream, {}), wsgi_call(WatchdogWSGI(wsgi_stream), {})),
        "watching()": (unwatched, watched),
        "shapes of a model's inputs": (lambda: model(batch), lambda: hooked(batch)),
    }
    return {name: paired_us(plain, wrapped) for name, (plain, wrapped) in pairs.items()}


def resident_kib() -> int:
    """Private memory, clean and dirty: what would not be there without this process."""
    gc.collect()
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Clean", "Private_Dirty")))


def memory(folder: str, kind: str) -> dict[str, Any]:
    if kind == "server":
        import torch
        import uvicorn  # noqa: F401 - as a real server has it
        from starlette.applications import Starlette  # noqa: F401

        torch.nn.Linear(64, 64)(torch.zeros(1, 64))
    resident_kib()  # what measuring takes is there already
    before = resident_kib()
    from watchdog_agent.attach import attach
    from watchdog_agent.middleware import WatchdogASGI

    WatchdogASGI(application)
    agent = attach(folder=folder)
    while agent.address is None:
        time.sleep(0.01)
    attached = resident_kib()
    print("ready", flush=True)  # and is asked a hundred times from outside
    sys.stdin.readline()
    asked = resident_kib()
    print("asked", flush=True)  # and is told to trim
    sys.stdin.readline()
    return {"attached_kib": attached - before, "asked_kib": asked - before, "whole_kib": before}


def idle(folder: str) -> dict[str, Any]:
    from watchdog_agent.attach import attach

    attach(folder=folder)
    print("ready", flush=True)
    sys.stdin.readline()
    return {}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {"requests": requests, "memory": memory, "idle": idle}

if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])), flush=True)
