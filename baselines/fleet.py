"""Is a replica slower than the others of its group? Asked with each of its bursts; no baseline is needed.

Of each burst one number is kept, its location (`pace`), and from that the median of what the peers' bursts of the same
moment say is taken (`lineup`): the load and the network that all share cancel. The median of such differences over a
run of bursts says how much slower the replica is. It is named when over one of WINDOWS

- that is at least the threshold, and for a short run more, as 1/sqrt(bursts): a run of 15 must show twice as much as
  one of 60;
- the lower bound of its interval is above half of the threshold: replicas that differ by a few per cent are normal;
- the pooled p95 is above the peers' by three quarters of the threshold, as `regression` asks of a baseline;
- the floor is above the peers' by half of the threshold, and by two thirds of what the replica is slower, both in logs:
  with more traffic or on a busier host a replica is slower at the top and hardly at the floor, and is not named.

Over the newest CLEARING bursts it must be slower by half of the threshold still; while it is, it stays named.

Wrong is the minority: at most a quarter of those compared is named, though always one, as for recycling. When more of
them are as slow, the group falls into two parts and the answer is UNKNOWN, `peers_disagree`. A group that gets slower
as a whole names nobody: that is what baselines are for. Below three replicas the answer is UNKNOWN too,
`too_few_peers`: of two that differ either may be the one that changed, and to accuse the wrong one helps nobody.

The cause is never `model`, so nothing is recycled: without a baseline nobody knows whether it is the model or the
machine, or whether it was ever faster. A person has to look, so it is told like any other slowdown of unknown cause,
but for what `weigh` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from baselines.cause import level_of
from baselines.lineup import Lineup, Paces, line_up
from baselines.pace import Pace
from baselines.seen import MIN_JUDGED_SHARE
from baselines.verdict import PEERS, Cause, Check, Evidence, Level, Reason, Status, Verdict
from probes.messages import Burst, Outcome

_Facts = dict[str, float | int | str | None]  # of a verdict's evidence

MIN_REPLICAS = 3
NAMED_SHARE = 0.25
WINDOWS = (15, 30, 60)  # bursts
KEPT = WINDOWS[-1]  # bursts of each replica that a judgement looks at
CLEARING = 5  # bursts, of which three say it: as soon over as a regression
Z = 4.0  # standard errors to each bound: one in 30,000 beyond it where the noise is what it seems
_GATE = 0.75  # of the threshold
_MARGIN = 0.5  # of the threshold
_WHOLE = 2 / 3  # of the difference in logs: what `regression` calls the whole distribution, and not its slowest part


def judge_peers(newest: Burst, replicas: Mapping[str, Paces], threshold: float, *, named: bool, now: float) -> Verdict:
    """Judge the target of the newest burst beside the others of its group.

    replicas: of every target of the group, itself among them, by name: the paces of the canary of this name, oldest
    first, the newest burst's own included; more than KEPT are not looked at. Only those of an identity equal to the
    newest burst's are compared. threshold: the rise that matters, as a fraction. named: whether it is said to be slower
    until now. UNKNOWN when the newest burst cannot be judged, with too few peers or bursts, or when too many are as
    slow. A WORSE verdict persists by itself: one strike. Who was named after a few bursts and is back before it could
    be called OK is UNKNOWN, which refutes that.
    """
    evidence = _place(newest, replicas)
    verdict = Verdict(
        target=newest.target,
        check=Check.LATENCY,
        subject=f"{PEERS}{newest.canary}",
        at=now,
        status=Status.UNKNOWN,
        reason=Reason.TOO_FEW_PEERS,
        evidence=evidence,
    )
    own = _comparable(newest, replicas[newest.target])
    if not own or own[-1].at != newest.at:
        return replace(verdict, reason=_why_not_judged(newest))
    peers = [_comparable(newest, replicas[name]) for name in sorted(replicas.keys() - {newest.target})]
    beside = line_up(own, peers, least=MIN_REPLICAS - 1, lately=WINDOWS[0])
    if beside is None:
        return verdict
    evidence = evidence | {"peers": len(beside.peers)}
    slow = _slow_run(beside, threshold, named=named)
    if slow is None and beside.bursts < KEPT:
        needed = {"bursts": beside.bursts, "samples_needed": (KEPT - beside.bursts) * len(newest.samples)}
        back = Reason.SLOWER_THAN_PEERS if named and beside.bursts >= CLEARING else None
        return replace(verdict, reason=Reason.TOO_FEW_SAMPLES, evidence=evidence | needed, refutes=back)
    if slow is None:
        return replace(verdict, status=Status.OK, reason=Reason.WITHIN_PEERS, evidence=evidence | _ratio(beside))
    evidence = evidence | _ratio(slow) | _figures(slow)
    if (slower := slow.as_slow() + 1) > max(1, int(NAMED_SHARE * (len(beside.peers) + 1))):
        return replace(verdict, reason=Reason.PEERS_DISAGREE, evidence=evidence | {"slower": slower})
    return replace(
        verdict,
        status=Status.WORSE,
        reason=Reason.SLOWER_THAN_PEERS,
        level=level_of(Cause.UNKNOWN),
        since=beside.began(),
        strikes=1,
        evidence={**evidence, **_differs(own[-1], beside.peers)},
    )


def weigh(verdict: Verdict, own: Verdict, *, told: bool) -> Verdict:
    """The same at the level that it has beside the target's own verdict on the latency of that canary.

    told: whether an incident about that fires. What is told already is not told twice: the comparison is then evidence,
    at level info. A replica that is within its own baseline was as slow when that was taken: watch, nobody is paged.
    """
    if verdict.status is not Status.WORSE:
        return verdict
    if told or own.status is Status.WORSE:
        return replace(verdict, level=Level.INFO)
    most = Level.WATCH if own.status is Status.OK else Level.PAGE
    return replace(verdict, level=min(verdict.level, most, key=lambda level: level.rank))


def _comparable(newest: Burst, paces: Paces) -> Paces:
    mine = newest.identity
    return [pace for pace in paces[-KEPT:] if pace.identity is mine or pace.identity == mine]


def _slow_run(beside: Lineup, threshold: float, *, named: bool) -> Lineup | None:
    """The longest run of its newest bursts that shows the replica to be slower; None when none does."""
    if beside.last(CLEARING).behind < math.log1p(_MARGIN * threshold):
        return None
    for bursts in reversed(WINDOWS):
        if bursts <= beside.bursts and _is_slow(run := beside.last(bursts), threshold):
            return run
    return beside if named else None


def _is_slow(run: Lineup, threshold: float) -> bool:
    if run.behind < math.log1p(threshold) * math.sqrt(KEPT / run.bursts):
        return False
    if run.behind - Z * run.doubt < math.log1p(_MARGIN * threshold):
        return False
    p95_s, peers_s = run.p95_s()
    floor = math.log(run.floor_ratio())
    return p95_s >= (1 + _GATE * threshold) * peers_s and floor >= max(
        math.log1p(_MARGIN * threshold), _WHOLE * run.behind
    )


def _ratio(run: Lineup) -> _Facts:
    behind, doubt = run.behind, Z * run.doubt
    return {
        "ratio": math.exp(behind),
        "ratio_low": math.exp(behind - doubt),
        "ratio_high": math.exp(behind + doubt),
        "bursts": run.bursts,
    }


def _figures(run: Lineup) -> _Facts:
    p95_s, peers_p95_s = run.p95_s()
    return {"floor_ratio": run.floor_ratio(), "p95_s": p95_s, "peers_p95_s": peers_p95_s}


def _place(newest: Burst, replicas: Mapping[str, Paces]) -> _Facts:
    place = sorted(replicas).index(newest.target) + 1
    return {"replica": place, "replicas": len(replicas), "gpu_type": newest.identity.gpu_type}


def _differs(own: Pace, peers: Sequence[Paces]) -> Evidence:
    """What is of another version here than at all peers: the first thing to look at."""
    theirs = [dict(peer[-1].provenance) for peer in peers]
    found = []
    for key, value in own.provenance:
        others = {each.get(key) for each in theirs}
        if len(others) == 1 and (other := others.pop()) not in (None, value):
            found.append(f"{key} {value} (peers: {other})")
    return {"differs": ", ".join(found)} if found else {}


def _why_not_judged(newest: Burst) -> Reason:
    good = sum(s.outcome is Outcome.GOOD for s in newest.samples)
    if good == 0:
        return Reason.NO_DATA
    return Reason.TAINTED if good >= MIN_JUDGED_SHARE * len(newest.samples) else Reason.TOO_FEW_SAMPLES
