"""Did the recycle help? Judged by the same canaries and the same baseline that condemned the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from baselines.baseline import Baseline
from baselines.verdict import Reason
from probes.messages import Burst, Outcome

MEMORY_REASONS = frozenset({Reason.LEAKING, Reason.LIMIT_EXCEEDED})
"""A recycle for memory. A limit on latency blames nobody, so the one that is recycled for is memory's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """recovered: whether the target is back in its baseline; detail: one line for a person; evidence: `after_*`."""

    recovered: bool
    detail: str
    evidence: Mapping[str, float | int | str | None] = field(default_factory=dict)


def judge_recovery(
    bursts: Sequence[Burst],
    *,
    baselines: Mapping[str, Baseline | None],
    line: float,
    reason: str,
    before: int | None,
    after: int | None,
) -> Recovery:
    """Judge fresh bursts of all canaries, taken after warm-up.

    line: a median latency above `line` x the baseline's median is still slow (the regression rule's own line).
    before, after: memory of all workers in bytes; only a recycle for memory must lower it.
    Missing evidence is no proof: no usable latency, no memory figure where memory was the reason, or a baseline of
    another identity where latency was, is not recovered.
    """
    evidence: dict[str, float | int | str | None] = {"after_memory_bytes": after}
    for burst in bursts:
        bad = next((s for s in burst.samples if s.outcome is not Outcome.GOOD), None)
        if bad is not None:
            return Recovery(
                recovered=False, detail=f"canary {burst.canary} still answers {bad.outcome}", evidence=evidence
            )
    said = []
    for canary in dict.fromkeys(burst.canary for burst in bursts):
        medians = [
            median(s.latency_s for s in b.judged if s.latency_s is not None)
            for b in bursts
            if b.canary == canary and b.judged
        ]
        if not medians:
            return Recovery(
                recovered=False, detail=f"canary {canary}: every sample was tainted, no proof", evidence=evidence
            )
        latency_s = median(medians)
        evidence[f"after_median_s.{canary}"] = latency_s
        baseline = baselines.get(canary)
        alike = baseline is not None and all(b.identity == baseline.identity for b in bursts if b.canary == canary)
        if baseline is not None and not alike and reason == Reason.REGRESSED:
            detail = f"canary {canary} has another input or device than its baseline, no proof"
            return Recovery(recovered=False, detail=detail, evidence=evidence)
        if baseline is None or not alike:
            said.append(f"{canary} answers well (no baseline to compare with)")
            continue
        ratio = latency_s / baseline.median_s
        evidence[f"after_ratio.{canary}"] = ratio
        if ratio > line:
            detail = f"canary {canary} is still {ratio:.2f} x its baseline"
            return Recovery(recovered=False, detail=detail, evidence=evidence)
        said.append(f"{canary} at {ratio:.2f} x its baseline")
    if reason in MEMORY_REASONS:
        if before is None or after is None:
            return Recovery(recovered=False, detail="memory cannot be read, no proof", evidence=evidence)
        if after >= before:
            detail = f"memory is not below where it was ({after / 1e6:.0f} MB, before {before / 1e6:.0f} MB)"
            return Recovery(recovered=False, detail=detail, evidence=evidence)
        said.append(f"memory {before / 1e6:.0f} -> {after / 1e6:.0f} MB")
    return Recovery(recovered=True, detail=", ".join(said), evidence=evidence)
