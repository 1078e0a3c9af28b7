"""Everything that leaves this package: frozen values, no handles, no responses, no tensors.

Times are Unix seconds (`at`), durations are seconds (`_s`), memory is bytes (`_bytes`).
None means "not known" or "did not happen", never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus

from probes.facts import LOAD


class Family(StrEnum):
    """What an outcome says about the target, which decides the check that judges it."""

    GOOD = "good"
    BUSY = "busy"  # the server said so itself (429, 503): alive, not broken
    UNAVAILABLE = "unavailable"  # no completed answer
    WRONG = "wrong"  # a completed answer that fails the checks on its content
    FAULT = "fault"  # the model's process or device failed: out of memory, CUDA error, crash


class Outcome(StrEnum):
    """How one canary request ended. The value is the metric label, the log field and the word in a message."""

    GOOD = "good"
    # no completed answer
    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"  # name not resolved, no route
    CONNECTION_LOST = "connection_lost"
    TLS_FAILED = "tls_failed"
    PROTOCOL_ERROR = "protocol_error"
    ANSWER_TOO_LARGE = "answer_too_large"
    # the server says it is busy
    OVERLOADED_429 = "overloaded_429"
    OVERLOADED_503 = "overloaded_503"
    # a status that was not expected; only these are told apart so that metric labels stay bounded
    STATUS_400 = "status_400"
    STATUS_401 = "status_401"
    STATUS_403 = "status_403"
    STATUS_404 = "status_404"
    STATUS_405 = "status_405"
    STATUS_413 = "status_413"
    STATUS_415 = "status_415"
    STATUS_422 = "status_422"
    STATUS_500 = "status_500"
    STATUS_501 = "status_501"
    STATUS_502 = "status_502"
    STATUS_504 = "status_504"
    STATUS_OTHER = "status_other"
    # the answer came and is wrong
    NOT_JSON = "not_json"
    MISSING_FIELD = "missing_field"
    NOT_NUMERIC = "not_numeric"
    WRONG_TEXT = "wrong_text"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    DRIFTED = "drifted"
    WRONG_TOP_K = "wrong_top_k"
    # the isolated worker
    WORKER_CRASHED = "worker_crashed"
    WORKER_ERROR = "worker_error"
    MODEL_LOAD_FAILED = "model_load_failed"
    OUT_OF_MEMORY = "out_of_memory"
    CUDA_FAULT = "cuda_fault"

    @property
    def family(self) -> Family:
        return _FAMILIES[self]


_FAMILIES: Mapping[Outcome, Family] = {
    **dict.fromkeys(Outcome, Family.UNAVAILABLE),
    Outcome.GOOD: Family.GOOD,
    Outcome.OVERLOADED_429: Family.BUSY,
    Outcome.OVERLOADED_503: Family.BUSY,
    **dict.fromkeys(
        (
            Outcome.NOT_JSON,
            Outcome.MISSING_FIELD,
            Outcome.NOT_NUMERIC,
            Outcome.WRONG_TEXT,
            Outcome.WRONG_SHAPE,
            Outcome.NOT_FINITE,
            Outcome.DRIFTED,
            Outcome.WRONG_TOP_K,
        ),
        Family.WRONG,
    ),
    **dict.fromkeys(
        (
            Outcome.WORKER_CRASHED,
            Outcome.WORKER_ERROR,
            Outcome.MODEL_LOAD_FAILED,
            Outcome.OUT_OF_MEMORY,
            Outcome.CUDA_FAULT,
        ),
        Family.FAULT,
    ),
}


def outcome_of_status(status: int) -> Outcome:
    """The outcome of an HTTP status that was not the expected one.

    429 and 503 are the server's own "busy"; 502 and 504 come from a proxy whose backend is gone and are never busy.
    """
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return Outcome(f"overloaded_{status}")
    try:
        return Outcome(f"status_{status}")
    except ValueError:
        return Outcome.STATUS_OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One canary request.

    latency_s: first byte sent to last byte received, connecting not included; None when no answer was completed.
    first_byte_s: first byte sent to the first byte of the body; None likewise, or when the answer has no body.
    connect_s: TCP (and TLS) set-up; None on a reused connection.
    control_s: the control request that ran right beside this one; None without a control or when it failed.
    life: which worker answered (`Life.key`); None when it could not be told.
    tainted: the watchdog's own delay may be in latency_s; such a sample is stored and left out of judgement.
    detail: one line for a person; never the answer itself.
    """

    at: float
    outcome: Outcome
    latency_s: float | None = None
    first_byte_s: float | None = None
    connect_s: float | None = None
    control_s: float | None = None
    life: str | None = None
    tainted: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is kept of an answer: a hash, its shape and summary numbers.

    values: at most `expectation.MAX_GOLDEN_VALUES` evenly spaced values, kept only where this is a golden output.
    finite, mean, std, low, high: None when the answer holds no numbers; mean to high are over the finite values.
    top_k: indices of the largest values, largest first; empty when not asked for.
    """

    content_hash: str
    shape: tuple[int, ...] | None = None
    finite: bool | None = None
    count: int = 0
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    top_k: tuple[int, ...] = ()
    text_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What must be equal for two latencies to be comparable. A None field is unknown and equals only None."""

    input_hash: str
    shapes: str | None = None
    dtype: str | None = None
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """One run of a canary: a few requests with the same fixed input.

    samples: in the order sent; shorter than asked for when one timed out; never empty.
    output: of the last completed answer whose content could be read; None otherwise.
    provenance: versions and names seen with the answers (server, model_version, torch, cuda, driver, ...).
    generation: hash of the target's set of lives at the time; None when its processes are not watched.
    workers_alive: processes found for the target; None when they are not watched.
    worker_cpu: CPU seconds per second of the busiest process of the workers and those below them, during the burst;
    None when not watched.
    facts: numbers by name: the load, what went on around it (`probes.facts`), and of the isolated worker (model_load_s,
    allocated_bytes, peak_allocated_bytes, ...).
    isolated: answered by an isolated worker, not by the serving one; not stored, the canary's configuration says it.
    """

    target: str
    canary: str
    at: float
    samples: tuple[Sample, ...]
    identity: Identity
    output: Output | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    generation: str | None = None
    workers_alive: int | None = None
    worker_cpu: float | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    isolated: bool = False

    @property
    def judged(self) -> tuple[Sample, ...]:
        """Samples whose latency may be compared: good and untainted."""
        return tuple(s for s in self.samples if s.outcome is Outcome.GOOD and not s.tainted)

    @property
    def life(self) -> str | None:
        """The worker that answered the whole burst; None when unknown or when several did."""
        lives = {s.life for s in self.samples if s.life is not None}
        return lives.pop() if len(lives) == 1 else None

    @property
    def load(self) -> float | None:
        """What the target said of its load just before; None when it was not asked or did not say."""
        return self.facts.get(LOAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One worker process from start to end. A pid is reused by the kernel; a pid with its start time is not.

    start_ticks: field 22 of /proc/PID/stat, clock ticks since boot, which no clock change moves.
    """

    pid: int
    start_ticks: int

    @property
    def key(self) -> str:
        return f"{self.pid}@{self.start_ticks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    """Memory of one worker life at one moment; every figure is None when it could not be read.

    slot: the worker's place, 0..n-1; the next life in that place has the same slot.
    host_anon_bytes: RssAnon and VmSwap (not RSS: mapped weights and page cache are not the process's to leak) of the
    worker and of the processes below it that are no workers; what they share since a fork counts in each of them.
    cgroup_bytes: what the worker's cgroup holds, less the page cache it gives back when asked; shared with whoever else
    is in it.
    capacity_bytes: what host_anon_bytes can grow to: the smallest memory.max or memory.high of its cgroups that can be
    seen, at most the machine's memory.
    available_bytes: what the machine could still give to whoever asks (MemAvailable).
    gpu_used_bytes: the worker and its ranks, the processes below it that hold memory there, on all its devices as NVML
    tells; gpu_ranks: how many of these there are; gpu_ratio: the largest part of one device's memory that is theirs.
    gpu_capacity_bytes: its devices' memory; device_used_bytes: everything on them, other processes included;
    gpu_room_bytes: the least that is free on any of them: with the first device that is full the worker ends.
    load: CPU seconds per second that the worker and those below it used since the sample before; None for the first of
    a life.
    fds, fd_limit, threads: open file descriptors of the worker alone, how many there may be, and its threads.
    version: of what it serves, as it says itself.

    Where an agent reports it, of its own process on all devices together: allocated_bytes, reserved_bytes of torch's
    allocator; inactive_split_bytes, free pieces of blocks in use, which is what fragmentation leaves;
    private_pool_bytes, reserved by CUDA graphs; active_bytes, allocated and freed but still waited for; alloc_retries
    and ooms since the start; recompiles of torch.compile; model_load_s: how long loading took. requests: begun since
    the start; in_flight: not ended yet; shapes: different shapes of input so far; trimmed_bytes: what a trim right
    before this sample gave back.
    agent: "good", or why its word is missing (`agent.AgentFault`); None when none is asked.
    """

    target: str
    slot: int
    life: str
    at: float
    host_anon_bytes: int | None = None
    capacity_bytes: int | None = None
    gpu_used_bytes: int | None = None
    gpu_capacity_bytes: int | None = None
    device_used_bytes: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    uptime_s: float | None = None
    load: float | None = None
    cgroup_bytes: int | None = None
    fds: int | None = None
    fd_limit: int | None = None
    threads: int | None = None
    version: str | None = None
    inactive_split_bytes: int | None = None
    private_pool_bytes: int | None = None
    alloc_retries: int | None = None
    ooms: int | None = None
    requests: int | None = None
    in_flight: int | None = None
    shapes: int | None = None
    trimmed_bytes: int | None = None
    agent: str | None = None
    available_bytes: int | None = None
    active_bytes: int | None = None
    recompiles: int | None = None
    model_load_s: float | None = None
    gpu_room_bytes: int | None = None
    gpu_ratio: float | None = None
    gpu_ranks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpStat:
    """One row of a profiler snapshot: median self time and its spread over the steps, per step."""

    name: str
    calls_per_step: float
    self_s: float
    self_mad_s: float
    device_self_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A profiler snapshot: the per-op table of N steps of one model on one input (no trace is kept).

    step_s: median wall time of a step under the profiler; ops: largest self time first.
    environment: torch, device, threads, dtype, shapes; snapshots of different shapes or dtype are never compared.
    """

    target: str
    canary: str
    at: float
    steps: int
    step_s: float
    ops: tuple[OpStat, ...]
    environment: Mapping[str, str]
