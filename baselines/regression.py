"""The verdict on a canary's latency: slower, since when, by how much, and who is to blame.

Whether it is slower is told by `slowdown`, what it has to do with the control, the load and the machine by `witness`
and `cause`. Formulas, sources and how well it works: docs/detection.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from baselines.baseline import Baseline, changes, describe_changes
from baselines.cause import FLOOR_SHARE, SHARED, Blame, latency_cause, level_of
from baselines.control import Control
from baselines.load import LoadHistory, Paced, is_more_work
from baselines.scan import SHORTEST, TAIL
from baselines.seen import Seen, see
from baselines.slowdown import SPELL, Alarm, FoundBy, RegressionPolicy, Slowdown
from baselines.slowness import channel_of, measure
from baselines.verdict import Cause, Check, Reason, Status, Verdict
from baselines.witness import NO_SIGNS, Signs, crowding
from probes.messages import Burst

PATIENCE = 3  # bursts
LIKE_SLOW = 1.5  # times as many slow requests as at like load are more
SHOWN_BURSTS = 5  # while all is well
MEASURED_BURSTS = 20  # the newest of a run say how slow it is now; the interval hardly narrows beyond them


class LatencyWatch:
    """Follows one canary against one baseline; None: nothing to compare with yet.

    slower: whether it is. An alarm that a control does not explain waits for PATIENCE bursts, for a machine that gets
    busy hits the longer request first; where the floor speaks against the model and is not certain yet, for SPELL. The
    state is that of `Slowdown`, a day of loads where the target tells them, and who is to blame.
    """

    def __init__(self, baseline: Baseline | None, policy: RegressionPolicy) -> None:
        self.baseline = baseline
        self.slower = False
        self._policy = policy
        self._slowdown = Slowdown(baseline, policy) if baseline is not None else None
        self._newest: Burst | None = None
        self._refused: Reason | None = None
        self._history = LoadHistory()
        self._has_told = False  # a slowdown, and its end: it is not too noisy for that
        self._forget_blame()

    def _forget_blame(self) -> None:
        self.slower, self._waited = False, 0  # bursts since the alarm was raised
        self._blame, self._signs = Blame(), NO_SIGNS

    @property
    def alarm(self) -> Alarm | None:
        """The slowdown that stands; None while there is none."""
        return None if self._slowdown is None else self._slowdown.alarm

    @property
    def times(self) -> int:
        """How many times as many requests as usual the next burst may have, see `closer_look`; any thread may ask."""
        return 1 if self._slowdown is None else self._slowdown.times

    @property
    def cause(self) -> Cause:
        """Who is to blame for the alarm that stands; UNKNOWN without one."""
        return self._blame.cause

    def stand(self, alarm: Alarm, cause: Cause) -> None:
        """Take up a slowdown that was told before a restart."""
        assert self._slowdown is not None
        self._slowdown.alarm, self.slower, self._blame = alarm, True, Blame(cause=cause)

    def begin_anew(self) -> None:
        """Take up that a slowdown was over before a restart."""
        assert self._slowdown is not None
        self._slowdown.begin_anew()
        self._has_told = True
        self._forget_blame()

    def take(self, burst: Burst) -> None:
        """The next burst, in the order of time. One that cannot be compared is passed over and breaks nothing."""
        self._newest = burst
        if self.baseline is None or self._slowdown is None:
            return
        seen = see(burst, self.baseline)
        self._refused = seen if isinstance(seen, Reason) else None
        if isinstance(seen, Reason):
            return
        self._slowdown.take(seen)
        if self._slowdown.alarm is None:
            self._has_told = self._has_told or self.slower
            self._forget_blame()
        else:
            self._find_cause(self._slowdown, self._slowdown.alarm, burst.provenance, self.baseline)
            self._waited += 1
            doubted = bool(seen.controls and self.baseline.controls) and self._blame.cause is Cause.UNKNOWN
            patience = SPELL if self._signs.leans else PATIENCE
            self.slower = self.slower or not doubted or self._waited > patience
        if seen.load is not None and (self._slowdown.alarm is None or self._blame.cause is Cause.LOAD):
            off, slow = self._slowdown.shift(1), self._slowdown.slow_share(seen)
            self._history.add(Paced(at=seen.at, load=seen.load, off=off, slow=slow))

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
        if self.baseline is None or self._slowdown is None:
            return replace(within, status=Status.UNKNOWN, reason=Reason.NO_BASELINE)
        seen, missing = self._slowdown.seen, self._slowdown.bursts_missing
        needed = {"bursts": len(seen), "samples_needed": max(0, SHORTEST - len(seen)) * len(newest.samples)}
        if self._refused is not None:
            return replace(within, status=Status.UNKNOWN, reason=self._refused, evidence=needed)
        if self._slowdown.alarm is not None and self.slower:
            return self._worse(within, self._slowdown.alarm, self._slowdown.run, newest.provenance, self.baseline)
        if len(seen) < SHORTEST:
            return replace(within, status=Status.UNKNOWN, reason=Reason.TOO_FEW_SAMPLES, evidence=needed)
        measured = measure(list(seen)[-SHOWN_BURSTS:], self.baseline)
        if missing > 0 and not self._has_told:
            more = {"bursts_needed": missing} if math.isfinite(missing) else {}
            reason = Reason.BASELINE_TOO_NOISY
            return replace(within, status=Status.UNKNOWN, reason=reason, evidence={**measured, **more})
        return replace(within, evidence=measured)

    def _worse(
        self,
        within: Verdict,
        alarm: Alarm,
        run: Sequence[Seen],
        provenance: Mapping[str, str],
        baseline: Baseline,
    ) -> Verdict:
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
                **measure(run[-MEASURED_BURSTS:], baseline),
                "channel": channel_of(run[-MEASURED_BURSTS:], baseline),
                "found_by": alarm.found_by.value,
                "score": alarm.score,
                **({"changed": describe_changes(changed)} if changed else {}),
                **({"beside": self._signs.crowded} if cause is Cause.ENVIRONMENT and self._signs.crowded else {}),
            },
        )

    def _find_cause(self, slowdown: Slowdown, alarm: Alarm, provenance: Mapping[str, str], baseline: Baseline) -> None:
        """Whom to blame for the alarm. What the machine or load explains may hide a slower model: then that one, with
        a beginning of its own, is the slowdown from now on."""
        changed = bool(changes(baseline.provenance, provenance))
        self._signs = self._read_signs(slowdown, alarm, baseline)
        found = latency_cause(self._signs, changed=changed, threshold=self._policy.threshold)
        if found is not Cause.MODEL and self._blame.cause in (Cause.ENVIRONMENT, Cause.LOAD):
            hidden = slowdown.beneath()
            signs = None if hidden is None else self._read_signs(slowdown, hidden, baseline)
            if signs and latency_cause(signs, changed=changed, threshold=self._policy.threshold) is Cause.MODEL:
                slowdown.alarm, self._signs, found = hidden, signs, Cause.MODEL
        self._blame = self._blame.follow(found)

    def _read_signs(self, slowdown: Slowdown, alarm: Alarm, baseline: Baseline) -> Signs:
        newest = slowdown.seen_since(alarm.since)
        bursts = len(newest)
        floor, over = slowdown.floors(bursts)
        return Signs(
            whole=alarm.found_by is FoundBy.LOCATION,
            floor=floor,
            floor_over_control=over if slowdown.spans(bursts) else None,
            leans=over is not None and over.rise >= FLOOR_SHARE * self._policy.rise,
            control_share=None if slowdown.control is None or over is None else _shared(slowdown.control, newest),
            busier=self._is_busier(slowdown, newest, slowdown.shift(bursts), alarm, baseline),
            crowded=crowding(newest, baseline.facts),
        )

    def _is_busier(
        self, slowdown: Slowdown, newest: Sequence[Seen], shift: float, alarm: Alarm, baseline: Baseline
    ) -> bool | None:
        """Whether load explains it: as slow at like load before, or more work than ever. None: load is not known."""
        loads = [seen.load for seen in newest if seen.load is not None]
        if not loads or not baseline.loads:
            return None
        load, usual = float(np.median(loads)), float(np.median(baseline.loads))
        like = self._history.at_like(load, until=alarm.since)
        if like is not None:
            if alarm.found_by in (FoundBy.LOCATION, FoundBy.FLOOR):
                return shift - like.off < self._policy.rise / 2
            slow = float(np.mean([slowdown.slow_share(seen) for seen in newest]))
            return slow < LIKE_SLOW * max(like.slow, TAIL)
        return is_more_work(load, usual, math.exp(shift))


def is_the_machines(bursts: Sequence[Burst], baseline: Baseline) -> bool:
    """Whether the control says that what makes these bursts slow is the machine. False without a control."""
    both = [seen for burst in bursts if isinstance(seen := see(burst, baseline), Seen) and seen.controls]
    if not both or not baseline.controls:
        return False
    return _shared(Control(baseline.bursts, baseline.controls), both) >= SHARED


def _shared(control: Control, seen: Sequence[Seen]) -> float:
    both = [each for each in seen if each.controls]
    return control.share([each.latencies for each in both], [each.controls for each in both])


def judge_latency(
    window: Sequence[Burst], baseline: Baseline | None, policy: RegressionPolicy, *, now: float
) -> Verdict:
    """The verdict after bursts of one canary, oldest first, at least one, when nothing was known before them."""
    watch = LatencyWatch(baseline, policy)
    for burst in window:
        watch.take(burst)
    return watch.judge(now=now)
