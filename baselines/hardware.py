"""Is a device healthy, and if not, whose fault is that? The rules of `gpu_signals` put together.

Pure: what a rule looks at is a `gpu_view.View` of one device. A figure that is not told is no evidence, neither good
nor bad.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from baselines.gpu_faults import FAULTS
from baselines.gpu_signals import SIGNALS
from baselines.gpu_slowing import SLOWING
from baselines.gpu_view import Finding, View
from baselines.verdict import Check, Reason, Status, Verdict

RULES = {**FAULTS, **SLOWING}


def find(view: View) -> list[Finding]:
    """Every rule that is broken, the most serious first."""
    return by_severity(finding for rule in RULES.values() if (finding := rule(view)) is not None)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The most serious first."""
    order = list(SIGNALS)
    return sorted(findings, key=lambda f: (-SIGNALS[f.reason].level.rank, order.index(f.reason)))


def judge_gpu(
    view: View, findings: Sequence[Finding], *, target: str, unread: Collection[Reason] = ()
) -> Verdict | None:
    """The verdict on one device, of findings by their severity. A device that should be read and cannot be is UNKNOWN;
    of one that answers and has no figure of health at all, as in some virtual machines, there is none.

    unread: what was found earlier and can be neither confirmed nor refuted now; UNKNOWN, with that reason. A reading
    that only partly failed is else judged on what is there.
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
        evidence = {**about, "fault": newest.failed, "detail": first.detail}
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
