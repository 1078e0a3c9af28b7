"""What a target says of its own load, asked right before a burst: how many requests it has in progress or waiting.

It must neither hold a burst up nor spoil it: there is one short time-out, whoever failed is left alone for a while, and
what a stranger answers is a number or a reason, never an exception.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from probes.agent import AgentClient
from probes.canary.exchange import Connection, Question
from probes.messages import Life
from probes.prometheus import Selector, SeriesFault, sum_series

REST_S = 60.0  # without asking, after a failure
APART_S = 1.0  # the least between two readings of a counter; of canaries that run closer together the later one reuses
MAX_BYTES = 2 * 1024 * 1024  # of a page; vLLM's has 0.1 MB
MOST = 1e9  # as in a recording: beyond, it is no load

_STUB_STATUS = re.compile(  # https://nginx.org/en/docs/http/ngx_http_stub_status_module.html
    r"Active connections: [0-9]{1,9} *\n"
    r"server accepts handled requests *\n(?: [0-9]{1,20}){3} *\n"
    r"Reading: ([0-9]{1,9}) Writing: ([0-9]{1,9}) Waiting: [0-9]{1,9} *\n?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReading:
    """value: None when it is not known; why then says it, in one line for a person.

    failed: it was asked for and did not come; False for a rate, which takes a second reading.
    """

    value: float | None = None
    why: str = ""
    failed: bool = False


Ask = Callable[[], LoadReading]


class LoadMeter:
    """The load of one target. Any thread may ask; nothing here raises.

    ask: takes the reading, within a time-out of its own. rate: what it reads is a counter, of which the increase per
    second counts; a counter that went back (its server started anew) begins again.
    """

    def __init__(self, ask: Ask, *, rate: bool = False, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._is_rate = rate
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._resting: tuple[float, LoadReading] | None = None  # until when, and what had failed
        self._counted: tuple[float, float] | None = None  # when, and how much
        self._rate: float | None = None

    def read(self) -> LoadReading:
        """The load now; while it is left alone, what failed."""
        with self._lock:
            if self._resting is not None and self._monotonic() < self._resting[0]:
                return self._resting[1]
        came = self._ask()
        with self._lock:
            if self._is_rate and came.value is not None:
                came = self._rated(came.value)
            if came.value is not None and not 0 <= came.value <= MOST:
                came = failure(f"{came.value:g} is no load: it must be from 0 to {MOST:g}")
            self._resting = (self._monotonic() + REST_S, came) if came.failed else None
        return came

    def _rated(self, count: float) -> LoadReading:
        now, before = self._monotonic(), self._counted
        if before is None or now - before[0] >= APART_S or count < before[1]:
            self._counted = now, count
            fresh = before is not None and count >= before[1]
            self._rate = (count - before[1]) / (now - before[0]) if before is not None and fresh else None
        return LoadReading(value=self._rate, why="" if self._rate is not None else "its rate takes a second reading")


def failure(why: str) -> LoadReading:
    """It was asked for and did not come."""
    return LoadReading(why=why, failed=True)


def ask_page(
    question: Question,
    read: Callable[[str], LoadReading],
    *,
    timeout_s: float,
    ssl_context: ssl.SSLContext | None,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> LoadReading:
    """Fetch a page, on a connection of its own, and read it."""
    with Connection(
        timeout_s=timeout_s, ssl_context=ssl_context, now=now, monotonic=monotonic, max_answer_bytes=MAX_BYTES
    ) as connection:
        came = connection.ask(question)
    if came.failure is not None:
        return failure(f"{came.failure[0]}: {came.failure[1]}")
    if came.status != 200:
        return failure(f"status {came.status}, expected 200")
    return read(came.body.decode(errors="replace"))


def read_series(page: str, selector: Selector, *, rate: bool) -> LoadReading:
    """From Prometheus' text format."""
    found = sum_series(page, selector, counter=rate)
    return failure(f"{selector.name}: {found}") if isinstance(found, SeriesFault) else LoadReading(value=found)


def read_stub_status(page: str) -> LoadReading:
    """From nginx: the connections that it reads from or answers, less the one that asked."""
    found = _STUB_STATUS.fullmatch(page.replace("\r\n", "\n"))
    if found is None:
        return failure("the answer is not that of nginx' stub_status")
    return LoadReading(value=max(0.0, float(int(found[1]) + int(found[2]) - 1)))


def ask_agents(agents: AgentClient, known: Callable[[], Collection[Life]], *, timeout_s: float) -> LoadReading:
    """The requests in flight in all workers, as their agents count them; one that is silent leaves it unknown."""
    lives = known()
    if not lives:
        return failure("no worker is found")
    total = 0
    for life, reading in agents.ask(lives, timeout_s=timeout_s).items():
        if reading.report is None:
            return failure(f"agent of {life.pid}: {reading.detail}")
        if reading.report.in_flight is None:
            return failure(f"agent of {life.pid}: it counts no requests; is its middleware in use?")
        total += reading.report.in_flight
    return LoadReading(value=float(total))
