"""The protocol between the daemon and the agent inside a serving process: one question and one answer a connection.

    daemon -> agent    ask | trim | runkernel
    agent -> daemon    report | trimmed | ran, or refused in place of any of them

Lines are those of `wire`: one JSON object, versioned, of a limited length. An agent refuses a question that it does not
know, so that a new one costs older agents nothing. Over a Unix socket a line is sent as it is;
over HTTP it is the body of a POST. None means "not known", never zero. Bytes are of this process, and on GPUs of all of
them together. This module is shared with the daemon and loads no torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Type, Union, get_args

from watchdog_agent import wire

MAX_QUESTION_BYTES = 4 * 1024  # a question takes 30 bytes
MAX_ANSWER_BYTES = 16 * 1024  # the longest real answer takes about 1 KiB
PORTS = 16  # workers of one server cannot share a port: each takes the first that is free from the given one on


@dataclass(frozen=True)
class Ask:
    """How do you stand?"""


@dataclass(frozen=True)
class Trim:
    """Give back what memory you can, and say after each step what came of it."""


@dataclass(frozen=True)
class RunKernel:
    """Run the reference kernel (`kernel`) once, now."""


@dataclass(frozen=True)
class Report:
    """life: pid@start_ticks as the process sees itself. versions: of python, torch, cuda and the like, by name.

    version: of what is served, as the host said. model_load_s: as the host said, or measured with `loading`.
    requests, in_flight: begun in this life and not ended yet; None when nothing counts them. shapes: different shapes
    of input, beyond 1024 an estimate that never goes back; None when none is looked at. recompiles: of torch.compile,
    for whatever reason.
    The rest: fields of `probes.messages.MemorySample`; active_bytes: allocated, and freed but still waited for.
    """

    life: Optional[str]
    version: Optional[str]
    versions: Dict[str, str]
    model_load_s: Optional[float]
    requests: Optional[int]
    in_flight: Optional[int]
    shapes: Optional[int]
    recompiles: Optional[int]
    host_anon_bytes: Optional[int]
    allocated_bytes: Optional[int]
    reserved_bytes: Optional[int]
    active_bytes: Optional[int]
    inactive_split_bytes: Optional[int]
    private_pool_bytes: Optional[int]
    alloc_retries: Optional[int]
    ooms: Optional[int]


@dataclass(frozen=True)
class Held:
    """What the process holds at one moment; allocated and reserved are None while CUDA is not initialised."""

    host_anon_bytes: Optional[int]
    allocated_bytes: Optional[int]
    reserved_bytes: Optional[int]


@dataclass(frozen=True)
class Step:
    """name: gc, empty_cache or malloc_trim. ran: False when it does not exist here; detail then says why."""

    name: str
    ran: bool
    detail: str
    took_s: float
    before: Held
    after: Held


@dataclass(frozen=True)
class Trimmed:
    """Each step in the order in which it was taken."""

    life: Optional[str]
    steps: List[Step]


@dataclass(frozen=True)
class Ran:
    """kernel: its name (`kernel.kernel_name`). took_s: by the process's own clock, without the way here and back."""

    life: Optional[str]
    kernel: str
    took_s: float


@dataclass(frozen=True)
class Refused:
    """why: one line for a person."""

    why: str


def default_folder() -> str:
    """$WATCHDOG_AGENT_DIR; else a folder of this user's alone: below $XDG_RUNTIME_DIR, or in /tmp."""
    given = os.environ.get("WATCHDOG_AGENT_DIR")
    if given:
        return given
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(runtime, "inference-watchdog")  # noqa: PTH118 - no pathlib inside a server
    return f"/tmp/inference-watchdog-{os.getuid()}"  # noqa: S108 - the agent refuses it when it is not its own


Question = Union[Ask, Trim, RunKernel]
Answer = Union[Report, Trimmed, Ran, Refused]

_QUESTIONS: Dict[str, Type[Any]] = {kind.__name__.lower(): kind for kind in get_args(Question)}
_ANSWERS: Dict[str, Type[Any]] = {kind.__name__.lower(): kind for kind in get_args(Answer)}


def encode_question(question: Question) -> bytes:
    """One line with its newline."""
    return wire.write_line(question, MAX_QUESTION_BYTES)


def decode_question(line: bytes) -> Question:
    """Raises wire.WireError for anything else, an answer and another version of the protocol included."""
    question: Question = wire.read_line(line, _QUESTIONS)
    return question


def encode_answer(answer: Answer) -> bytes:
    """One line with its newline. Raises wire.WireError when it is too long."""
    return wire.write_line(answer, MAX_ANSWER_BYTES)


def decode_answer(line: bytes) -> Answer:
    """Raises wire.WireError for anything else."""
    answer: Answer = wire.read_line(line, _ANSWERS)
    return answer
