"""Is a device healthy, and if not, whose fault is that? The rules of `gpu_signals` put together.

Pure: what a rule looks at is a `gpu_view.View` of one device. A figure that is not told is no evidence, neither good
nor bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from baselines.gpu_faults import FAULTS
from baselines.gpu_signals import SIGNALS
from baselines.gpu_slowing import SLOWING
from baselines.gpu_view import Finding, View
from baselines.verdict import Check, Reason, Status, Verdict

RULES = {**FAULTS, **SLOWING}


def find(view: View) -> list[Finding]:
    """Every rule that is broken, the most serious first."""
    found = [finding for rule in RULES.values() if (finding := rule(view)) is not None]
    order = list(SIGNALS)
    return sorted(found, key=lambda f: (-SIGNALS[f.reason].level.rank, order.index(f.reason)))


def judge_gpu(view: View, findings: Sequence[Finding], *, target: str) -> Verdict | None:
    """The verdict on one device, of what `find` found. A device that should be read and cannot be is UNKNOWN; of one
    that answers and has no figure of health at all, as in some virtual machines, there is none.

    A reading that only partly failed is judged on what is there.
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
        why = newest.fault or newest.figures.get("fault") or ("not read yet" if not newest.figures else None)
        if why is None:
            return None
        evidence = {**about, "fault": str(why)}
        return replace(verdict, status=Status.UNKNOWN, reason=Reason.GPU_NOT_READ, evidence=evidence)
    first = findings[0]
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
