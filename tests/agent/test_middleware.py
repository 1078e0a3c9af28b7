"""What the middleware and the context manager count, and that they change nothing else."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import FileWrapper

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from watchdog_agent import attach, middleware, report, served
from watchdog_agent.distinct import EXACT
from watchdog_agent.ledger import LEDGER, Ledger
from watchdog_agent.middleware import WatchdogASGI, WatchdogWSGI, watching

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Counts of the test's own."""
    fresh = Ledger()
    monkeypatch.setattr(middleware, "LEDGER", fresh)
    monkeypatch.setattr(attach, "LEDGER", fresh)
    monkeypatch.setattr(served, "LEDGER", fresh)
    return fresh


def asgi(app: Callable[..., Any], scope: dict[str, Any]) -> None:
    async def nothing(*_: Any) -> dict[str, Any]:
        return {}

    asyncio.run(app(scope, nothing, nothing))


def wsgi(app: Callable[..., Any], environ: dict[str, Any]) -> Any:
    return app(environ, lambda *_: None)


def test_nothing_is_known_until_something_counts(ledger: Ledger) -> None:
    """None, not zero; from the first middleware or `watching` on it is a number."""
    assert (ledger.requests, ledger.in_flight, ledger.shapes) == (None, None, None)
    WatchdogASGI(lambda *_: None)  # type: ignore[arg-type, return-value]
    assert (ledger.requests, ledger.in_flight) == (0, 0)


@pytest.mark.parametrize("headers", [[], [(b"x-watchdog-canary", b"x")]], ids=["client", "canary"])
def test_asgi_counts_http_alone(ledger: Ledger, headers: list[tuple[bytes, bytes]]) -> None:
    """In flight while the application runs, ended when it returns; websockets and lifespans are none."""
    seen: list[int | None] = []

    async def application(*_: Any) -> None:
        seen.append(ledger.in_flight)

    wrapped = WatchdogASGI(application)
    for kind in ("http", "websocket", "lifespan", "http"):
        asgi(wrapped, {"type": kind, "headers": headers})
    assert seen == [1, 0, 0, 1]
    assert (ledger.requests, ledger.in_flight) == (2, 0)


def test_a_request_that_raises_has_ended(ledger: Ledger) -> None:
    """In every kind; the exception is the server's."""

    async def broken(*_: Any) -> None:
        raise RuntimeError("the model is broken")

    def broken_too(*_: Any) -> list[bytes]:
        raise RuntimeError("the model is broken")

    with pytest.raises(RuntimeError):
        asgi(WatchdogASGI(broken), {"type": "http"})
    with pytest.raises(RuntimeError):
        wsgi(WatchdogWSGI(broken_too), {})
    with pytest.raises(RuntimeError), watching():
        raise RuntimeError("the model is broken")
    assert (ledger.requests, ledger.in_flight) == (3, 0)


def test_wsgi_counts_until_the_answer_is_closed(ledger: Ledger) -> None:
    """A body that is still being made is in flight; closing it closes the application's, and ends it once."""
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(True)

    body = wsgi(WatchdogWSGI(lambda *_: Body()), {})
    assert list(body) == [b"a", b"b"]
    assert (ledger.requests, ledger.in_flight) == (1, 1)
    body.close()
    body.close()
    assert ledger.in_flight == 0
    del body
    assert ledger.in_flight == 0
    assert closed == [True, True]


def test_an_answer_that_is_broken_off_is_closed_once(ledger: Ledger) -> None:
    """The client went away: what the application does at its end is not done twice."""
    closed: list[bool] = []

    class Parts:
        def __iter__(self) -> Parts:
            return self

        def __next__(self) -> bytes:
            return b"more"

        def close(self) -> None:
            closed.append(True)

    body = WatchdogWSGI(lambda _environ, _start: Parts())({}, lambda *_: None)
    for part in body:
        assert part == b"more"
        break
    gc.collect()
    body.close()
    assert closed == [True]
    assert ledger.in_flight == 0


def test_a_server_that_never_closes_is_forgiven(ledger: Ledger) -> None:
    """Nobody holds the body any more: it has ended."""
    body = wsgi(WatchdogWSGI(lambda *_: iter([b"a"])), {})
    assert ledger.in_flight == 1
    del body
    assert ledger.in_flight == 0


def test_an_answer_is_in_flight_while_its_iterator_is(ledger: Ledger) -> None:
    """A middleware around ours that loops over the answer keeps nothing but the iterator."""
    inner = WatchdogWSGI(lambda *_: iter([b"a", b"b"]))

    def outer(*given: Any) -> Iterator[bytes]:
        for part in inner(*given):  # noqa: UP028 - as such middlewares do
            yield part

    body = wsgi(outer, {})
    assert next(body) == b"a"
    assert ledger.in_flight == 1
    assert list(body) == [b"b"]
    assert ledger.in_flight == 0


def test_lists_and_files_go_out_as_they_are(ledger: Ledger, tmp_path: Path) -> None:
    """A server looks at the length of the one, and sends the other by itself."""
    whole = [b"hello"]
    assert wsgi(WatchdogWSGI(lambda *_: whole), {}) is whole
    (tmp_path / "file").write_bytes(b"x")
    with (tmp_path / "file").open("rb") as file:
        wrapped = FileWrapper(file)
        assert wsgi(WatchdogWSGI(lambda *_: wrapped), {"wsgi.file_wrapper": FileWrapper}) is wrapped
        assert wsgi(WatchdogWSGI(lambda *_: file), {"wsgi.file_wrapper": lambda given: given}) is file  # uWSGI's
    assert (ledger.requests, ledger.in_flight) == (3, 0)


def test_threads_lose_no_count(ledger: Ledger) -> None:
    """Eight at once, a thousand requests each."""

    def run() -> None:
        for _ in range(1000):
            with watching():
                pass

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ledger.requests, ledger.in_flight) == (8000, 0)


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=60))
def test_different_shapes_are_counted_once(shapes: list[list[int]]) -> None:
    """Of arguments, and of what is in dicts and lists of them."""
    own = Ledger()
    for shape in shapes:
        own.note_shapes([{"pixels": torch.empty(shape)}, 5, "words"])
    assert own.shapes == (len({tuple(s) for s in shapes}) if shapes else None)


def test_shapes_are_counted_on_and_never_raise(ledger: Ledger) -> None:
    """Past those that are told apart one by one closely, see test_distinct; an odd value is left out."""

    class Odd:
        @property
        def shape(self) -> tuple[int, ...]:
            raise RuntimeError("not now")

    with watching(Odd()):
        pass
    assert ledger.shapes is None
    for size in range(4 * EXACT):
        with watching(memoryview(bytes(size)), [torch.empty(size, device="meta")]):
            pass
    assert ledger.shapes == pytest.approx(4 * EXACT, rel=0.02)


@pytest.mark.parametrize("compiled", [None, "outer", "inner"])
def test_a_models_inputs_are_looked_at(ledger: Ledger, compiled: str | None) -> None:
    """By position and by name; a compiled model is not disturbed: given itself it is counted, its inside is not."""
    inner = torch.nn.Linear(4, 2)
    model: Any = inner if compiled is None else torch.compile(inner, backend="eager", fullgraph=True)
    served.remember(None, None, inner if compiled == "inner" else model)
    served.remember(None, None, inner if compiled == "inner" else model)  # twice is once
    for rows in (1, 2, 3, 3):
        model(torch.ones(rows, 4))
    model(input=torch.ones(7, 4))
    assert ledger.shapes == (None if compiled == "inner" else 4)
    torch._dynamo.reset()


def test_a_model_of_torch_2_1_is_looked_at(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its public module does not say whether it compiles: its compiler does, once that is loaded."""
    model, inputs = torch.nn.Linear(4, 2), torch.ones(3, 4)
    served.remember(None, None, model)
    (hook,) = model._forward_pre_hooks.values()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(compiler=SimpleNamespace()))
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace(is_compiling=lambda: True))
    hook(model, (inputs,), {})
    assert ledger.shapes is None
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    hook(model, (inputs,), {})
    assert ledger.shapes == 1


def test_what_cannot_be_used_costs_the_rest_nothing(ledger: Ledger) -> None:
    """A load time that is none is left out; the model beside it is looked at."""
    model = torch.nn.Linear(4, 2)
    served.remember("1", float("nan"), model)
    model(torch.ones(3, 4))
    assert (ledger.version, ledger.model_load_s, ledger.shapes) == ("1", None, 1)


def test_a_request_that_begins_during_a_report_is_no_contradiction() -> None:
    """Never more in flight than have begun: the daemon would not believe the report."""

    class Busy(Ledger):
        @property
        def requests(self) -> int | None:
            found = super().requests
            self.begin()
            return found

    busy = Busy()
    busy.counting = True
    said = report.report(busy)
    assert (said.requests, said.in_flight) == (0, 0)


def test_a_model_that_is_looked_at_can_be_saved(ledger: Ledger) -> None:
    """The hook is a function of a module, not one that cannot be pickled."""
    model = torch.nn.Linear(4, 2)
    served.remember(None, None, model)
    assert isinstance(pickle.loads(pickle.dumps(model)), torch.nn.Linear)


def test_recompiles_are_counted() -> None:
    """Another static shape is another compilation; the first is none."""
    code = (
        "import torch\nfrom watchdog_agent.report import recompiles\n"
        "assert recompiles() is None\n"
        "f = torch.compile(lambda x: x + 1, backend='eager', dynamic=False)\n"
        "for n in (2, 3, 4, 4): f(torch.ones(n))\n"
        "print(recompiles())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "2\n"


def test_what_cannot_be_read_is_not_known(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that raises, as in the middle of an import of torch, costs the others nothing."""
    monkeypatch.setitem(sys.modules, "torch", object())
    said = report.report(ledger)
    assert (said.allocated_bytes, said.reserved_bytes) == (None, None)
    assert said.host_anon_bytes is not None
    assert said.life is not None
    assert said.life.startswith(f"{os.getpid()}@")


def test_the_version_is_fit_for_a_header(ledger: Ledger) -> None:
    """Line ends, semicolons and what is not printable are left out; it is short."""
    served.remember("0.24\r\nX-Evil: 1; torch=9" + "x" * 200, None, None)
    assert ledger.version == ("0.24X-Evil: 1 torch=9" + "x" * 200)[:100]
    sent: list[Any] = []
    app = WatchdogWSGI(lambda _, start: start("200 OK", []) or [])
    app({"HTTP_X_WATCHDOG_CANARY": "x"}, lambda *given: sent.append(given))
    ((_, headers),) = sent
    assert f";model_version={ledger.version}" in dict(headers)["X-Watchdog-Worker"]


def test_loading_is_timed(ledger: Ledger) -> None:
    """By the block; one that fails has not loaded anything."""
    with pytest.raises(RuntimeError), attach.loading():
        raise RuntimeError("no such file")
    assert ledger.model_load_s is None
    with attach.loading():
        pass
    assert ledger.model_load_s is not None
    assert 0 <= ledger.model_load_s < 1


def test_there_is_one_ledger_in_a_process() -> None:
    """Middleware that was made before attach() writes into the same."""
    code = "from watchdog_agent import attach, middleware, ledger; print(attach.LEDGER is middleware.LEDGER)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert isinstance(LEDGER, Ledger)
