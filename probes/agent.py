"""Asks the agents inside a target's workers how they stand, and lets them trim memory or run a reference kernel.

An agent is part of the process that is watched: it may hang with it, and what it says is checked before it is believed.
Whoever answers on a Unix socket is told by the kernel (SO_PEERCRED); over loopback HTTP the token must do.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from probes.calls import Call, CallFault, ask_all
from probes.host import Host
from probes.messages import Life, MemorySample
from probes.reading import AgentFault, Reading, missing, read_answer, with_reading
from watchdog_agent import agent_wire
from watchdog_agent.agent_wire import PORTS, Ask, Question, RunKernel, Trim

REST_S = 60.0  # an agent that hung is left alone for so long: its process hangs, and asking is no cure
TRIM_S = 30.0
_RESTING = Reading(fault=AgentFault.SILENT, detail="it hung within the last minute")
MAX_BYTES = agent_wire.MAX_ANSWER_BYTES + 4096  # with the head of an HTTP answer


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """Where a target's agents are asked: in a folder, or at a port with its token; else ValueError.

    folder: `{pid}` in it stands for the worker's pid, as in /proc/{pid}/root/run/watchdog for workers in containers.
    timeout_s: for all workers of the target together.
    """

    folder: Path | None = None
    port: int | None = None
    token: str | None = None
    timeout_s: float = 1.0

    @classmethod
    def by_default(cls, *, timeout_s: float = 1.0) -> AgentSpec:
        """Where an agent of this user opens its socket when it is told nothing."""
        return cls(folder=Path(agent_wire.default_folder()), timeout_s=timeout_s)

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.port is None) or (self.port is None) != (self.token is None):
            raise ValueError("either a folder, or a port with its token is needed")


class AgentClient:
    """The agents of one target. May be used by several threads. Nothing here raises, whatever an agent does."""

    def __init__(self, spec: AgentSpec, *, monotonic: Callable[[], float], host: Host | None = None) -> None:
        self._spec = spec
        self._monotonic = monotonic
        self._host = host or Host()
        self._lock = threading.Lock()
        self._resting: dict[str | int, float] = {}  # until when, by path or port
        self._ports: dict[Life, int] = {}
        self._requests: dict[Life, int] = {}

    def complete(self, samples: Sequence[MemorySample], workers: Mapping[int, Life]) -> list[MemorySample]:
        """The samples with what the agents say of their workers; one whose agent is at fault keeps what it had."""
        readings = self.ask([workers[s.slot] for s in samples])
        return [with_reading(s, readings[workers[s.slot]]) for s in samples]

    def ask(self, lives: Collection[Life], *, timeout_s: float | None = None) -> dict[Life, Reading]:
        """How each worker stands; all are asked at once, within timeout_s (None: the usual one)."""
        readings = self._put(Ask(), lives, timeout_s=timeout_s or self._spec.timeout_s, rest=True)
        with self._lock:
            self._requests = {life: count for life, count in self._requests.items() if life in readings}
            for life, reading in readings.items():
                if reading.report is not None and (count := reading.report.requests) is not None:
                    if count < self._requests.get(life, 0):
                        readings[life] = Reading(fault=AgentFault.IMPLAUSIBLE, detail="requests went back")
                    self._requests[life] = count
        return readings

    def trim(self, life: Life) -> Reading:
        """Have one worker give memory back; within TRIM_S. It is asked even if it hung a moment ago."""
        self._learn_port(life, rest=False)
        return self._put(Trim(), [life], timeout_s=TRIM_S, rest=False)[life]

    def run_kernel(self, life: Life) -> Reading:
        """Have one worker run the reference kernel; within timeout_s. One that hung a moment ago is not asked."""
        self._learn_port(life, rest=True)
        began = self._monotonic()
        reading = self._put(RunKernel(), [life], timeout_s=self._spec.timeout_s, rest=True)[life]
        waited_s = self._monotonic() - began
        if reading.ran is not None and reading.ran.took_s > waited_s:
            return Reading(fault=AgentFault.IMPLAUSIBLE, detail=f"took_s is {reading.ran.took_s}, in {waited_s:.3g} s")
        return reading

    def kernel_s(self, life: Life) -> float | None:
        """The seconds of `run_kernel`; None where there are none, for whatever reason."""
        ran = self.run_kernel(life).ran
        return None if ran is None else ran.took_s

    def _learn_port(self, life: Life, *, rest: bool) -> None:
        if self._spec.port is not None and life not in self._ports:
            self._put(Ask(), [life], timeout_s=self._spec.timeout_s, rest=rest)

    def _put(self, question: Question, lives: Collection[Life], *, timeout_s: float, rest: bool) -> dict[Life, Reading]:
        names = {life: self._names(life) for life in lives}
        if self._spec.port is not None:
            return self._by_port(question, names, timeout_s=timeout_s, rest=rest)
        calls, places = {}, {life: self._place(life, names[life]) for life in lives}
        for life, path in places.items():
            if path is not None and not (rest and self._rests(path)):
                calls[life] = Call(
                    address=path, question=agent_wire.encode_question(question), admit=partial(_is, life)
                )
        came = ask_all(calls, timeout_s=timeout_s, max_bytes=MAX_BYTES, monotonic=self._monotonic)
        readings = {}
        for life, path in places.items():
            if path is None:
                readings[life] = missing(AgentFault.ABSENT)
            elif life not in came:
                readings[life] = _RESTING
            else:
                readings[life] = read_answer(came[life], names[life])
                self._note_rest(path, readings[life])
        return readings

    def _by_port(
        self, question: Question, names: Mapping[Life, frozenset[str]], *, timeout_s: float, rest: bool
    ) -> dict[Life, Reading]:
        """Which worker has which port is known only from what it says: all are asked, but to act the one it has."""
        assert self._spec.port is not None
        with self._lock:
            known = dict(self._ports)
        ports = list(range(self._spec.port, min(self._spec.port + PORTS, 65536)))
        if not isinstance(question, Ask):
            ports = [known[life] for life in names if life in known]
        asked = _as_http(agent_wire.encode_question(question), self._spec.token or "")
        calls = {
            port: Call(address=("127.0.0.1", port), question=asked)
            for port in ports
            if not (rest and self._rests(port))
        }
        came = ask_all(calls, timeout_s=timeout_s, max_bytes=MAX_BYTES, monotonic=self._monotonic)
        found: dict[Life, Reading] = {}
        faults: dict[int, Reading] = {}
        for port, answer in came.items():
            reading = read_answer(answer if isinstance(answer, CallFault) else _from_http(answer), None)
            self._note_rest(port, reading)
            said = reading.report or reading.trimmed or reading.ran
            life = next((each for each, own in names.items() if said is not None and said.life in own), None)
            if life is not None:
                found[life] = reading
                with self._lock:
                    self._ports[life] = port
            elif reading.fault not in (None, AgentFault.ABSENT):
                faults[port] = reading
        resting = [_RESTING] * (len(calls) < len(ports))
        doubt = next(iter([*faults.values(), *resting]), None)
        absent = missing(AgentFault.ABSENT)
        own = {life: faults.get(known[life]) for life in names if life in known}
        return {life: found.get(life) or own.get(life) or doubt or absent for life in names}

    def _names(self, life: Life) -> frozenset[str]:
        """What the worker may call itself: its pid differs inside a container, its start does not."""
        pids = {life.pid, *self._host.namespace_pids(life.pid)}
        return frozenset(f"{pid}@{life.start_ticks}" for pid in pids)

    def _place(self, life: Life, names: Collection[str]) -> str | None:
        folder = Path(str(self._spec.folder).replace("{pid}", str(life.pid)))
        try:
            return next((str(path) for name in sorted(names) if (path := folder / f"{name}.sock").exists()), None)
        except OSError:  # a folder we may not enter
            return str(folder / f"{life.key}.sock")

    def _rests(self, place: str | int) -> bool:
        with self._lock:
            return self._monotonic() < self._resting.get(place, -math.inf)

    def _note_rest(self, place: str | int, reading: Reading) -> None:
        now = self._monotonic()
        with self._lock:
            self._resting = {where: until for where, until in self._resting.items() if until > now}
            if reading.fault is AgentFault.SILENT:
                self._resting[place] = now + REST_S


def _is(life: Life, line: socket.socket) -> bool:
    """Whether that very process opened the socket."""
    pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(pid == life.pid)


def _from_http(answer: bytes) -> bytes | CallFault:
    head, _, body = answer.partition(b"\r\n\r\n")
    return CallFault.FORBIDDEN if head.startswith(b"HTTP/1.1 401 ") else body


def _as_http(line: bytes, token: str) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(line)}\r\n\r\n"
    return head.encode() + line
