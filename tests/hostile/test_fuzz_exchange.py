"""Whatever comes back over a canary's connection: a burst with an outcome, within its deadline."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from probes.canary.burst import CanaryPlan
from probes.canary.exchange import MAX_ANSWER_BYTES
from probes.canary.http import HttpCanary
from probes.expectation import Expectation
from probes.messages import Burst, Outcome

TIMEOUT_S = 0.5
many = settings(
    max_examples=250,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@dataclass
class Liar:
    """Answers each connection with the bytes that it was given, whatever was asked, and closes it."""

    listener: socket.socket
    answer: bytes = b""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/"

    def serve(self) -> None:
        while not self.ended.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                try:
                    client.recv(65536)
                    client.sendall(self.answer)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(1)  # until the other side has closed it: else what was not read would reset it
                except OSError:
                    continue


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    liar = Liar(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=liar.serve, daemon=True)
    thread.start()
    yield liar
    liar.ended.set()
    liar.listener.shutdown(socket.SHUT_RDWR)
    liar.listener.close()
    thread.join(10)


def ask(liar: Liar, answer: bytes) -> Burst:
    """One request on a connection of its own."""
    liar.answer = answer
    canary = HttpCanary(
        target="chat",
        name="default",
        plan=CanaryPlan(interval_s=60.0, timeout_s=TIMEOUT_S, size=1, warmup=0, max_busy=1.0),
        expectation=Expectation(),
        method="POST",
        url=liar.url,
        headers={},
        body=b"{}",
        content_type="application/json",
        control_url=None,
        workers=None,
        now=time.time,
        monotonic=time.monotonic,
    )
    return canary.burst()


def check(burst: Burst) -> None:
    """An outcome and one line; what is read of the headers is short and printable."""
    (sample,) = burst.samples
    assert isinstance(sample.outcome, Outcome)
    assert sample.detail.isprintable()
    assert len(sample.detail) < 300
    assert (sample.outcome is Outcome.GOOD) == (sample.detail == "")
    assert all(value.isprintable() and len(value) <= 100 for value in burst.provenance.values())
    assert len(burst.provenance) <= 20
    assert sample.life is None or sample.life.isprintable()


STATUS = st.sampled_from(
    [b"200 OK", b"302 Found", b"100 Continue", b"101 Up", b"204 No", b"999 x", b"000 x", b"-1 x", b"2"]
)
NAMES = st.sampled_from(
    b"Content-Length Transfer-Encoding Content-Encoding Location Set-Cookie Connection Server Content-Type".split()
) | st.sampled_from([b"X-Model-Version", b"X-Watchdog-Worker", b"", b"\xff", b"A B"])
HEADER_VALUES = (
    st.binary(max_size=12)
    | st.sampled_from(b"0 5 -1 99999999999999999999 chunked gzip deflate br close http://[::1 //".split())
    | st.sampled_from([b"5, 5", b"gzip, gzip", b"a=b; expires=\xff", b"1@2;torch=\x1b[2J;x=y", b"\x1b[31mred"])
)
CONTENT = st.binary(max_size=30) | st.sampled_from(
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffff\r\n",
        b"-1\r\n",
        b"5;x=y\r\nhel",
        b"\x1f\x8b\x08\x00",
        b"x" * 5000,
        b"[1]",
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Something like HTTP, seldom right."""
    head = draw(st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"http/1.1 ", b""])) + draw(STATUS) + b"\r\n"
    headers = draw(st.lists(st.tuples(NAMES, HEADER_VALUES), max_size=4))
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return head + lines + draw(st.sampled_from([b"\r\n", b"\n", b""])) + draw(CONTENT)


@many
@given(answer=st.binary(max_size=60) | answers())
@example(answer=b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n")
@example(answer=b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; expires=\xff\r\nContent-Length: 0\r\n\r\n")
@example(answer=b"HTTP/1.1 100 Continue\r\n\r\n" * 500)
@example(answer=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nx")
@example(answer=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000)
@example(answer=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
def test_any_answer_is_a_burst(liar: Liar, answer: bytes) -> None:
    """Bytes, and HTTP that is nearly right."""
    began = time.monotonic()
    check(ask(liar, answer))
    assert time.monotonic() - began < 60, "a deadline, however loaded the machine is"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_small_answer_that_unpacks_to_much_is_too_large(liar: Liar, encoding: str) -> None:
    """A bomb is not unpacked to its end."""
    zeros = bytes(MAX_ANSWER_BYTES + 1)
    bomb = gzip.compress(zeros) if encoding == "gzip" else zlib.compress(zeros)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    assert ask(liar, head + bomb).samples[0].outcome is Outcome.ANSWER_TOO_LARGE
