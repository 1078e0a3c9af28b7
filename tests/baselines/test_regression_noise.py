"""The latency rule in the noise of machines: quiet where nothing changed, not deaf, and the same after a restart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import NOISE, make_baseline, make_bursts, noise, steady
from watching import CONTROLLED, POLICY, bursts_at, controls_at, first_worse, follow, letters, restarted, words

from baselines.baseline import Baseline
from baselines.regression import LatencyWatch
from baselines.scan import KEPT
from baselines.slowdown import Alarm, FoundBy, alarm_of
from baselines.verdict import Cause, Status, Verdict


def alarms(stream: np.ndarray, baseline: Baseline) -> int:
    """At how many bursts of a stream something slower is told that is the model's, or nobody knows whose."""
    watch, told = LatencyWatch(baseline, POLICY), 0
    for burst in make_bursts(stream):
        watch.take(burst)
        if watch.alarm is not None:  # judged only then, for a judgement takes longer than a burst
            told += watch.judge(now=burst.at).cause in (Cause.MODEL, Cause.UNKNOWN)
    return told


@pytest.mark.parametrize("name", NOISE)
def test_no_false_alarm_in_half_a_day_of_noise(name: str) -> None:
    """720 minutes of each kind of machine noise, its own baseline of 60 bursts: nobody is blamed."""
    stream = noise(name, np.random.default_rng([11, len(name)]), 780)
    assert alarms(stream[60:], make_baseline(stream[:60])) == 0


@pytest.mark.parametrize("name", NOISE)
def test_thirty_percent_is_found_in_every_noise(name: str) -> None:
    """A step of 30 % is found within 10 bursts whatever the noise, in 4 where it is moderate; dated within 2."""
    stream = noise(name, np.random.default_rng([12, len(name)]), 115)
    step = np.where(np.arange(55) < 40, 1.0, 1.3)[:, None]
    bursts = make_bursts(stream[60:] * step)
    verdicts = follow(bursts, make_baseline(stream[:60]))
    found = first_worse(verdicts)
    assert found is not None
    assert 40 <= found < (50 if name == "noisy" else 44)
    since = verdicts[found].since
    assert since is not None
    assert abs(since - bursts[40].at) <= 120


@settings(max_examples=12)
@given(st.sampled_from(sorted(NOISE)), st.integers(0, 99), st.integers(1, 119), st.sampled_from([1.0, 1.2, 1.5]))
def test_a_restart_is_no_restart(name: str, seed: int, at: int, ratio: float) -> None:
    """Built anew from what is kept it says of all later bursts what it would have said."""
    stream = noise(name, np.random.default_rng(seed), 180)
    stream[100:] *= ratio
    baseline, bursts = make_baseline(stream[:60]), make_bursts(stream[60:])
    expected = follow(bursts, baseline)
    again = restarted(bursts, at, expected[at - 1], baseline)
    assert words(follow(bursts[at:], watch=again)) == words(expected[at:])


@pytest.mark.parametrize("at", [KEPT + 40, 2 * KEPT + 60])
def test_nor_is_one_after_more_than_is_kept(at: int) -> None:
    """Hours in; a slow start of the stream is forgotten either way."""
    rng = np.random.default_rng(3)
    stream = noise("kitchen", rng, 2 * KEPT + 120)
    stream[60 + 30 : 60 + 50] *= 1.4
    stream[-25:] *= 1.4
    baseline, bursts = make_baseline(stream[:60]), make_bursts(stream[60:])
    expected = follow(bursts, baseline)
    again = restarted(bursts, at, expected[at - 1], baseline)
    assert words(follow(bursts[at:], watch=again)) == words(expected[at:])
    assert expected[-1].status is Status.WORSE


def test_a_slowdown_older_than_what_is_kept_stands_until_it_is_over() -> None:
    """Nothing but the alarm is known of it: it is not over for want of evidence, and it is when p95 is back."""
    watch = LatencyWatch(CONTROLLED, POLICY)
    watch.stand(Alarm(found_by=FoundBy.TAIL, since=0.0, score=5.0), Cause.UNKNOWN)
    rows = [1.3] * 3 + [1.0] * 30
    said = follow(bursts_at(*rows, controls=controls_at(*[1.0] * 33)), watch=watch)
    assert letters(said[:14]) == "W" * 14
    assert letters(said[-12:]) == "O" * 12
    assert {v.since for v in said if v.status is Status.WORSE} == {0.0}


@pytest.mark.parametrize(
    ("evidence", "since"),
    [
        ({}, 1.0),
        ({"found_by": "limit", "score": 5.0}, 1.0),
        ({"found_by": "tail"}, 1.0),
        ({"found_by": "tail", "score": None}, 1.0),
        ({"found_by": 3, "score": 5.0}, 1.0),
        ({"found_by": "tail", "score": 5.0}, None),
    ],
    ids=["nothing", "another rule", "no score", "null", "a number", "no beginning"],
)
def test_what_is_no_stored_alarm_is_none(evidence: dict[str, float | str | None], since: float | None) -> None:
    """A limit's verdict, or one of another version of this program."""
    (verdict,) = follow(bursts_at(1.0))
    assert alarm_of(Verdict(**{**_fields(verdict), "evidence": evidence, "since": since})) is None


def _fields(verdict: Verdict) -> dict[str, object]:
    return {name: getattr(verdict, name) for name in Verdict.__slots__}


def test_an_alarm_survives_in_its_verdict() -> None:
    """What a verdict's evidence keeps of it is all of it."""
    watch = LatencyWatch(make_baseline(steady(np.random.default_rng(0), 30)), POLICY)
    said = follow(bursts_at(*[1.0] * 5, *[1.3] * 5), watch=watch)[-1]
    assert alarm_of(said) == watch.alarm
