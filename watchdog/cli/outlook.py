"""What a baseline lets its canary show, and what to do where that is little: the words of `watchdog baseline`."""

from __future__ import annotations

from alerts.wording import say_duration
from baselines.baseline import Baseline
from baselines.noise import noise_of
from baselines.rehearsal import RISES, Rehearsal
from baselines.slowdown import RegressionPolicy

GOOD_SAMPLES, GOOD_BURSTS = 300, 30  # below them p95 itself is known to no better than several per cent
SLOW_BURSTS = 30  # to find a change of the threshold's size
MANY_ALARMS = 1.0  # in 30 days


def say_outlook(rehearsal: Rehearsal, policy: RegressionPolicy, *, interval_s: float) -> str:
    """One line: what is found and how soon, and how often nothing will be taken for something."""
    threshold, at_threshold = f"{policy.threshold:.0%}", rehearsal.delay_at_threshold
    if at_threshold is not None:
        said = f"+{threshold} would show in about {_bursts(at_threshold, interval_s)}"
    elif rehearsal.smallest is not None and rehearsal.delay is not None:
        said = f"+{threshold} could not be told; +{rehearsal.smallest:.0%} would show in about"
        said += f" {_bursts(rehearsal.delay, interval_s)}"
    else:
        said = f"no slowdown could be told, not even +{max(RISES):.0%}"
    if at_threshold is not None and rehearsal.smallest is not None and rehearsal.smallest < policy.threshold:
        said += f", the smallest is +{rehearsal.smallest:.0%}"
    alarms = f"{rehearsal.false_alarms:.1f}" if rehearsal.false_alarms else "none"
    return f"{said}; false alarms at this noise: {alarms} a month, tried on {rehearsal.bursts:,} bursts drawn from it"


def advise(baseline: Baseline, rehearsal: Rehearsal, policy: RegressionPolicy) -> list[str]:
    """What would make it better, the most useful first; empty when it is good."""
    noise = noise_of(baseline.bursts, threshold=policy.threshold, prior=baseline.prior)
    slow = rehearsal.delay_at_threshold is None or rehearsal.delay_at_threshold > SLOW_BURSTS
    advice = []
    if len(baseline.bursts) < GOOD_BURSTS:
        advice.append(f"take {GOOD_BURSTS} bursts (without --quick): a few share one moment of the machine")
    elif baseline.samples < GOOD_SAMPLES:
        advice.append(f"ask more often in a burst (burst, max_busy): {baseline.samples} samples are few for a p95")
    if slow and float(noise.within) > float(noise.between):
        advice.append("requests of one burst differ the most: more of them in a burst (burst, max_busy) lowers that")
    if slow and float(noise.within) <= float(noise.between):
        advice.append("bursts differ from each other: pin clocks, or take it while the machine does nothing else")
    if slow and not baseline.controls:
        advice.append('add a control (control_url, or control = "agent"): it takes the machine\'s noise off')
    if rehearsal.false_alarms > MANY_ALARMS:
        advice.append("ask for more evidence ([target.regression] evidence), or a higher threshold")
    return advice


def _bursts(count: float, interval_s: float) -> str:
    return f"{count:.0f} bursts ({say_duration(count * interval_s)})"
