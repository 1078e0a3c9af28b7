"""What is kept with a burst of a target built from a configuration: its load, and what went on around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from little_server import Model, serving
from page_stage import Page, page

from baselines import burst_store
from baselines.database import Database
from probes.facts import LOAD, OWN_DELAY, SERVER_CPU, SERVER_WAIT
from watchdog.bootstrap import build_targets
from watchdog.config import parse_config
from watchdog.target import Target

__all__ = ["page"]  # a fixture

NGINX = "Active connections: 9 \nserver accepts handled requests\n 9 9 9 \nReading: 1 Writing: 4 Waiting: 2 \n"

Build = Callable[..., Target]


@pytest.fixture
def model() -> Iterator[Model]:
    with serving(Model(delay_s=0.0)) as served:
        yield served


@pytest.fixture
def build(database: Database, model: Model) -> Iterator[Build]:
    """A target on the model, which is this very process, with this [target.load]."""
    built: list[Target] = []

    def build(load: dict[str, object] | None = None, **canary: object) -> Target:
        canary = {"url": model.url, "json": {"inputs": [1, 2]}, "max_busy": 1.0, **canary}
        process = {"parent_pid": os.getpid(), "workers": "self"}
        section = {"name": "chat", "device": "cpu", "canary": [canary], "process": process}
        config = parse_config({"target": [section | ({} if load is None else {"load": load})]})
        built.extend(build_targets(config, database).values())
        return built[-1]

    yield build
    for target in built:
        target.close()


def test_the_load_is_read_before_the_first_request_of_a_burst(build: Build, page: Page, model: Model) -> None:
    """Each burst has the load of its time, without its own requests; and it is stored."""
    target = build({"url": page.url, "metric": "waiting", "headers": {"Authorization": "Bearer k3y"}})
    asked_at: list[int] = []
    page.on_ask = lambda: asked_at.append(len(model.requests))
    loads = []
    for number in (3, 0):
        page.text = f'waiting{{worker="0"}} {number}\nwaiting{{worker="1"}} 1\n'
        burst = target.probe("default", size=3)
        loads.append(burst.load)
        assert [s.outcome for s in burst.samples] == ["good"] * 3
    assert loads == [4.0, 1.0]
    assert asked_at == [0, 4], "before the warm-up and the three requests of each"
    assert page.headers[0]["Authorization"] == "Bearer k3y"
    with target.database.write() as connection:
        burst_store.add_burst(connection, burst)
        (stored,) = burst_store.bursts_since(connection, "chat", "default", since=0.0, limit=9)
    assert (stored.load, dict(stored.facts)) == (1.0, dict(burst.facts))


def test_nginx_tells_the_load(build: Build, page: Page) -> None:
    """Who is being answered, less the one that asks."""
    page.text = NGINX
    assert build({"kind": "stub_status", "url": page.url}).probe("default").load == 4.0


def test_a_load_that_hangs_holds_a_burst_up_once(build: Build, page: Page) -> None:
    """By its time-out; then it is left alone, and the bursts are good without it."""
    page.silent = True
    target = build({"url": page.url, "metric": "waiting", "timeout": "100ms"})
    bursts = [target.probe("default", size=3) for _ in range(3)]
    assert [[s.outcome for s in burst.samples] for burst in bursts] == [["good"] * 3] * 3
    assert [burst.load for burst in bursts] == [None] * 3
    assert not [burst for burst in bursts if LOAD in burst.facts]
    assert len(page.headers) == 1


def test_without_the_table_nobody_is_asked(build: Build) -> None:
    """The load is not known; what went on around the burst is."""
    burst = build().probe("default", size=3)
    assert burst.load is None
    assert {SERVER_CPU, SERVER_WAIT, OWN_DELAY} <= set(burst.facts)
    assert 0 < burst.facts[SERVER_CPU] <= (os.cpu_count() or 1)


def test_a_burst_that_times_out_has_surroundings_too(build: Build, model: Model) -> None:
    """They may be the reason."""
    model.silent = True
    burst = build(timeout="100ms").probe("default", size=3)
    assert [s.outcome for s in burst.samples] == ["timeout"]
    assert SERVER_WAIT in burst.facts
