"""The load that a target tells: real pages, real agents, a clock that moves when told to."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from agent_stage import answer_of, client, folder, life, script, stop
from builders import Clock
from page_stage import Page, page
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from probes.canary.exchange import Question
from probes.load import (
    APART_S,
    MAX_BYTES,
    MOST,
    REST_S,
    LoadMeter,
    LoadReading,
    ask_agents,
    ask_page,
    failure,
    read_series,
    read_stub_status,
)
from probes.prometheus import Selector, SeriesFault, parse_selector, sum_series

__all__ = ["folder", "page"]  # fixtures

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 7.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 50.0
"""
TRITON = """\
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{model="a",version="1"} 1500
nv_inference_queue_duration_us{model="b",version="1"} 2500
"""
NGINX = "Active connections: 291 \nserver accepts handled requests\n 16630948 16630948 31070465 \n"
NGINX += "Reading: 6 Writing: 179 Waiting: 106 \n"


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "selector", "found"),
    [
        (VLLM, "vllm:num_requests_waiting", 5.0),
        (VLLM, 'vllm:num_requests_waiting{engine="1"}', 2.0),
        (VLLM, 'vllm:num_requests_waiting{model_name="m",engine="0"}', 3.0),
        (VLLM, 'vllm:num_requests_waiting{engine="2"}', SeriesFault.ABSENT),
        (VLLM, "vllm:num_requests", SeriesFault.ABSENT),
        (VLLM, "num_requests_waiting", SeriesFault.ABSENT),
        ("", "x", SeriesFault.ABSENT),
        (TRITON, "nv_inference_queue_duration_us", SeriesFault.COUNTER),
        ("# TYPE x histogram\nx_sum 1\nx_count 1\n", "x_sum", SeriesFault.COUNTER),
        ("x 1\nx 2.5e1 1700000000000\n\tx  4 \r\n", "x", 30.0),
        ("x 0\n", "x", 0.0),
        ('x{} 1\nx{a="b",} 2\nx { a = "c" , d="" } 3\n', "x", 6.0),
        ('x{a="}\\" 9 x{"} 1\n', "x", 1.0),
        ('x{a="\\\\n\\n\\""} 1\nx{a="n"} 2\n', 'x{a="\\\\n\\n\\""}', 1.0),
        ("x NaN\n", "x", SeriesFault.NO_NUMBER),
        ("x 1\nx +Inf\n", "x", SeriesFault.NO_NUMBER),
        ("x 1e308\nx 1e308\n", "x", SeriesFault.NO_NUMBER),
        ("x 1_000\n", "x", SeriesFault.NO_NUMBER),
        ("x\n", "x", SeriesFault.UNREADABLE),
        ("x 1 2 3\n", "x", SeriesFault.UNREADABLE),
        ('x{a="b} 1\n', "x", SeriesFault.UNREADABLE),
        ("x{a=b} 1\nx 2\n", "x", SeriesFault.UNREADABLE),
        ("x 1\n" * 5001, "x", SeriesFault.TOO_MANY),
        ("<html>x</html>", "x", SeriesFault.ABSENT),
    ],
)
def test_a_selector_sums_the_series_that_match(page: str, selector: str, found: float | SeriesFault) -> None:
    """Exactly this metric, whatever other labels it has; what cannot be read is said and never a smaller sum."""
    assert sum_series(page, parse_selector(selector), counter=False) == found


@pytest.mark.parametrize(
    "text", ["", "1x", "x y", "sum(x)", "x{", 'x{a="b"', "x{a=b}", 'x{a="b"}}', 'x{a="b"c="d"}', "x\n"]
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    """In the words of the configuration; white space around it is not part of it."""
    if text == "x\n":
        assert parse_selector(text) == Selector(name="x")
        return
    with pytest.raises(ValueError, match="must be the name of a metric"):
        parse_selector(text)


def test_what_prometheus_own_client_writes_is_read() -> None:
    """With labels that hold everything."""
    registry = CollectorRegistry()
    gauge = Gauge("waiting", "It says\n# TYPE waiting counter", ["model"], registry=registry)
    odd = 'a"b\\n\n}, {x="1"} 5 é'
    gauge.labels(odd).set(4)
    gauge.labels("other").set(1.5)
    counter = Counter("queue_us", "", ["model"], registry=registry)
    counter.labels(odd).inc(7)
    page = generate_latest(registry).decode()
    assert sum_series(page, parse_selector("waiting"), counter=False) == 5.5
    assert sum_series(page, Selector(name="waiting", labels=frozenset({("model", odd)})), counter=False) == 4.0
    assert sum_series(page, parse_selector("queue_us_total"), counter=True) == 7.0
    assert sum_series(page, parse_selector("queue_us_total"), counter=False) is SeriesFault.COUNTER


@pytest.mark.parametrize(
    ("page", "value"),
    [
        (NGINX, 184.0),
        (NGINX.replace("\n", "\r\n"), 184.0),
        (NGINX.replace("Reading: 6 Writing: 179", "Reading: 0 Writing: 1"), 0.0),
        (NGINX.replace("Reading: 6 Writing: 179", "Reading: 0 Writing: 0"), 0.0),
        (NGINX.replace("179", "-179"), None),
        (NGINX + "more", None),
        ("", None),
        ("Active connections: 291", None),
    ],
)
def test_stub_status_tells_who_is_being_answered(page: str, value: float | None) -> None:
    """Less the one that asked; idle connections that are kept open are no load."""
    reading = read_stub_status(page)
    assert reading.value == value
    assert reading.failed == (value is None)


# --- the meter --------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """Says what it is told to, and counts how often it was asked."""

    says: LoadReading = field(default_factory=lambda: LoadReading(value=3.0))
    asked: int = 0

    def __call__(self) -> LoadReading:
        self.asked += 1
        return self.says


def test_who_failed_is_left_alone_for_a_while() -> None:
    """What failed is said all the time; after the rest it is asked again, and each burst from then on."""
    source, clock = Source(failure("status 404, expected 200")), Clock()
    meter = LoadMeter(source, monotonic=clock)
    for _ in range(5):
        assert meter.read() == failure("status 404, expected 200")
        clock.at += REST_S / 5 - 0.1
    assert source.asked == 1
    source.says = LoadReading(value=2.0)
    clock.at += 1.0
    assert [meter.read().value for _ in range(3)] == [2.0] * 3
    assert source.asked == 4


@pytest.mark.parametrize("value", [-1.0, MOST * 1.1])
def test_what_cannot_be_a_load_is_none(value: float) -> None:
    """It is said, and counts as a failure."""
    reading = LoadMeter(Source(LoadReading(value=value))).read()
    assert reading.value is None
    assert reading.failed
    assert "is no load" in reading.why


def test_a_counter_is_turned_into_its_increase_per_second() -> None:
    """The first tells nothing; a server that starts anew begins again; readings close together share one rate."""
    source, clock = Source(), Clock()
    meter = LoadMeter(source, rate=True, monotonic=clock)
    seen = []
    for after_s, count in ((0, 100), (10, 150), (APART_S / 2, 151), (10 - APART_S / 2, 170), (10, 5), (10, 105)):
        clock.at += after_s
        source.says = LoadReading(value=float(count))
        seen.append(meter.read())
    assert [reading.value for reading in seen] == [None, 5.0, 5.0, 2.0, None, 10.0]
    assert not any(reading.failed for reading in seen)
    assert source.asked == 6, "an unknown rate is no failure"


# --- over HTTP --------------------------------------------------------------------------------------------------------


WAITING: Callable[[str], LoadReading] = partial(
    read_series, selector=parse_selector("vllm:num_requests_waiting"), rate=False
)


def ask(url: str, *, timeout_s: float = 5.0, ssl_context: ssl.SSLContext | None = None) -> LoadReading:
    question = Question(method="GET", url=url, headers={"Authorization": "Bearer k3y"})
    return ask_page(question, WAITING, timeout_s=timeout_s, ssl_context=ssl_context)


def test_a_page_is_fetched_with_its_headers(page: Page) -> None:
    """One request, on a connection of its own."""
    page.text = VLLM
    assert ask(page.url) == LoadReading(value=5.0)
    (sent,) = page.headers
    assert sent["Authorization"] == "Bearer k3y"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": 404}, "status 404, expected 200"),
        ({"status": 302}, "status 302, expected 200"),
        (
            {"text": "vllm:num_requests_waiting many"},
            "vllm:num_requests_waiting: one of its series is not a finite number",
        ),
        ({"text": ""}, "vllm:num_requests_waiting: the page has no such series"),
        ({"text": "x 1\n" * (MAX_BYTES // 4 + 1)}, f"answer_too_large: more than {MAX_BYTES} bytes"),
    ],
)
def test_a_page_that_is_no_good_says_why(page: Page, change: dict[str, object], why: str) -> None:
    """In one line that quotes nothing of it."""
    for name, value in change.items():
        setattr(page, name, value)
    assert ask(page.url) == failure(why)


def test_a_page_that_hangs_or_is_not_there_is_a_failure(page: Page) -> None:
    """Within the time-out, which is told."""
    page.silent = True
    assert ask(page.url, timeout_s=0.2) == failure("timeout: no complete answer within 0.2 s: no answer began")
    assert ask("http://127.0.0.1:1/") == failure("refused: connection refused")


# --- agents -----------------------------------------------------------------------------------------------------------

COUNTING = """
import sys
from watchdog_agent.attach import attach
from watchdog_agent.ledger import LEDGER
attach(folder=sys.argv[1])
LEDGER.counting = sys.argv[2] != "none"
for _ in range(int(sys.argv[2]) if LEDGER.counting else 0):
    LEDGER.begin()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("counts", "value", "why"),
    [
        (("3", "2"), 5.0, ""),
        (("0",), 0.0, ""),
        (("3", "none"), None, "it counts no requests; is its middleware in use?"),
        ((), None, "no worker is found"),
    ],
)
def test_agents_of_all_workers_are_added_up(
    folder: Path, counts: tuple[str, ...], value: float | None, why: str
) -> None:
    """In flight, which is what they have begun and not ended; one that does not count leaves the sum unknown."""
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(script(COUNTING, str(folder), count)).pid for count in counts]
        lives = [life(pid) for pid in pids]
        for each in lives:
            answer_of(folder, each)
        reading = ask_agents(client(folder), lambda: lives, timeout_s=5.0)
        assert (reading.value, reading.failed) == (value, value is None)
        assert reading.why.endswith(why)


def test_a_worker_that_hangs_leaves_the_load_unknown(folder: Path) -> None:
    """Within the time-out of the load, which may be shorter than the agents' own."""
    with script(COUNTING, str(folder), "3") as worker:
        answer_of(folder, life(worker.pid))
        stop(worker.pid)
        reading = ask_agents(client(folder, timeout_s=math.inf), lambda: [life(worker.pid)], timeout_s=0.2)
        assert reading == failure(f"agent of {worker.pid}: the agent does not answer in time")
