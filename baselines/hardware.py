"""Is a device healthy, and if not, whose fault is that? The rules of `gpu_signals` put together.

Pure: what a rule looks at is a `gpu_view.View` of one device. A figure that is not told is no evidence, neither good
nor bad: what was found ends when what it rests on is told again, and is good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from baselines.gpu_faults import FAULTS
from baselines.gpu_signals import SIGNALS, Recycle
from baselines.gpu_slowing import SLOWING
from baselines.gpu_view import Finding, View
from baselines.verdict import Check, Reason, Status, Verdict
from probes.gpu.nvml import GpuFault
from probes.gpu.reading import Figure
from probes.gpu.sample import DeviceSample

RULES = {**FAULTS, **SLOWING}
_HOLDS = (Recycle.IMPOSSIBLE, Recycle.FUTILE)  # recycles, the stronger first
_JUDGED = (GpuFault.GPU_LOST, GpuFault.RESET_REQUIRED, GpuFault.POWER_CABLE, GpuFault.INTERRUPTS)


def find(view: View) -> list[Finding]:
    """Every rule that is broken, the most serious first."""
    return by_severity(finding for rule in RULES.values() if (finding := rule(view)) is not None)


def by_severity(findings: Iterable[Finding], unread: Collection[Reason] = ()) -> list[Finding]:
    """The most serious first. unread: what is only not refuted comes after what is known, if that is of the same level
    and holds as many recycles back."""
    order = list(SIGNALS)

    def place(finding: Finding) -> tuple[int, int, bool, int]:
        row, reason = SIGNALS[finding.reason], finding.reason
        held = _HOLDS.index(row.recycle) if row.recycle in _HOLDS else len(_HOLDS)
        return -row.level.rank, held, reason in unread, order.index(reason)

    return sorted(findings, key=place)


def grounds_of(reason: Reason, sample: DeviceSample) -> dict[str, Figure]:
    """What a finding of this sample rests on: of its figures those that are told, and a fault that a rule is about."""
    return {name: value for name in SIGNALS[reason].figures if (value := _value(sample, name)) is not None}


def disproves(sample: DeviceSample, grounds: Mapping[str, Figure], usual: Collection[str | None] = ()) -> bool:
    """Whether a sample in which a rule is not broken is evidence of that: the device was read, and tells again all that
    the finding rested on. usual: what goes wrong with every reading of this device, and says nothing."""
    if not sample.told and (sample.failed is not None or not sample.figures):
        return False
    is_whole = sample.failed is None or sample.failed in usual
    return all(is_whole if name == "fault" else _value(sample, name) is not None for name in grounds)


def _value(sample: DeviceSample, name: str) -> Figure:
    match name:
        case "fault":
            return sample.failed if sample.failed in _JUDGED else None
        case "others":
            return sample.others
        case _:
            return sample.number(name)


def judge_gpu(
    view: View, findings: Sequence[Finding], *, target: str, unread: Collection[Reason] = ()
) -> Verdict | None:
    """The verdict on one device, of findings by their severity. A device that should be read and cannot be is UNKNOWN;
    of one that answers and has no figure of health at all, as in some virtual machines, there is none.

    unread: what was found earlier and can be neither confirmed nor refuted now; UNKNOWN, with that reason. A reading
    in which something is missing is else judged on what is there.
    """
    newest = view.newest
    about: dict[str, float | int | str | None] = {"device": newest.name, "uuid": newest.uuid}
    verdict = Verdict(
        target=target,
        check=Check.GPU,
        subject=f"gpu {newest.index}",
        at=view.now,
        status=Status.OK,
        reason=Reason.GOOD,
        evidence=about,
    )
    if not findings:
        if any(isinstance(value, (int, float)) for value in newest.figures.values()):
            return verdict
        why = newest.failed or ("not read yet" if not newest.figures else None)
        if why is None:
            return None
        evidence = {**about, "fault": why}
        return replace(verdict, status=Status.UNKNOWN, reason=Reason.GPU_NOT_READ, evidence=evidence)
    first = findings[0]
    if first.reason in unread:
        evidence = {**about, "fault": newest.failed or "not told", "detail": first.detail}
        return replace(verdict, status=Status.UNKNOWN, reason=first.reason, since=first.since, evidence=evidence)
    row = SIGNALS[first.reason]
    also = {"also": ", ".join(f.reason.replace("_", " ") for f in findings[1:])} if findings[1:] else {}
    return replace(
        verdict,
        status=Status.WORSE,
        reason=first.reason,
        cause=row.cause,
        level=row.level,
        since=first.since,
        strikes=1,
        evidence={"detail": first.detail, **first.evidence, **also, **about},
    )
