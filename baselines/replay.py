"""What the live detectors would have said about a recording: a line per change of status or level, then a summary.

`row` is the data row on which the verdict was reached, counted from 0 (from the store: the burst or sample). In the
summary `rows` counts all data rows, `worse` how often the verdict turned WORSE, `first_worse` is the time of the first.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby
from statistics import median
from typing import Any, TypeVar

from baselines.baseline import Baseline, NotReady, gather
from baselines.leak import LeakPolicy, LeakWatch
from baselines.recording import NAME, ReplayError, Request
from baselines.regression import LatencyWatch
from baselines.slopes import MAX_SLOPES, Former, SlopeHistory
from baselines.slowdown import RegressionPolicy
from baselines.verdict import Check, Level, Status, Verdict
from probes.facts import LOAD
from probes.messages import Burst, Identity, MemorySample, Outcome

SCHEMA = 1
BURST_GAP_S = 5.0  # requests further apart than this belong to different bursts, unless the file names its bursts

_NUMBERS = (
    "samples",
    "ratio",
    "ratio_low",
    "ratio_high",
    "channel",
    "slope_bytes_per_hour",
    "slope_low",
    "slope_high",
    "seconds_to_capacity",
)

Line = dict[str, float | int | str | None]
Policy = TypeVar("Policy", RegressionPolicy, LeakPolicy)


def parse_rows(text: str) -> tuple[int, int]:
    """ "A:B" as two row numbers, half-open. Raises ReplayError."""
    first, colon, last = text.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal() or int(first) >= int(last):
        raise ReplayError(f"baseline rows must be A:B with A < B, data rows counted from 0 (given: {text!r})")
    return int(first), int(last)


def baseline_of(requests: Sequence[Request], first: int, last: int) -> Baseline:
    """The baseline that rows first..last-1 make; failed requests in it are left out.

    Raises ReplayError when there are no such rows, none after them to judge, or too few good samples.
    """
    if not 0 <= first < last < len(requests):
        allowed = f"the file has rows 0 to {len(requests) - 1} and the last must be left to judge"
        raise ReplayError(f"baseline rows {first}:{last}: {allowed}")
    good = [r for r in requests[first:last] if r.sample.outcome is Outcome.GOOD]
    bursts = [burst for _, burst in _group(good, like=None)]
    try:
        return gather(bursts, label=None, provisional=False, taken_at=requests[last - 1].sample.at, min_bursts=1)
    except NotReady as error:
        raise ReplayError(f"baseline rows {first}:{last}: {error}") from error


def replay_latency(
    requests: Sequence[Request], *, baseline: Baseline | None, first_row: int = 0, policy: RegressionPolicy
) -> Iterator[Line]:
    """Judge the bursts from first_row on. A file does not say on what it ran: the baseline's identity is assumed."""
    grouped = list(_group(requests[first_row:], like=baseline))
    judged = _judge_bursts((burst for _, burst in grouped), baseline, policy)
    last_rows = (first_row + last for last, _ in grouped)
    return _report(zip(last_rows, judged, strict=True), rows=len(requests))


def replay_bursts(
    bursts: Sequence[Burst], *, baselines: Sequence[Baseline], policy: RegressionPolicy
) -> Iterator[Line]:
    """Judge bursts of one canary, oldest first, as they were stored.

    baselines: in the order in which they became active, each with its `since`. A burst is judged by the one that was
    active then; before the first, by the first.
    """
    return _report(enumerate(_judge_by_turns(bursts, baselines, policy)), rows=len(bursts))


def _judge_by_turns(
    bursts: Sequence[Burst], baselines: Sequence[Baseline], policy: RegressionPolicy
) -> Iterator[Verdict]:
    begins = [baseline.since or -math.inf for baseline in baselines[1:]]
    for turn, these in groupby(bursts, key=lambda burst: bisect_right(begins, burst.at)):
        yield from _judge_bursts(these, baselines[turn] if baselines else None, policy)


def replay_memory(points: Sequence[MemorySample], *, policy: LeakPolicy, more: Sequence[str] = ()) -> Iterator[Line]:
    """Judge memory samples, in the order of time; each life by itself, so each begins with a verdict of its own.

    more: further figures of the evidence that each line is to hold.
    """
    return _report(_judge_points(points, policy), rows=len(points), more=more)


def apply_what_if(policy: Policy, change: str) -> Policy:
    """The policy with one "key=value" changed; "none" unsets what may be unset. Raises ReplayError."""
    key, equals, text = change.partition("=")
    key, text = key.strip(), text.strip()
    kinds = {field.name: str(field.type) for field in fields(policy)}
    if not equals or key not in kinds:
        raise ReplayError(f"what-if {change!r}: allowed are {', '.join(f'{name}=' for name in kinds)}")
    try:
        changed: dict[str, Any] = {key: _parse(text, kinds[key])}
        return replace(policy, **changed)
    except ValueError as error:
        raise ReplayError(f"what-if {change!r}: {error}") from error


def _parse(text: str, kind: str) -> float | None:
    if text.lower() == "none" and "None" in kind:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    whole = "int" in kind
    if not math.isfinite(number) or (whole and number != int(number)):
        raise ValueError(f"the value must be a {'whole ' if whole else ''}number")
    return int(number) if whole else number


def _group(requests: Sequence[Request], *, like: Baseline | None) -> Iterator[tuple[int, Burst]]:
    """(index of its last request, burst) for each burst."""
    gathered: list[Request] = []
    for index, request in enumerate(requests):
        if gathered and _starts_burst(requests[index - 1], request):
            yield index - 1, _burst(gathered, like)
            gathered = []
        gathered.append(request)
    if gathered:
        yield len(requests) - 1, _burst(gathered, like)


def _starts_burst(previous: Request, request: Request) -> bool:
    if previous.burst is None and request.burst is None:
        return request.sample.at - previous.sample.at > BURST_GAP_S
    return request.burst != previous.burst


def _burst(requests: Sequence[Request], like: Baseline | None) -> Burst:
    samples = tuple(request.sample for request in requests)
    loads = [request.load for request in requests if request.load is not None]
    return Burst(
        target=like.target if like else NAME,
        canary=like.canary if like else NAME,
        at=samples[0].at,
        samples=samples,
        identity=like.identity if like else Identity(input_hash=NAME),
        provenance=like.provenance if like else {},
        facts={LOAD: median(loads)} if loads else {},
    )


def _judge_bursts(bursts: Iterable[Burst], baseline: Baseline | None, policy: RegressionPolicy) -> Iterator[Verdict]:
    watch = LatencyWatch(baseline, policy)
    for burst in bursts:
        watch.take(burst)
        yield watch.judge(now=burst.samples[-1].at)


def _judge_points(points: Sequence[MemorySample], policy: LeakPolicy) -> Iterator[tuple[int, Verdict]]:
    """As the daemon does: a new life takes over the slopes of those before it, and knows of a leak of the last one."""
    ends = {point.life: row for row, point in enumerate(points)}
    watches: dict[str, LeakWatch] = {}
    due_s: dict[str, float] = {}  # age at which each is judged next
    slopes: dict[str | None, dict[tuple[str, int], list[float]]] = {}
    newest: dict[str | None, float] = {}
    last_known: dict[int, Verdict] = {}  # of each slot
    for row, point in enumerate(points):
        if point.life not in watches:
            watches[point.life] = LeakWatch(policy)
            before = last_known.get(point.slot)
            former = Former.of(before) if before is not None and ends[str(before.life)] < row else None
            watches[point.life].inherit(SlopeHistory.of(point.version, slopes, newest, former=former))
        watch = watches[point.life]
        watch.take([point])
        for key, fresh in watch.drain().items():
            past = slopes.setdefault(watch.version, {})
            past[key] = [*past.get(key, ()), *fresh][-MAX_SLOPES:]
            newest[watch.version] = point.at
        if watch.age_s >= due_s.get(point.life, -math.inf):
            due_s[point.life] = watch.age_s + policy.judge_every_s
            verdict = watch.judge(now=point.at)
            if verdict.status is not Status.UNKNOWN:
                last_known[point.slot] = verdict
            yield row, verdict


def _report(judged: Iterable[tuple[int, Verdict]], *, rows: int, more: Sequence[str] = ()) -> Iterator[Line]:
    said: dict[str | None, tuple[Status, Level]] = {}
    worse, first_worse = 0, None
    for row, verdict in judged:
        about = verdict.life if verdict.check is Check.MEMORY else None
        before, said[about] = said.get(about), (verdict.status, verdict.level)
        if before == said[about]:
            continue
        if verdict.status is Status.WORSE and (before is None or before[0] is not Status.WORSE):
            worse += 1
            first_worse = verdict.at if first_worse is None else first_worse
        yield _line(row, verdict, more)
    yield {"type": "summary", "schema": SCHEMA, "rows": rows, "worse": worse, "first_worse": first_worse}


def _line(row: int, verdict: Verdict, more: Sequence[str]) -> Line:
    return {
        "type": "verdict",
        "schema": SCHEMA,
        "time": verdict.at,
        "row": row,
        "check": verdict.check.value,
        "status": verdict.status.value,
        "reason": verdict.reason.value,
        "cause": verdict.cause.value,
        "level": verdict.level.value,
        "since": verdict.since,
        **{key: verdict.evidence.get(key) for key in (*_NUMBERS, *more)},
    }
