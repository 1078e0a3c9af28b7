"""Hostile bytes for the agent's socket and port, in a real process: it answers the next honest question as ever."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from agent_stage import TOKEN, script, wait_for
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from probes.agent import AgentClient, AgentSpec
from probes.messages import Life
from probes.process import life_of
from watchdog_agent import agent_wire, wire
from watchdog_agent.talk import TALK_S

many = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
AGENT = """
import os, sys, time
from watchdog_agent.attach import attach
kind, where = sys.argv[1:]
agent = attach(folder=where) if kind == "folder" else attach(port=int(where), token="{token}")
while agent.address is None: time.sleep(0.01)
print("ready", flush=True)
print(agent.address, flush=True)
sys.stdin.read()
"""
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
QUESTION = st.dictionaries(st.sampled_from(["v", "kind", "why", "life"]), ODD).map(lambda c: json.dumps(c).encode())


@dataclass(frozen=True)
class Agent:
    life: Life
    address: str
    client: AgentClient

    def send(self, data: bytes) -> bytes:
        """What comes back once we have said all and closed our side."""
        path, port = self.address, self.address.rpartition(":")[2]
        family = socket.AF_UNIX if path.startswith("/") else socket.AF_INET
        with socket.socket(family) as line:
            line.settimeout(10)
            line.connect(path if family == socket.AF_UNIX else ("127.0.0.1", int(port)))
            came = b""
            try:
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
                while part := line.recv(65536):
                    came += part
            except OSError:  # it closed the connection on us
                return came
            return came

    def is_well(self) -> bool:
        return self.client.ask([self.life])[self.life].report is not None


@pytest.fixture(scope="module", params=["folder", "port"])
def agent(request: pytest.FixtureRequest) -> Iterator[Agent]:
    port = 20_000 + os.getpid() % 10_000  # sixteen from here on are asked: none that the kernel gives to others
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        where = folder if request.param == "folder" else str(port)
        with script(AGENT.format(token=TOKEN), request.param, where) as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            spec = AgentSpec(folder=Path(folder), timeout_s=20.0)
            if request.param == "port":
                spec = AgentSpec(port=port, token=TOKEN, timeout_s=20.0)
            life = life_of(process.pid)
            assert life is not None
            found = Agent(life, address, AgentClient(spec, monotonic=time.monotonic))
            wait_for(found.is_well, "it answers")
            yield found


@many
@given(st.binary(max_size=400) | QUESTION.map(lambda q: q + b"\n"))
@example(b"\n")
@example(b"x" * 100_000)
@example(b'{"v":1,"kind":"ask"}\n' * 1000)
@example(b"[" * 4000 + b"\n")
def test_any_bytes_are_answered_or_not(agent: Agent, data: bytes) -> None:
    """With a refusal that shows no more than a piece of them; and the next question is answered as ever."""
    came = agent.send(data)
    assert len(came) < 4096
    assert agent.is_well()


@many
@given(
    method=st.sampled_from([b"POST", b"GET", b"\x00"]),
    headers=st.dictionaries(
        st.sampled_from([b"Content-Length", b"Authorization", b"Transfer-Encoding", b"X"]),
        st.sampled_from([b"21", b"-1", b"99999", b"1e3", b"Bearer ", b"Bearer " + TOKEN.encode(), b"chunked", b"\xff"]),
        max_size=4,
    ),
    body=st.binary(max_size=100) | QUESTION,
)
def test_any_request_is_answered_or_not(agent: Agent, method: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
    """Without the token it says nothing of the process, whatever else is right."""
    lines = b"".join(b"%s: %s\r\n" % pair for pair in headers.items())
    came = agent.send(method + b" / HTTP/1.1\r\n" + lines + b"\r\n" + body)
    if headers.get(b"Authorization") != b"Bearer " + TOKEN.encode():
        assert agent.life.key.encode() not in came
    assert agent.is_well()


@pytest.mark.parametrize("begun", [b"", b"P"], ids=["nothing", "a piece"])
def test_who_does_not_say_all_keeps_nobody_waiting(agent: Agent, begun: bytes) -> None:
    """However many of them there are; each has two seconds for its question."""
    address = agent.address.rpartition(":")[2]
    family = socket.AF_UNIX if agent.address.startswith("/") else socket.AF_INET
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.socket(family)) for _ in range(40)]
        for line in silent:
            line.settimeout(20)
            began = time.monotonic()
            line.connect(agent.address if family == socket.AF_UNIX else ("127.0.0.1", int(address)))
            line.sendall(begun)
            assert agent.is_well()
            line.settimeout(0)
            try:
                assert (line.recv(1), time.monotonic() - began > TALK_S) == (b"", True)
            except BlockingIOError:
                continue  # that was answered while this one was still listened to
        for line in silent:
            line.settimeout(20)
            assert line.recv(1) == b""


@settings(max_examples=300)
@given(st.binary(max_size=200) | QUESTION)
def test_any_line_is_a_question_or_a_wire_error(line: bytes) -> None:
    """Of these two kinds alone."""
    try:
        question = agent_wire.decode_question(line)
    except wire.WireError as error:
        assert len(str(error)) < 400  # noqa: PT017  (either end is fine)
        return
    assert isinstance(question, get_args(agent_wire.Question))
