"""`watchdog baseline`: take bursts after a deploy, compare with the active baseline, promote or refuse.

A new version that is slower, or answers differently, is told from a few bursts on and ends it there: that is what a
deploy waits for. One that is surely not slower is said to be so at once, and measured to the end all the same, since
the next comparison and the daemon's own judgement are only as good as the baseline. `Plan.most` above `Plan.bursts` is
for those in a hurry: few bursts, and more only while they leave it open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from baselines import baseline_store
from baselines.baseline import Baseline, NotReady, NotReadyReason, gather
from baselines.comparison import Comparison, same_identity
from baselines.looks import FIRST_LOOK, is_look
from baselines.noise import carry
from baselines.rehearsal import Rehearsal, rehearse
from probes.messages import Burst, Family, Outcome
from watchdog.deploy_gate import Decision, DeployGate, Result
from watchdog.target import Target

FULL_BURSTS, FULL_APART_S = 30, 10.0  # spread over five minutes: one rapid shot hides the variance between bursts
QUICK_BURSTS, QUICK_APART_S = FIRST_LOOK, 1.0
QUICK_MOST = 30
ENOUGH_SAMPLES = 59  # fewer have no upper bound of p95; up to twice the bursts are taken to reach it
READY_POLL_S = 1.0

Progress = Callable[[int, Burst, Decision | None], None]
"""Told the number of bursts done, the newest, and what was decided where that was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many bursts, how far apart in seconds, and how long to wait for the first good answer.

    most: up to so many while the answer is open; None: no more than bursts.
    """

    bursts: int = FULL_BURSTS
    most: int | None = None
    apart_s: float = FULL_APART_S
    wait_s: float = 0.0

    @property
    def last(self) -> int:
        """The bursts after which nothing but small bursts can ask for more."""
        return max(self.bursts, self.most or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The outcome for one canary.

    baseline: the new one, stored unless not ready. comparison: None without an active one.

    detail: one line for a person. looks: how often it was compared before it was whole. stopped_early: it was refused
    with fewer bursts than planned.
    """

    target: str
    canary: str
    result: Result
    detail: str
    baseline: Baseline | None = None
    active: Baseline | None = None
    comparison: Comparison | None = None
    rehearsal: Rehearsal | None = None
    looks: int = 0
    stopped_early: bool = False


def take(
    target: Target,
    canary: str,
    plan: Plan,
    *,
    label: str | None,
    progress: Progress,
    gate: DeployGate | None = None,
    accept: bool = False,
) -> Baseline:
    """Measure a new baseline. Raises NotReady when the target does not answer well, naming how.

    gate: asked on the way, see above; None compares with nothing. accept: a refusal ends nothing, for what it refuses
    becomes the baseline.
    """
    _wait_until_ready(target, canary, plan.wait_s)
    bursts: list[Burst] = []
    began = target.monotonic()
    for number in range(1, 2 * plan.last + 1):
        target.sleep(max(0.0, began + (number - 1) * plan.apart_s - target.monotonic()))
        # The active golden output is left out: whether the answer changed is asked of the baseline as it grows.
        burst = target.probe(canary, wait_s=target.canaries[canary].plan.timeout_s, golden=False)
        bursts.append(burst)
        failed = any(s.outcome is not Outcome.GOOD for s in burst.samples)
        seen = None if failed or gate is None or not is_look(number, plan.last) else _look(gate, bursts, target.now())
        progress(number, burst, seen)
        if failed:
            break  # `gather` refuses it and says why; more requests would change nothing
        result = Result.PROMOTED if gate is None else Result.UNDECIDED if seen is None else seen.result
        if is_enough(plan, number, sum(len(b.judged) for b in bursts), result, accept=accept):
            break
    return gather(bursts, label=label, provisional=False, taken_at=target.now())


def is_enough(plan: Plan, bursts: int, samples: int, result: Result, *, accept: bool) -> bool:
    """Whether to stop after so many bursts with so many samples. result: what can be said for sure by now."""
    if result.refused and not accept:
        return True
    planned = plan.last if result is Result.UNDECIDED else plan.bursts
    return bursts >= planned and samples >= ENOUGH_SAMPLES


def _look(gate: DeployGate, bursts: Sequence[Burst], now: float) -> Decision | None:
    """None while there is too little to look at. Raises NotReady when these bursts cannot become a baseline."""
    try:
        return gate.look(gather(bursts, label=None, provisional=False, taken_at=now))
    except NotReady as error:
        if error.reason is NotReadyReason.TOO_FEW_SAMPLES:
            return None
        raise


def _wait_until_ready(target: Target, canary: str, wait_s: float) -> None:
    deadline = target.monotonic() + wait_s
    while wait_s and target.monotonic() < deadline:
        burst = target.probe(canary, size=1, wait_s=target.canaries[canary].plan.timeout_s, golden=False)
        if burst.samples[-1].outcome.family in (Family.GOOD, Family.WRONG):
            return
        target.sleep(READY_POLL_S)


def run(
    target: Target,
    canary: str,
    plan: Plan,
    *,
    label: str | None,
    by: str,
    accept: bool,
    why: str | None,
    progress: Progress,
) -> Taken:
    """Take, compare, store, and promote where that is right.

    accept: promote whatever the comparison says; who (by) and why go on record. A refused baseline is stored too
    (`watchdog baseline show`), it is only not active.
    """
    active = target.baseline(canary)
    gate = DeployGate(
        active=active, expectation=target.expectations[canary], threshold=target.policies.regression.threshold
    )
    bursts = 0

    def count(done: int, burst: Burst, seen: Decision | None) -> None:
        nonlocal bursts
        bursts = done
        progress(done, burst, seen)

    try:
        asked = None if active is None else gate
        new = take(target, canary, plan, label=label, progress=count, gate=asked, accept=accept)
    except NotReady as error:
        return Taken(target=target.name, canary=canary, result=Result.NOT_READY, detail=str(error), looks=gate.looks)
    if active is not None and same_identity(new, active):
        new = replace(new, prior=carry(active.bursts, active.prior))
    decision = gate.decide(new)
    result, detail = decision.result, decision.detail
    if bursts < plan.bursts:
        detail += f"; stopped after {bursts} of {plan.bursts} bursts"
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
        comparison=decision.comparison,
        rehearsal=rehearse(new, target.policies.regression),
        looks=gate.looks,
        stopped_early=bursts < plan.bursts,
    )
