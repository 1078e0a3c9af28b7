"""Did the recycle help? Judged by the same canaries and the same baseline that condemned the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from alerts.wording import COUNTED
from baselines.baseline import Baseline, latencies_of
from baselines.regression import is_the_machines
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Evidence, Reason
from probes.messages import Burst, Outcome

MEMORY_REASONS = frozenset({Reason.LEAKING, Reason.LIMIT_EXCEEDED})
"""A recycle for memory. A limit on latency blames nobody, so the one that is recycled for is memory's."""
MEMORY = "memory_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """recovered: whether the target is back in its baseline; detail: one line for a person; evidence: `after_*`."""

    recovered: bool
    detail: str
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)


def must_fall(reason: str, evidence: Evidence) -> str:
    """Which figure a recycle for this must lower: what leaks, where that is counted, else memory."""
    channel = evidence.get("channel")
    return str(channel) if reason == Reason.LEAKING and channel in COUNTED else MEMORY


def judge_recovery(
    bursts: Sequence[Burst],
    *,
    baselines: Mapping[str, Baseline | None],
    policy: RegressionPolicy,
    reason: str,
    figure: str = MEMORY,
    before: int | None,
    after: int | None,
) -> Recovery:
    """Judge fresh bursts of all canaries, taken after warm-up.

    policy: the regression rule's own; a median above its line is still slow. Unless latency was the reason, that is
    excused when the control got slower too: the machine is busy, and the worker is not to blame for that.
    figure: MEMORY or one of COUNTED; before, after: of all workers together. Only a recycle for memory must lower it.
    Missing evidence is no proof: no burst, no usable latency, no figure where memory was the reason, or a baseline of
    another identity where latency was, is not recovered.
    """
    canaries = {burst.canary: [b for b in bursts if b.canary == burst.canary] for burst in bursts}
    evidence: dict[str, float | int | str | None] = {f"after_{figure}": after}
    findings = [_look_at(own, baselines.get(name), policy=policy, reason=reason) for name, own in canaries.items()]
    if reason in MEMORY_REASONS:
        findings.append(_look_at_figure(figure, before, after))
    for finding in findings:
        evidence |= finding.evidence
    wrong = [finding.detail for finding in findings if not finding.recovered]
    return Recovery(
        recovered=bool(canaries) and not wrong,
        detail=", ".join(wrong or [finding.detail for finding in findings]) or "no canary was asked, no proof",
        evidence=evidence,
    )


def _look_at(bursts: Sequence[Burst], baseline: Baseline | None, *, policy: RegressionPolicy, reason: str) -> Recovery:
    """Of the bursts of one canary, at least one."""
    canary = bursts[0].canary
    bad = next((s.outcome for burst in bursts for s in burst.samples if s.outcome is not Outcome.GOOD), None)
    if bad is not None:
        return Recovery(recovered=False, detail=f"canary {canary} still answers {bad}")
    medians = [median(latencies) for burst in bursts if (latencies := latencies_of(burst.judged))]
    if not medians:
        return Recovery(recovered=False, detail=f"canary {canary}: every sample was tainted, no proof")
    latency_s = median(medians)
    compared = _compare(bursts, latency_s, baseline, policy=policy, reason=reason)
    return replace(compared, evidence={f"after_median_s.{canary}": latency_s, **compared.evidence})


def _compare(
    bursts: Sequence[Burst], latency_s: float, baseline: Baseline | None, *, policy: RegressionPolicy, reason: str
) -> Recovery:
    """With the baseline, where there is one of the same identity."""
    canary = bursts[0].canary
    if baseline is not None and any(burst.identity != baseline.identity for burst in bursts):
        if reason == Reason.REGRESSED:
            detail = f"canary {canary} has another input or device than its baseline, no proof"
            return Recovery(recovered=False, detail=detail)
        baseline = None
    if baseline is None:
        return Recovery(recovered=True, detail=f"{canary} answers well (no baseline to compare with)")
    ratio = latency_s / baseline.median_s
    evidence = {f"after_ratio.{canary}": ratio}
    said = f"{canary} at {ratio:.2f} x its baseline"
    if ratio <= policy.line:
        return Recovery(recovered=True, detail=said, evidence=evidence)
    is_busy = is_the_machines(bursts, baseline)
    if is_busy and reason != Reason.REGRESSED:
        detail = f"{said}, but so is its control: the machine is busy"
        return Recovery(recovered=True, detail=detail, evidence=evidence)
    why = ", but so is its control: a busy machine, no proof" if is_busy else ""
    detail = f"canary {canary} is still {ratio:.2f} x its baseline{why}"
    return Recovery(recovered=False, detail=detail, evidence=evidence)


def _look_at_figure(figure: str, before: int | None, after: int | None) -> Recovery:
    name = COUNTED.get(figure, "memory")
    if before is None or after is None:
        return Recovery(recovered=False, detail=f"{name} cannot be read, no proof")
    if figure in COUNTED:
        old, new, unit, short = f"{before}", f"{after}", "", "are not fewer"
    else:
        old, new, unit, short = f"{before / 1e6:.0f}", f"{after / 1e6:.0f}", " MB", "is not below where it was"
    if after >= before:
        return Recovery(recovered=False, detail=f"{name} {short} ({new}{unit}, before {old}{unit})")
    return Recovery(recovered=True, detail=f"{name} {old} -> {new}{unit}")
