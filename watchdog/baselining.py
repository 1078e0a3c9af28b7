"""`watchdog baseline`: take bursts after a deploy, compare with the active baseline, promote or refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from baselines import baseline_store
from baselines.baseline import Baseline, NotReady, gather
from baselines.comparison import Answer, Comparison, compare, same_identity
from probes.expectation import Expectation, check_output
from probes.messages import Burst, Family, Outcome
from watchdog.target import Target

FULL_BURSTS, FULL_APART_S = 30, 10.0  # spread over five minutes: one rapid shot hides the variance between bursts
QUICK_BURSTS, QUICK_APART_S = 6, 1.0
ENOUGH_SAMPLES = 59  # fewer have no upper bound of p95; up to twice the bursts are taken to reach it
READY_POLL_S = 1.0


class Result(StrEnum):
    """What came of it. The value is the word in `--json`."""

    PROMOTED = "promoted"
    ACCEPTED = "accepted"  # promoted although slower or different, because a person said so
    SLOWER = "slower"
    OUTPUT_DIFFERS = "output_differs"
    UNDECIDED = "undecided"
    NOT_READY = "not_ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many bursts, how far apart in seconds, and how long to wait for the first good answer."""

    bursts: int = FULL_BURSTS
    apart_s: float = FULL_APART_S
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The outcome for one canary.

    baseline: the new one, stored unless not ready. comparison: None without an active one.

    detail: one line for a person.
    """

    target: str
    canary: str
    result: Result
    detail: str
    baseline: Baseline | None = None
    active: Baseline | None = None
    comparison: Comparison | None = None


def take(
    target: Target, canary: str, plan: Plan, *, label: str | None, progress: Callable[[int, Burst], None]
) -> Baseline:
    """Measure a new baseline. Raises NotReady when the target does not answer well, naming how.

    progress is called with the number of bursts done and the newest.
    """
    _wait_until_ready(target, canary, plan.wait_s)
    bursts: list[Burst] = []
    began = target.monotonic()
    for number in range(2 * plan.bursts):
        if number >= plan.bursts and sum(len(b.judged) for b in bursts) >= ENOUGH_SAMPLES:
            break  # the usual end; more only make up for small bursts and tainted samples
        target.sleep(max(0.0, began + number * plan.apart_s - target.monotonic()))
        # The active golden output is left out: whether the answer changed is asked once, of the whole baseline.
        burst = target.probe(canary, wait_s=target.canaries[canary].plan.timeout_s, golden=False)
        bursts.append(burst)
        progress(number + 1, burst)
        if any(s.outcome is not Outcome.GOOD for s in burst.samples):
            break  # `gather` refuses it and says why; more requests would change nothing
    return gather(bursts, label=label, provisional=False, taken_at=target.now())


def _wait_until_ready(target: Target, canary: str, wait_s: float) -> None:
    deadline = target.monotonic() + wait_s
    while wait_s and target.monotonic() < deadline:
        burst = target.probe(canary, size=1, wait_s=target.canaries[canary].plan.timeout_s, golden=False)
        if burst.samples[-1].outcome.family in (Family.GOOD, Family.WRONG):
            return
        target.sleep(READY_POLL_S)


def decide(
    new: Baseline, active: Baseline | None, *, expectation: Expectation, threshold: float
) -> tuple[Result, str, Comparison | None]:
    """Whether a new baseline may replace the active one: the result, a line for a person, and the comparison."""
    if active is None:
        return Result.PROMOTED, "the first baseline of this canary", None
    if not same_identity(new, active):
        return Result.PROMOTED, "the canary's input or device changed: nothing to compare with", None
    if new.golden is not None and active.golden is not None:
        outcome, why = check_output(new.golden, expectation, active.golden)
        if outcome is not Outcome.GOOD:
            return Result.OUTPUT_DIFFERS, f"the answer differs from baseline {active.id}: {why}", None
    comparison = compare(new, active, threshold=threshold)
    p95 = comparison.p95
    ratio = "not comparable" if p95 is None else f"p95 is {p95.estimate:.2f} x baseline {active.id}"
    if p95 is not None and p95.low is not None and p95.high is not None:
        ratio += f" (95 % interval {p95.low:.2f} to {p95.high:.2f})"
    if comparison.answer is Answer.SLOWER:
        return Result.SLOWER, f"{ratio}: slower by at least the allowed {threshold:.0%}", comparison
    if comparison.answer is Answer.NOT_SLOWER:
        return Result.PROMOTED, ratio, comparison
    more = f"; about {comparison.more_bursts} more bursts would decide" if comparison.more_bursts else ""
    return Result.UNDECIDED, f"{ratio}: {comparison.reason.replace('_', ' ')}{more}", comparison


def run(
    target: Target,
    canary: str,
    plan: Plan,
    *,
    label: str | None,
    by: str,
    accept: bool,
    why: str | None,
    progress: Callable[[int, Burst], None],
) -> Taken:
    """Take, compare, store, and promote where that is right.

    accept: promote whatever the comparison says; who (by) and why go on record. A refused baseline is stored too
    (`watchdog baseline show`), it is only not active.
    """
    try:
        new = take(target, canary, plan, label=label, progress=progress)
    except NotReady as error:
        return Taken(target=target.name, canary=canary, result=Result.NOT_READY, detail=str(error))
    active = target.baseline(canary)
    result, detail, comparison = decide(
        new,
        active,
        expectation=target.expectations[canary],
        threshold=target.policies.regression.threshold,
    )
    if accept and result is not Result.PROMOTED:
        result, detail = Result.ACCEPTED, f"accepted by {by}{f' ({why})' if why else ''} although {detail}"
    with target.database.write(durable=True) as connection:
        new = baseline_store.save_baseline(connection, new)
        if result in (Result.PROMOTED, Result.ACCEPTED):
            baseline_store.promote(connection, new, at=target.now(), by=by, why=why or detail)
    return Taken(
        target=target.name,
        canary=canary,
        result=result,
        detail=detail,
        baseline=new,
        active=active,
        comparison=comparison,
    )
