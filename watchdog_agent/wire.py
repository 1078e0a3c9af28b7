"""The protocol between the daemon and its isolated worker: one JSON object a line, versioned, of a limited length.

    daemon -> worker   load, burst, profile, stop
    worker -> daemon   loaded | timed ... timed, measured | profiled, or failed in place of any of them

Each request is answered to its end before the next is sent. A line is {"v": 1, "kind": "burst", ...fields...}; NaN and
Infinity are written as Python's json writes them. A field that has a default may be missing: who does not know it yet
does not send it. This module is shared with the daemon and loads no torch.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, Dict, List, Mapping, Optional, Type, Union, get_args, get_origin, get_type_hints

PROTOCOL = 1
MAX_REQUEST_BYTES = 32 * 1024  # fits a pipe's buffer (64 KiB), so that sending to a hung worker never blocks
MAX_LINE_BYTES = 256 * 1024  # the longest real answer, 1024 values and their summary, takes about 25 KiB

MAX_INT = 2**63 - 1  # what a database and a tensor can hold

OUT_OF_MEMORY = "out_of_memory"
CUDA_FAULT = "cuda_fault"
MODEL_LOAD_FAILED = "model_load_failed"
WORKER_ERROR = "worker_error"


class WireError(ValueError):
    """What came is no message of this protocol. The text says why and never holds the whole line."""


@dataclass(frozen=True)
class Load:
    """model: a .pt2 or TorchScript file or `module:factory`; weights: a state dict for the factory's module.

    input: see `tensors.build_inputs`; device: cpu, cuda or auto; folder: what relative paths are relative to.
    """

    model: str
    input: Dict[str, Any]
    device: str
    folder: str
    weights: Optional[str] = None


@dataclass(frozen=True)
class Burst:
    """Run warmup calls and then size calls; each is answered with `timed`, then all with one `measured`.

    values: at most so many values of the last answer are returned; top_k: 0 asks for none. control: run the reference
    kernel (`kernel`) after each call.
    """

    warmup: int
    size: int
    values: int
    top_k: int = 0
    control: bool = False


@dataclass(frozen=True)
class Profile:
    steps: int


@dataclass(frozen=True)
class Stop:
    """End the process."""


@dataclass(frozen=True)
class Loaded:
    """life: pid@start_ticks, None where /proc is missing; the rest describes model, input and what runs them.

    kernel: the name of the reference kernel of this device; None when there is none.
    """

    life: Optional[str]
    model_load_s: float
    input_hash: str
    shapes: str
    dtype: str
    gpu_type: Optional[str]
    provenance: Dict[str, str]
    kernel: Optional[str] = None


@dataclass(frozen=True)
class Timed:
    """latency_s: wall time with synchronisation; device_s: between two CUDA events, None without CUDA.

    control_s: wall time of the reference kernel right after it; None when it was not asked for, or failed.
    """

    latency_s: float
    device_s: Optional[float] = None
    control_s: Optional[float] = None


@dataclass(frozen=True)
class Summary:
    """Fields of `probes.messages.Output`."""

    content_hash: str
    shape: List[int]
    finite: Optional[bool]
    count: int
    mean: Optional[float]
    std: Optional[float]
    low: Optional[float]
    high: Optional[float]
    values: List[float]
    top_k: List[int]


@dataclass(frozen=True)
class Measured:
    """output: of the last answer, None when it holds no tensor; facts: bytes of memory by name."""

    output: Optional[Summary]
    facts: Dict[str, float]


@dataclass(frozen=True)
class Op:
    """Fields of `probes.messages.OpStat`."""

    name: str
    calls_per_step: float
    self_s: float
    self_mad_s: float
    device_self_s: Optional[float] = None


@dataclass(frozen=True)
class Profiled:
    steps: int
    step_s: float
    ops: List[Op]
    environment: Dict[str, str]


@dataclass(frozen=True)
class Failed:
    """error: out_of_memory, cuda_fault, model_load_failed or worker_error; detail: one line for a person.

    After cuda_fault and model_load_failed the process must not be used again.
    """

    error: str
    detail: str


Request = Union[Load, Burst, Profile, Stop]
Answer = Union[Loaded, Timed, Measured, Profiled, Failed]
Message = Union[Request, Answer]

_KINDS: Dict[str, Type[Any]] = {kind.__name__.lower(): kind for kind in get_args(Message)}


def encode(message: Message, limit: int = MAX_LINE_BYTES) -> bytes:
    """One line with its newline. Raises WireError when it is longer than the limit or holds what JSON cannot."""
    return write_line(message, limit)


def decode(line: bytes) -> Message:
    """The message of one line. Raises WireError for anything else, another version of the protocol included."""
    message: Message = read_line(line, _KINDS)
    return message


def write_line(message: Any, limit: int) -> bytes:
    """A message of any protocol of ours: a dataclass of the types used above. Raises as `encode` does."""
    kind = type(message).__name__.lower()
    try:
        line = json.dumps({"v": PROTOCOL, "kind": kind, **asdict(message)}, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise WireError(f"cannot write {kind}: {error}") from error
    if len(line) > limit:
        raise WireError(f"{kind} takes {len(line)} bytes, at most {limit} are allowed")
    return line


def read_line(line: bytes, kinds: Mapping[str, Type[Any]]) -> Any:
    """A message of the protocol that has these kinds. Raises as `decode` does."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {line[:60]!r}") from error
    if not isinstance(content, dict) or "v" not in content:
        raise WireError(f"not a message: {line[:60]!r}")
    version, kind = content.pop("v"), content.pop("kind", None)
    if version != PROTOCOL:
        raise WireError(f"protocol {version!r:.20}, this side speaks {PROTOCOL}")
    if not isinstance(kind, str) or kind not in kinds:
        raise WireError(f"unknown kind {kind!r:.60}")
    return _read(content, kinds[kind], kind)


def _read(value: Any, hint: Any, where: str) -> Any:
    """The JSON value as that type. Only the types used above are known."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Union:  # Optional
        return None if value is None else _read(value, inner[0], where)
    if origin is list and isinstance(value, list):
        return [_read(item, inner[0], where) for item in value]
    if origin is dict and isinstance(value, dict):
        return {key: _read(item, inner[1], where) for key, item in value.items()}
    if is_dataclass(hint) and isinstance(value, dict):
        return _read_fields(value, hint, where)
    if type(value) is int and not -MAX_INT <= value <= MAX_INT:
        raise WireError(f"{where}: a number beyond 64 bits")
    if hint is float and type(value) is int:
        return float(value)
    if hint is Any or (origin is None and type(value) is hint):
        return value
    raise WireError(f"{where}: unexpected {type(value).__name__}")


def _read_fields(value: Dict[str, Any], kind: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not needed <= set(value) <= set(hints):
        raise WireError(f"{where}: fields {', '.join(sorted(value)) or 'none'}"[:200])
    return kind(**{name: _read(item, hints[name], f"{where}.{name}") for name, item in value.items()})


class Lines:
    """Cuts what a pipe delivers into lines."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._rest = b""

    @property
    def partial(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> List[bytes]:
        """The lines that are complete now, without their newlines. Raises WireError when one exceeds the limit."""
        *complete, self._rest = (self._rest + data).split(b"\n")
        if any(len(line) > self._limit for line in (*complete, self._rest)):
            raise WireError(f"a line of more than {self._limit} bytes: {(self._rest or complete[-1])[:60]!r}")
        return complete
