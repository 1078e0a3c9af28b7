"""Did the canary get slower than its baseline, since when, and who is to blame?

Each canary is followed burst by burst. Whether it is slower is said by the scan of all windows that end now (`scan`),
and on machines too busy for that by the floor of its fastest requests (`floor`). What has once been called slower is so
until the p95, or the floor, of the newest bursts is back. Formulas, sources and how well it works: docs/detection.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

import numpy as np

from baselines.baseline import Baseline, changes, describe_changes
from baselines.cause import SHARED, Blame, latency_cause, level_of
from baselines.closer_look import CloserLook
from baselines.control import CLOSE_WANDER, Control
from baselines.floor import Floor, Lift, floor_of, lowest
from baselines.load import LoadHistory, Paced, is_more_work
from baselines.noise import count_slow, location, noise_of
from baselines.quantiles import quantile, quantile_ratio
from baselines.scan import CENTER, KEPT, LONGEST, SHORTEST, WANDER, Channel, Scan
from baselines.seen import Seen, pool, see
from baselines.verdict import Cause, Check, Evidence, Reason, Status, Verdict
from baselines.witness import Signs, crowding
from probes.messages import Burst

FLOOR_WINDOWS = (10, 15, 20, 30, 60)  # bursts
FLOOR_EVIDENCE = 4.5 / 4.75  # of the policy's
FLOOR_ALONE, FLOOR_OVER_CONTROL = 0.75, 0.5  # of the threshold's rise: without a control, and over it
BACK_BURSTS = 5  # fifty requests: a whole shift that is over leaves none of them above the gate
BACK_TAIL_BURSTS = 15  # where one request in eight was slow, fifty may show none by chance
PATIENCE = 3  # bursts
SPELL, QUIET_SD = 16, 0.06  # bursts; of burst locations, in logs: a machine without such spells at baseline
TAIL, LIKE_SLOW = 0.05, 1.5  # beyond p95, by definition; times as many slow requests as at like load are more
MEASURED_BURSTS = 20  # the newest of a run say how slow it is now; the interval hardly narrows beyond them
_WHOLE, _TAIL = 2 / 3, 1 / 3  # share of the p95's move (in logs) that the floor shared: all requests, or the slowest


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionPolicy:
    """threshold: the rise of p95 that matters, as a fraction. evidence: how sure it must be, in standard deviations."""

    threshold: float = 0.20
    evidence: float = 4.75

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 10:
            raise ValueError(f"threshold must be above 0 and at most 10 (given: {self.threshold})")
        if not 3 <= self.evidence <= 20:
            raise ValueError(f"evidence must be from 3 to 20 deviations (given: {self.evidence})")

    @property
    def line(self) -> float:
        """What a burst median must exceed, over the baseline's, to count as slow by itself."""
        return 1 + 0.7 * self.threshold

    @property
    def floor_evidence(self) -> float:
        """The same for a floor, of which fewer windows are asked."""
        return FLOOR_EVIDENCE * self.evidence

    @property
    def rise(self) -> float:
        """The logarithm of the ratio that matters."""
        return math.log1p(self.threshold)


class FoundBy(StrEnum):
    """Which rule told: a channel of the scan, or the floor."""

    LOCATION = "location"
    TAIL = "tail"
    SHAPE = "shape"
    FLOOR = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A slowdown that stands. since: Unix seconds, its estimated beginning. score: deviations, when it was told."""

    found_by: FoundBy
    since: float
    score: float


def _newest(lows: deque[float | None], bursts: int) -> list[float]:
    """Those that are known of so many of the newest."""
    return [low for low in islice(reversed(lows), bursts) if low is not None][::-1]


def alarm_of(verdict: Verdict) -> Alarm | None:
    """The alarm behind a verdict that was stored; None when it was about something else."""
    found_by, score = verdict.evidence.get("found_by"), verdict.evidence.get("score")
    if found_by not in set(FoundBy) or verdict.since is None or not isinstance(score, (int, float)):
        return None
    return Alarm(found_by=FoundBy(str(found_by)), since=verdict.since, score=float(score))


class LatencyWatch:
    """Follows one canary against one baseline; None: nothing to compare with yet.

    slower: whether it is. An alarm that a control does not explain waits for PATIENCE bursts, for a machine that gets
    busy hits the longer request first. The state is the last KEPT comparable bursts, a day of loads where the target
    tells them, and the alarm that stands.
    """

    def __init__(self, baseline: Baseline | None, policy: RegressionPolicy) -> None:
        self.baseline = baseline
        self.alarm: Alarm | None = None
        self._policy = policy
        self._newest: Burst | None = None
        self._refused: Reason | None = None
        self._seen: deque[Seen] = deque(maxlen=KEPT)
        self._lows: deque[float | None] = deque(maxlen=KEPT)
        self._control_lows: deque[float | None] = deque(maxlen=KEPT)
        self._offs: deque[float] = deque(maxlen=KEPT)
        self._fresh = 0  # bursts since the last slowdown was over, KEPT at most
        self._blame = Blame()  # for the alarm that stands
        self._waited = 0  # bursts since it was raised
        self.slower = False
        self._crowded: str | None = None
        self._history = LoadHistory()
        if baseline is not None:
            self._noise = noise_of(baseline.bursts, threshold=policy.threshold, prior=baseline.prior)
            self._scan = Scan(self._noise)
            self._look = CloserLook(self._noise.size)
            self._floor = Floor(baseline.bursts)
            self._bursts_missing = self._count_missing(baseline)
            self._control = Control(baseline.bursts, baseline.controls) if baseline.controls else None

    @property
    def times(self) -> int:
        """How many times as many requests as usual the next burst may have, see `closer_look`; any thread may ask."""
        return self._look.times if self.baseline is not None else 1

    @property
    def cause(self) -> Cause:
        """Who is to blame for the alarm that stands; UNKNOWN without one."""
        return self._blame.cause

    def stand(self, alarm: Alarm, cause: Cause) -> None:
        """Take up a slowdown that was told before a restart."""
        self.alarm, self.slower, self._blame = alarm, True, Blame(cause=cause)

    def begin_anew(self) -> None:
        """A slowdown is over: what was measured until now is no evidence of what is."""
        self.alarm, self._fresh = None, 0
        self._blame, self._waited, self.slower = Blame(), 0, False
        self._scan = Scan(self._noise)

    def take(self, burst: Burst) -> None:
        """The next burst, in the order of time. One that cannot be compared is passed over and breaks nothing."""
        self._newest = burst
        if self.baseline is None:
            return
        seen = see(burst, self.baseline)
        self._refused = seen if isinstance(seen, Reason) else None
        if isinstance(seen, Reason):
            return
        logs = np.log(seen.latencies)
        self._seen.append(seen)
        self._lows.append(lowest(seen.latencies, self._floor.depth))
        self._control_lows.append(None if self._control is None else self._control.low(seen.controls))
        self._offs.append(float(location(logs)) - float(self._noise.center))
        self._fresh = min(self._fresh + 1, KEPT)
        self._scan.take(np.asarray(seen.latencies))
        self._decide()
        if self.alarm is not None:
            self._blame = self._blame.follow(self._find_cause(self.alarm, burst.provenance, self.baseline))
            self._waited += 1
            doubted = self._control is not None and bool(seen.controls) and self._blame.cause is Cause.UNKNOWN
            self.slower = self.slower or not doubted or self._waited > PATIENCE
        if seen.load is not None and (self.alarm is None or self._blame.cause is Cause.LOAD):
            self._history.add(Paced(at=seen.at, load=seen.load, off=self._offs[-1], slow=self._slow_share(seen)))

    def _slow_share(self, seen: Seen) -> float:
        return float(count_slow(np.log(seen.latencies), self._noise.tail_line)) / len(seen.latencies)

    def _decide(self) -> None:
        score = self._scan.score()
        self._look.take(len(self._seen[-1].latencies), float(score.hint) if self.alarm is None else 0.0)
        if self.alarm is not None:
            if self._is_back(self.alarm):
                self.begin_anew()
            return
        channel = max(Channel, key=lambda each: float(score.z[each]))
        z = float(score.z[channel])
        if z >= self._policy.evidence:
            began = min(self._scan.began(channel, int(score.bursts[channel])), self._fresh)
            self.alarm = Alarm(found_by=FoundBy(channel.value), since=self._seen[-began].at, score=z)
        elif (found := self._lifted()) is not None:
            bursts, z = found
            self.alarm = Alarm(found_by=FoundBy.FLOOR, since=self._seen[-bursts].at, score=z)

    def _count_missing(self, baseline: Baseline) -> float:
        """How many bursts more the baseline would need to show a rise that matters; 0: it can; inf: no number would.

        Where the location drowns, the floor may still tell.
        """
        rise, policy = self._policy.rise, self._policy
        allowed = (rise / policy.evidence) ** 2 - WANDER**2 - float(self._noise.variance(self._noise.size)) / LONGEST
        of_one = CENTER * float(self._noise.variance(self._noise.size))
        needed = of_one / allowed if allowed > 0 else math.inf
        if needed <= len(baseline.bursts):
            return 0.0
        error = math.hypot(self._floor.expected_error(FLOOR_WINDOWS[-1]), WANDER)
        return (
            0.0
            if rise / error >= policy.floor_evidence
            else math.ceil(needed - len(baseline.bursts))
            if needed < 1e6
            else math.inf
        )

    def _is_back(self, alarm: Alarm) -> bool:
        if alarm.found_by is FoundBy.FLOOR:
            lift, line, _ = self._lift(FLOOR_WINDOWS[0])
            return lift is not None and lift.rise < line / 2
        bursts = BACK_BURSTS if alarm.found_by is FoundBy.LOCATION else BACK_TAIL_BURSTS
        return self._scan.bursts >= bursts and not self._scan.still(bursts)

    def _lifted(self) -> tuple[int, float] | None:
        """The window whose floor rose for certain, and how certain; None when none did."""
        for bursts in FLOOR_WINDOWS:
            if bursts > self._fresh:
                return None
            lift, line, wander = self._lift(bursts)
            if lift is not None and lift.rise >= line and (z := lift.z(wander=wander)) >= self._policy.floor_evidence:
                return bursts, z
        return None

    def _lift(self, bursts: int) -> tuple[Lift | None, float, float]:
        """Of the floor of the newest bursts, over the control's where they have one; its line, and its wander.

        A control that answers no longer says nothing: then the canary's floor stands alone.
        """
        rise = self._policy.rise
        lows, controls = _newest(self._lows, bursts), _newest(self._control_lows, bursts)
        few = max(1, bursts // 2)
        if len(lows) < few:
            return None, math.inf, WANDER
        lift = self._floor.lift(lows)
        if self._control is None or len(controls) < few:
            return lift, FLOOR_ALONE * rise, WANDER
        return lift.over(self._control.floor.lift(controls)), FLOOR_OVER_CONTROL * rise, CLOSE_WANDER

    def judge(self, *, now: float) -> Verdict:
        """How it stands after the newest burst; at least one must have been taken.

        UNKNOWN when that one cannot be compared, when too few could, or when the baseline is too noisy to tell. A WORSE
        verdict persists by itself: one strike, since = the estimated beginning.
        """
        newest = self._newest
        assert newest is not None
        within = Verdict(
            target=newest.target,
            check=Check.LATENCY,
            subject=newest.canary,
            at=now,
            status=Status.OK,
            reason=Reason.WITHIN_BASELINE,
            life=newest.life,
        )
        if self.baseline is None:
            return replace(within, status=Status.UNKNOWN, reason=Reason.NO_BASELINE)
        if self._refused is not None:
            return replace(within, status=Status.UNKNOWN, reason=self._refused, evidence=self._needed(newest))
        if self.alarm is not None and self.slower:
            return self._worse(within, self.alarm, newest.provenance, self.baseline)
        if len(self._seen) < SHORTEST:
            return replace(within, status=Status.UNKNOWN, reason=Reason.TOO_FEW_SAMPLES, evidence=self._needed(newest))
        measured = self._measure(list(self._seen)[-BACK_BURSTS:], self.baseline)
        if self._bursts_missing > 0:
            more = {"bursts_needed": self._bursts_missing} if math.isfinite(self._bursts_missing) else {}
            reason = Reason.BASELINE_TOO_NOISY
            return replace(within, status=Status.UNKNOWN, reason=reason, evidence={**measured, **more})
        return replace(within, evidence=measured)

    def _needed(self, newest: Burst) -> Evidence:
        missing = max(0, SHORTEST - len(self._seen))
        return {"bursts": len(self._seen), "samples_needed": missing * len(newest.samples)}

    def _worse(self, within: Verdict, alarm: Alarm, provenance: Mapping[str, str], baseline: Baseline) -> Verdict:
        run = self._run(alarm)
        measured = self._measure(run[-MEASURED_BURSTS:], baseline)
        changed = changes(baseline.provenance, provenance)
        cause = self._blame.cause
        lives = {seen.life for seen in run}
        return replace(
            within,
            status=Status.WORSE,
            reason=Reason.REGRESSED,
            cause=cause,
            level=level_of(cause),
            since=alarm.since,
            strikes=1,
            life=lives.pop() if len(lives) == 1 else None,
            evidence={
                **measured,
                "channel": self._channel(run[-MEASURED_BURSTS:], baseline),
                "found_by": alarm.found_by.value,
                "score": alarm.score,
                **({"changed": describe_changes(changed)} if changed else {}),
                **({"beside": self._crowded} if cause is Cause.ENVIRONMENT and self._crowded else {}),
            },
        )

    def _run(self, alarm: Alarm) -> list[Seen]:
        """The bursts since it began that are still remembered, the newest one at least."""
        return [seen for seen in self._seen if seen.at >= alarm.since] or [self._seen[-1]]

    def _find_cause(self, alarm: Alarm, provenance: Mapping[str, str], baseline: Baseline) -> Cause:
        signs = self._signs(self._run(alarm), alarm, baseline)
        self._crowded = signs.crowded
        changed = bool(changes(baseline.provenance, provenance))
        return latency_cause(signs, changed=changed, threshold=self._policy.threshold)

    def _signs(self, run: Sequence[Seen], alarm: Alarm, baseline: Baseline) -> Signs:
        bursts = min(len(run), FLOOR_WINDOWS[-1])
        newest = list(run)[-bursts:]
        lows, controls = _newest(self._lows, bursts), _newest(self._control_lows, bursts)
        floor = self._floor.lift(lows) if lows else Lift(rise=0.0, error=math.inf)
        control = self._control.floor.lift(controls) if self._control is not None and controls else None
        shift = float(np.mean(list(self._offs)[-bursts:]))
        return Signs(
            whole=alarm.found_by is FoundBy.LOCATION,
            shift=shift,
            floor=floor,
            floor_over_control=None if control is None or not self._spans(bursts) else floor.over(control),
            control_share=None if control is None else self._shared(newest),
            busier=self._is_busier(newest, shift, alarm, baseline),
            crowded=crowding(newest, baseline.facts),
        )

    def _spans(self, bursts: int) -> bool:
        """Whether so many bursts are more than one spell of a busy machine, which may lift all their floors."""
        return bursts >= SPELL or float(np.sqrt(self._noise.between)) <= QUIET_SD

    def _shared(self, newest: Sequence[Seen]) -> float:
        assert self._control is not None
        both = [seen for seen in newest if seen.controls]
        return self._control.share([seen.latencies for seen in both], [seen.controls for seen in both])

    def _is_busier(self, newest: Sequence[Seen], shift: float, alarm: Alarm, baseline: Baseline) -> bool | None:
        """Whether load explains it: as slow at like load before, or more work than ever. None: load is not known."""
        loads = [seen.load for seen in newest if seen.load is not None]
        if not loads or not baseline.loads:
            return None
        load, usual = float(np.median(loads)), float(np.median(baseline.loads))
        like = self._history.at_like(load, until=alarm.since)
        if like is not None:
            if alarm.found_by in (FoundBy.LOCATION, FoundBy.FLOOR):
                return shift - like.off < self._policy.rise / 2
            slow = float(np.mean([self._slow_share(seen) for seen in newest]))
            return slow < LIKE_SLOW * max(like.slow, TAIL)
        return is_more_work(load, usual, math.exp(shift))

    def _measure(self, seen: Sequence[Seen], baseline: Baseline) -> Evidence:
        """Ratios over the baseline with the interval of p95's; the same keys whether it is worse or not."""
        groups = tuple(each.latencies for each in seen)
        pooled = pool(groups)
        ratio = quantile_ratio(groups, baseline.bursts, 0.95)
        controls = [each.controls for each in seen if each.controls]
        usual_s, usual_floor_s = baseline.control_median_s, baseline.control_floor_s
        loads = [each.load for each in seen if each.load is not None]
        return {
            "ratio": ratio.estimate,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "floor_ratio": floor_of(groups) / baseline.floor_s,
            "control_floor_ratio": floor_of(controls) / usual_floor_s if controls and usual_floor_s else None,
            "control_ratio": quantile(pool(controls), 0.5) / usual_s if controls and usual_s else None,
            "p95_s": quantile(pooled, 0.95),
            "baseline_p95_s": baseline.p95_s,
            "samples": len(pooled),
            "bursts": len(groups),
            **({"load": float(np.median(loads))} if loads else {}),
            **({"baseline_load": float(np.median(baseline.loads))} if loads and baseline.loads else {}),
        }

    def _channel(self, seen: Sequence[Seen], baseline: Baseline) -> str:
        """Who got slower: "whole" (every request), "tail" (the slowest) or "mixed"."""
        groups = tuple(each.latencies for each in seen)
        floor = math.log(floor_of(groups) / baseline.floor_s)
        p95 = math.log(quantile(pool(groups), 0.95) / baseline.p95_s)
        if floor >= _WHOLE * p95:
            return "whole"
        return "tail" if floor <= _TAIL * p95 else "mixed"


def is_the_machines(bursts: Sequence[Burst], baseline: Baseline) -> bool:
    """Whether the control says that what makes these bursts slow is the machine. False without a control."""
    both = [seen for burst in bursts if isinstance(seen := see(burst, baseline), Seen) and seen.controls]
    if not both or not baseline.controls:
        return False
    control = Control(baseline.bursts, baseline.controls)
    return control.share([seen.latencies for seen in both], [seen.controls for seen in both]) >= SHARED


def judge_latency(
    window: Sequence[Burst], baseline: Baseline | None, policy: RegressionPolicy, *, now: float
) -> Verdict:
    """The verdict after bursts of one canary, oldest first, at least one, when nothing was known before them."""
    watch = LatencyWatch(baseline, policy)
    for burst in window:
        watch.take(burst)
    return watch.judge(now=now)
