"""What an agent said, as far as it can be believed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from probes.calls import CallFault
from probes.messages import MemorySample
from watchdog_agent import agent_wire
from watchdog_agent.agent_wire import Ran, Refused, Report, Trimmed
from watchdog_agent.wire import WireError

MOST = 2**50  # bytes, or anything that is counted: a petabyte


class AgentFault(StrEnum):
    """Why an agent's word is missing. The value is the word in status, check and log."""

    ABSENT = "absent"  # no socket, or nobody listens on it any more
    FORBIDDEN = "forbidden"  # another user's, or the token is wrong
    SILENT = "silent"  # no whole answer in time: the process hangs, or is stopped
    UNREADABLE = "unreadable"  # another version of the protocol, or no answer of it
    STRANGER = "stranger"  # it speaks for another process
    REFUSED = "refused"
    IMPLAUSIBLE = "implausible"


FAULT_WORDS: Mapping[AgentFault, str] = {
    AgentFault.ABSENT: "no agent listens: is attach() called in this process, with this folder or port?",
    AgentFault.FORBIDDEN: "the agent does not talk to this user or token",
    AgentFault.SILENT: "the agent does not answer in time",
    AgentFault.UNREADABLE: "the agent speaks another protocol: install the versions that belong together",
    AgentFault.STRANGER: "another process answers in its place",
    AgentFault.REFUSED: "the agent refused",
    AgentFault.IMPLAUSIBLE: "the agent's figures cannot be right",
}
GOOD = "good"  # in place of a fault, where it answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What came of one question: a report, what was trimmed or what a kernel took, else the fault."""

    report: Report | None = None
    trimmed: Trimmed | None = None
    ran: Ran | None = None
    fault: AgentFault | None = None
    detail: str = ""


def missing(fault: AgentFault) -> Reading:
    """No word, with the words for a person."""
    return Reading(fault=fault, detail=FAULT_WORDS[fault])


def read_answer(came: bytes | CallFault, names: Collection[str] | None) -> Reading:
    """What came of one question. names: what the worker may call itself; None asks for no name."""
    if isinstance(came, CallFault):
        return missing(AgentFault.UNREADABLE if came is CallFault.TOO_LONG else AgentFault(came))
    try:
        answer = agent_wire.decode_answer(came)
    except WireError as error:
        return Reading(fault=AgentFault.UNREADABLE, detail=str(error)[:200])
    if isinstance(answer, Refused):
        return Reading(fault=AgentFault.REFUSED, detail=answer.why[:200])
    if names is not None and answer.life not in names:
        return Reading(fault=AgentFault.STRANGER, detail=f"it calls itself {answer.life or 'nothing'}"[:60])
    wrong = "" if isinstance(answer, Trimmed) else implausible(answer)
    return Reading(fault=AgentFault.IMPLAUSIBLE, detail=wrong) if wrong else _told(answer)


def _told(answer: Report | Trimmed | Ran) -> Reading:
    if isinstance(answer, Report):
        return Reading(report=answer)
    return Reading(trimmed=answer) if isinstance(answer, Trimmed) else Reading(ran=answer)


_COUNTED = ("requests", "in_flight", "shapes", "recompiles", "alloc_retries", "ooms")
_BYTES = ("host_anon", "allocated", "reserved", "active", "inactive_split", "private_pool")
_FIGURES = (*_COUNTED, *(f"{name}_bytes" for name in _BYTES))


def implausible(answer: Report | Ran) -> str:
    """What cannot be right about it, in one line; empty when nothing is. What is not known is never wrong."""
    return _implausible_run(answer) if isinstance(answer, Ran) else _implausible_report(answer)


def _implausible_report(report: Report) -> str:
    for name in _FIGURES:
        value = getattr(report, name)
        if value is not None and not 0 <= value <= MOST:
            return f"{name} is {value}"
    if report.in_flight is not None and report.in_flight > (report.requests or 0):
        return "more requests are in flight than ever began"
    if report.allocated_bytes is not None and report.allocated_bytes > (report.reserved_bytes or 0):
        return "more is allocated than reserved"
    if report.model_load_s is not None and not 0 <= report.model_load_s < math.inf:
        return f"model_load_s is {report.model_load_s}"
    words = [report.version or "", *report.versions, *report.versions.values()]
    if len(words) > 40 or any(len(word) > 100 or not word.isprintable() for word in words):
        return "a version cannot be read"
    return ""


def _implausible_run(ran: Ran) -> str:
    if not 0 < ran.took_s < math.inf:
        return f"took_s is {ran.took_s}"
    return "" if len(ran.kernel) <= 100 and ran.kernel.isprintable() else "the kernel's name cannot be read"


def given_back(trimmed: Trimmed) -> int:
    """Bytes of host memory and of the CUDA allocator that all steps gave back together, as the agent says."""
    if not trimmed.steps:
        return 0
    before, after = trimmed.steps[0].before, trimmed.steps[-1].after
    pairs = ((before.host_anon_bytes, after.host_anon_bytes), (before.reserved_bytes, after.reserved_bytes))
    back = sum(max(0, had - has) for had, has in pairs if had is not None and has is not None)
    return min(back, MOST)


def left_after(trimmed: Trimmed, channel: str) -> int | None:
    """That figure of memory after the last step, as the worker read it at that moment; None where it does not say."""
    if not trimmed.steps:
        return None
    after = trimmed.steps[-1].after
    said = {
        "host_anon_bytes": after.host_anon_bytes,
        "gpu_used_bytes": after.reserved_bytes,
        "reserved_bytes": after.reserved_bytes,
    }.get(channel)
    return said if said is not None and 0 <= said <= MOST else None


def with_reading(sample: MemorySample, reading: Reading) -> MemorySample:
    """The sample with what was said; where it is missing, with the fault alone."""
    said = reading.report
    if said is None:
        return replace(sample, agent=reading.fault)
    anon = sample.host_anon_bytes
    return replace(
        sample,
        agent=GOOD,
        host_anon_bytes=said.host_anon_bytes if anon is None else anon,  # the kernel's own word comes first
        version=said.version,
        allocated_bytes=said.allocated_bytes,
        reserved_bytes=said.reserved_bytes,
        inactive_split_bytes=said.inactive_split_bytes,
        private_pool_bytes=said.private_pool_bytes,
        alloc_retries=said.alloc_retries,
        ooms=said.ooms,
        requests=said.requests,
        in_flight=said.in_flight,
        shapes=said.shapes,
        active_bytes=said.active_bytes,
        recompiles=said.recompiles,
        model_load_s=said.model_load_s,
    )
