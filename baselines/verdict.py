"""The words in which this package answers: status, check, reason, cause, level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """Missing evidence is UNKNOWN: shown as such, never OK, never a reason to act."""

    OK = "OK"
    WORSE = "WORSE"
    UNKNOWN = "UNKNOWN"


class Check(StrEnum):
    AVAILABILITY = "availability"
    OUTPUT = "output"
    LATENCY = "latency"
    MEMORY = "memory"
    GPU = "gpu"


class Cause(StrEnum):
    """Who is to blame. Only MODEL (the model or its server) may be recycled."""

    MODEL = "model"
    LOAD = "load"
    ENVIRONMENT = "environment"
    HARDWARE = "hardware"
    VERSION_CHANGED = "version_changed"
    UNKNOWN = "unknown"


class Level(StrEnum):
    """Ordered by `rank`. Only page and urgent act; info is shown and not told by default."""

    INFO = "info"
    WATCH = "watch"
    PAGE = "page"
    URGENT = "urgent"

    @property
    def rank(self) -> int:
        return list(Level).index(self)


class Reason(StrEnum):
    """Why a verdict is what it is. The value is the metric label, the log field and the word in a message."""

    # OK
    GOOD = "good"
    WITHIN_BASELINE = "within_baseline"
    STEADY = "steady"
    LEAK_GONE = "leak_gone"  # steady, and the life before leaked
    WITHIN_PEERS = "within_peers"
    # UNKNOWN
    NO_DATA = "no_data"
    NO_BASELINE = "no_baseline"
    TOO_FEW_SAMPLES = "too_few_samples"
    LEAK_NOT_RULED_OUT = "leak_not_ruled_out"  # the life before leaked, and this one cannot be told from it yet
    TAINTED = "tainted"
    BASELINE_TOO_NOISY = "baseline_too_noisy"
    IDENTITY_CHANGED = "identity_changed"
    WARMING_UP = "warming_up"
    BUSY = "busy"
    TOO_FEW_PEERS = "too_few_peers"
    PEERS_DISAGREE = "peers_disagree"
    # WORSE, availability
    TIMEOUT = "timeout"
    REFUSED = "refused"
    CONNECTION_FAILED = "connection_failed"
    SERVER_ERROR = "server_error"
    CLIENT_ERROR = "client_error"
    SATURATED = "saturated"
    WORKER_FAILED = "worker_failed"
    CUDA_FAULT = "cuda_fault"
    # WORSE, output
    NOT_READABLE = "not_readable"
    WRONG_TEXT = "wrong_text"
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"
    DRIFTED = "drifted"
    WRONG_TOP_K = "wrong_top_k"
    # WORSE, latency and memory
    REGRESSED = "regressed"
    SLOWER_THAN_PEERS = "slower_than_peers"
    LEAKING = "leaking"
    LIMIT_EXCEEDED = "limit_exceeded"
    # gpu: WORSE, but for the first (UNKNOWN), and for the second until it has lasted
    GPU_NOT_READ = "gpu_not_read"
    DRIVER_UNRESPONSIVE = "driver_unresponsive"
    GPU_LOST = "gpu_lost"
    REBOOT_NEEDED = "reboot_needed"
    GPU_RESET_NEEDED = "gpu_reset_needed"
    GPU_FAULTY = "gpu_faulty"
    ECC_UNCORRECTED = "ecc_uncorrected"
    MEMORY_REPAIR_PENDING = "memory_repair_pending"
    XID_REPEATED = "xid_repeated"
    CONTEXT_POISONED = "context_poisoned"
    XID_SEEN = "xid_seen"
    THROTTLED = "throttled"
    PCIE_DEGRADED = "pcie_degraded"
    PCIE_ERRORS = "pcie_errors"
    NVLINK_DOWN = "nvlink_down"
    NVLINK_ERRORS = "nvlink_errors"
    HOT = "hot"
    POWER_CAPPED = "power_capped"
    CLOCKS_LOWERED = "clocks_lowered"
    NEIGHBOUR = "neighbour"


Evidence = Mapping[str, float | int | str | None]

PEERS = "peers "  # begins the subject of a canary's comparison within its group; no canary can have such a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judgement. An incident is identified by (target, check, subject).

    subject: the canary for availability, output and latency, or `peers CANARY` for latency beside the others of its
    group; `slot N` for memory; `gpu N` or `gpu driver` for gpu.
    since: Unix seconds, estimated time of the change; None unless WORSE.
    strikes: how many bad observations in a row this verdict stands for; 0 unless WORSE.
    life: the worker it is about; None when unknown or when it is about all of them.
    evidence: numbers with their unit in the key; what a message, the page and replay print.
    refutes: the reason that was looked into and does not hold, of a verdict that cannot say more than that; None else.
    """

    target: str
    check: Check
    subject: str
    at: float
    status: Status
    reason: Reason
    cause: Cause = Cause.UNKNOWN
    level: Level = Level.INFO
    since: float | None = None
    strikes: int = 0
    life: str | None = None
    evidence: Evidence = field(default_factory=dict)
    refutes: Reason | None = None

    @property
    def is_moot(self) -> bool:
        """Whether it is a comparison with peers that could not be made: nothing of the target itself is missing."""
        return self.status is Status.UNKNOWN and self.subject.startswith(PEERS)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one to act on: WORSE before UNKNOWN before OK, then the higher level. Raises ValueError when empty."""
    order = {Status.WORSE: 2, Status.UNKNOWN: 1, Status.OK: 0}
    return max(verdicts, key=lambda v: (order[v.status], v.level.rank))
