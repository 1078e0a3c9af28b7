"""A replica beside the others of its group: who is named, who never is, and what is said when nobody knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import IDENTITY, MINUTE, START, make_burst, steady

from baselines.fleet import CLEARING, KEPT, WINDOWS, judge_peers, weigh
from baselines.pace import Pace, Track, pace_of
from baselines.verdict import Cause, Check, Level, Reason, Status, Verdict
from probes.messages import Burst, Identity, Outcome

L4 = Identity(input_hash="abc", shapes="1x8", dtype="float32", gpu_type="NVIDIA L4")
H100 = replace(L4, gpu_type="NVIDIA H100")
THRESHOLD = 0.2
Group = dict[str, list[Burst]]


def group(
    *ratios: float, bursts: int = KEPT, sd: float = 0.04, seed: int = 1, identity: Identity = L4, apart_s: float = 7.0
) -> Group:
    """Replicas "a", "b", ... that much slower than 50 ms, a burst a minute each, some seconds after each other."""
    rng = np.random.default_rng(seed)
    return {
        "abcdefghijklmnop"[k]: [
            replace(
                make_burst(row, at=START + MINUTE * t + apart_s * k, identity=identity), target="abcdefghijklmnop"[k]
            )
            for t, row in enumerate((steady(rng, bursts, sd=sd) * ratio).tolist())
        ]
        for k, ratio in enumerate(ratios)
    }


def paces(bursts: Group) -> dict[str, tuple[Pace, ...]]:
    tracks = {name: Track(KEPT) for name in bursts}
    for name, each in bursts.items():
        for burst in each:
            tracks[name].take(burst)
    return {name: track.paces for name, track in tracks.items()}


def judge(bursts: Group, name: str, *, named: bool = False, threshold: float = THRESHOLD) -> Verdict:
    newest = bursts[name][-1]
    return judge_peers(newest, paces(bursts), threshold, named=named, now=newest.at)


def named(bursts: Group) -> list[str]:
    return [name for name in bursts if judge(bursts, name).status is Status.WORSE]


def test_slower_replica_is_named_with_its_place_and_interval() -> None:
    """Replica 3 of 4 is 24 % slower: what a person is told, and at which level."""
    slow = group(1.0, 1.0, 1.24, 1.0)
    verdict = judge(slow, "c")
    assert (verdict.status, verdict.reason, verdict.subject) == (
        Status.WORSE,
        Reason.SLOWER_THAN_PEERS,
        "peers default",
    )
    assert (verdict.cause, verdict.level, verdict.strikes, verdict.check) == (
        Cause.UNKNOWN,
        Level.PAGE,
        1,
        Check.LATENCY,
    )
    evidence = verdict.evidence
    assert (evidence["replica"], evidence["replicas"], evidence["peers"]) == (3, 4, 3)
    assert evidence["gpu_type"] == "NVIDIA L4"
    assert evidence["ratio"] == pytest.approx(1.24, rel=0.02)
    assert evidence["ratio_low"] < evidence["ratio"] < evidence["ratio_high"]
    assert named(slow) == ["c"]


def test_nobody_is_named_among_equals() -> None:
    """They are all within their peers, and the evidence says by how much."""
    verdicts = [judge(group(1.0, 1.03, 0.97, 1.05), name) for name in "abcd"]
    assert {(v.status, v.reason) for v in verdicts} == {(Status.OK, Reason.WITHIN_PEERS)}
    assert all(0.9 < v.evidence["ratio"] < 1.1 for v in verdicts)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((1.4, 1.4, 1.0, 1.0), Reason.PEERS_DISAGREE),
        ((1.4,) * 8 + (1.0,) * 8, Reason.PEERS_DISAGREE),
        ((1.4,) * 5 + (1.0,) * 11, Reason.PEERS_DISAGREE),
        ((1.4,) * 4 + (1.0,) * 12, Reason.SLOWER_THAN_PEERS),
        ((1.4, 1.4) + (1.0,) * 6, Reason.SLOWER_THAN_PEERS),
        ((1.0, 1.0, 0.5), Reason.PEERS_DISAGREE),
    ],
    ids=["half of 4", "half of 16", "more than a quarter", "a quarter", "two of 8", "one of 3 is much faster"],
)
def test_at_most_a_quarter_is_named(ratios: tuple[float, ...], said: Reason) -> None:
    """Of two halves nobody knows which is wrong. Who is fast is never blamed for it."""
    bursts = group(*ratios)
    slow = [name for name, ratio in zip(bursts, ratios, strict=True) if ratio == max(ratios)]
    for name in bursts:
        verdict = judge(bursts, name)
        if name in slow:
            assert verdict.reason is said
        else:
            assert verdict.reason in (Reason.WITHIN_PEERS, Reason.PEERS_DISAGREE)
            assert verdict.status is not Status.WORSE


def test_group_that_gets_slower_together_names_nobody() -> None:
    """Twice as slow from one minute to the next, and the bursts are not even taken at the same second."""
    rng = np.random.default_rng(3)
    load = np.where(np.arange(KEPT) < KEPT // 2, 1.0, 2.0) * np.exp(rng.normal(0, 0.3, KEPT))
    bursts = {
        name: [
            replace(
                make_burst((np.array([s.latency_s for s in b.samples]) * load[t]).tolist(), at=b.at, identity=L4),
                target=name,
            )
            for t, b in enumerate(each)
        ]
        for name, each in group(1.0, 1.0, 1.0, 1.0, apart_s=1.0).items()
    }
    assert named(bursts) == []
    assert judge(bursts, "d").status is Status.OK


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_cannot_be_compared(count: int) -> None:
    """Of two that differ either may be the one that changed."""
    verdict = judge(group(*[1.5, 1.0][:count]), "a")
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, Reason.TOO_FEW_PEERS)


def test_only_equal_identities_are_compared() -> None:
    """Another type of GPU is another speed; nothing is said across it."""
    mixed = group(1.5, 1.5, 1.5) | {
        {"a": "x", "b": "y", "c": "z"}[name]: [replace(b, target={"a": "x", "b": "y", "c": "z"}[name]) for b in each]
        for name, each in group(1.0, 1.0, 1.0, identity=H100).items()
    }
    assert {judge(mixed, name).reason for name in mixed} == {Reason.WITHIN_PEERS}
    alone = group(1.5, 1.0) | {"z": [replace(b, target="z") for b in group(1.0, identity=H100)["a"]]}
    verdict = judge(alone, "a")
    assert (verdict.reason, verdict.evidence["replicas"]) == (Reason.TOO_FEW_PEERS, 3)


def test_replica_whose_input_changed_begins_anew() -> None:
    """Its bursts from before are of another question, fast as they were."""
    bursts = group(1.0, 1.0, 1.0, 1.0)
    bursts["a"] = [*bursts["a"][:-5], *(replace(b, identity=IDENTITY) for b in bursts["a"][-5:])]
    assert judge(bursts, "a").reason is Reason.TOO_FEW_PEERS
    assert judge(bursts, "b").status is Status.OK


def test_dead_replica_is_left_out() -> None:
    """Three that go on are compared with each other; with two left nobody is."""
    gone = group(1.0, 1.0, 1.3, 1.0)
    gone["a"] = gone["a"][: KEPT - 20]
    verdict = judge(gone, "c")
    assert (verdict.status, verdict.evidence["peers"]) == (Status.WORSE, 2)
    gone["b"] = gone["b"][: KEPT - 20]
    assert judge(gone, "c").reason is Reason.TOO_FEW_PEERS


@pytest.mark.parametrize(
    ("outcomes", "tainted", "reason"),
    [
        ([Outcome.TIMEOUT], [False], Reason.NO_DATA),
        ([Outcome.GOOD] * 10, [True] * 10, Reason.TAINTED),
        ([Outcome.GOOD] * 3 + [Outcome.STATUS_500] * 7, [False] * 10, Reason.TOO_FEW_SAMPLES),
    ],
)
def test_burst_that_cannot_be_judged_is_unknown(outcomes: list[Outcome], tainted: list[bool], reason: Reason) -> None:
    """Whatever the bursts before it said; and it is no burst to compare others with."""
    bursts = group(1.0, 1.0, 1.5, 1.0)
    failed = make_burst(
        [0.05] * len(outcomes), at=bursts["c"][-1].at + 60, outcomes=outcomes, tainted=tainted, identity=L4
    )
    assert pace_of(failed) is None
    bursts["c"].append(replace(failed, target="c"))
    verdict = judge(bursts, "c", named=True)
    assert (verdict.status, verdict.reason) == (Status.UNKNOWN, reason)


def test_first_bursts_are_too_few_and_say_how_many_are_missing() -> None:
    """Unless they are so slow that a few are enough."""
    young = judge(group(1.0, 1.0, 1.3, bursts=WINDOWS[0]), "c")
    assert (young.status, young.reason) == (Status.UNKNOWN, Reason.TOO_FEW_SAMPLES)
    assert young.evidence["samples_needed"] == 10 * (KEPT - WINDOWS[0])
    assert judge(group(1.0, 1.0, 2.0, bursts=WINDOWS[0]), "c").status is Status.WORSE
    assert judge(group(1.0, 1.0, 2.0, bursts=WINDOWS[0] - 1), "c").status is Status.UNKNOWN


def test_slow_top_over_an_even_floor_is_not_named() -> None:
    """A busier replica: eight of ten requests wait, the fastest do not."""
    bursts = group(1.0, 1.0, 1.0, 1.0)
    waits = [1.0, 1.0] + [1.6] * 8
    bursts["c"] = [
        replace(make_burst([0.05 * w for w in waits], at=b.at, identity=L4), target="c") for b in bursts["c"]
    ]
    verdict = judge(bursts, "c")
    assert verdict.evidence["ratio"] > 1 + THRESHOLD
    assert verdict.status is Status.OK


def test_a_few_slow_bursts_name_nobody() -> None:
    """However slow: they are no run."""
    bursts = group(1.0, 1.0, 1.0, 1.0)
    bursts["c"][-7:] = group(1.0, 1.0, 5.0, 1.0)["c"][-7:]
    assert judge(bursts, "c").status is Status.OK


def test_replica_in_doubt_is_not_named() -> None:
    """As slow in the middle, but so uneven that the interval reaches down to what is normal."""
    even, uneven = group(1.0, 1.0, 1.25, 1.0), group(1.0, 1.0, 1.0, 1.0)
    jumps = np.exp(np.random.default_rng(5).normal(math.log(1.25), 0.5, KEPT))
    uneven["c"] = [
        replace(make_burst([0.05 * jump] * 10, at=b.at, identity=L4), target="c")
        for b, jump in zip(even["c"], jumps, strict=True)
    ]
    assert judge(even, "c").status is Status.WORSE
    verdict = judge(uneven, "c")
    assert verdict.status is Status.OK
    assert verdict.evidence["ratio_low"] < 1 + THRESHOLD / 2


def test_named_replica_stays_so_until_it_is_clearly_back() -> None:
    """At +15 % it is not named anew and not cleared; a few fast bursts clear it, one does not."""
    near = group(1.0, 1.0, 1.15, 1.0)
    assert judge(near, "c").status is Status.OK
    assert judge(near, "c", named=True).status is Status.WORSE
    back = group(1.0, 1.0, 1.3, 1.0)
    fast = group(1.0, 1.0, 1.0, 1.0)["c"]
    for count, status in ((1, Status.WORSE), (CLEARING // 2, Status.WORSE), (CLEARING, Status.OK)):
        cured = back | {"c": [*back["c"][:-count], *fast[-count:]]}
        assert judge(cured, "c", named=True).reason is (
            Reason.SLOWER_THAN_PEERS if status is Status.WORSE else Reason.WITHIN_PEERS
        )


def test_young_replica_that_is_back_refutes_what_was_said() -> None:
    """It takes an hour to call it within its peers; that it is slower is over at once."""
    bursts = group(1.0, 1.0, 2.0, 1.0, bursts=WINDOWS[0])
    assert judge(bursts, "c").status is Status.WORSE
    bursts["c"][-CLEARING:] = group(1.0, 1.0, 1.0, bursts=WINDOWS[0])["c"][-CLEARING:]
    assert judge(bursts, "c", named=True).status is Status.UNKNOWN
    assert judge(bursts, "c", named=True).refutes is Reason.SLOWER_THAN_PEERS
    assert judge(bursts, "c").refutes is None


def test_begin_is_estimated() -> None:
    """Within two bursts of where it was."""
    bursts = group(1.0, 1.0, 1.0, 1.0)
    bursts["c"][20:] = group(1.0, 1.0, 1.4, 1.0)["c"][20:]
    verdict = judge(bursts, "c")
    assert verdict.since == pytest.approx(bursts["c"][20].at, abs=2 * MINUTE)


def test_version_that_only_it_has_is_said() -> None:
    """And one that differs among the peers too is not."""
    bursts = group(1.0, 1.0, 1.4, 1.0)
    for name, each in bursts.items():
        about = {"model_version": "2" if name == "c" else "1", "server": f"on {name}", "torch": "2.9"}
        bursts[name] = [replace(b, provenance=about) for b in each]
    assert judge(bursts, "c").evidence["differs"] == "model_version 2 (peers: 1)"


def test_what_is_told_already_is_not_told_twice() -> None:
    """Beside its own slowdown it is evidence, within its own baseline nothing new, without one a page."""
    worse = judge(group(1.0, 1.0, 1.4, 1.0), "c")

    def own(status: Status) -> Verdict:
        reason = {Status.OK: Reason.WITHIN_BASELINE, Status.WORSE: Reason.REGRESSED, Status.UNKNOWN: Reason.NO_BASELINE}
        return replace(worse, subject="default", status=status, reason=reason[status])

    assert weigh(worse, own(Status.UNKNOWN), told=False).level is Level.PAGE
    assert weigh(worse, own(Status.OK), told=False).level is Level.WATCH
    assert weigh(worse, own(Status.WORSE), told=False).level is Level.INFO
    assert weigh(worse, own(Status.UNKNOWN), told=True).level is Level.INFO
    environment = replace(worse, cause=Cause.ENVIRONMENT, level=Level.INFO)
    assert weigh(environment, own(Status.UNKNOWN), told=False).level is Level.INFO
    fine = judge(group(1.0, 1.0, 1.0), "c")
    assert weigh(fine, own(Status.OK), told=True) is fine


def test_burst_that_comes_again_counts_once_and_a_clock_set_back_begins_anew() -> None:
    """After a database error the same burst is judged again; what is later than now was another clock's."""
    track, (first, second, third) = Track(KEPT), group(1.0, bursts=3)["a"]
    for burst in (first, second, second, third, third):
        track.take(burst)
    assert [p.at for p in track.paces] == [first.at, second.at, third.at]
    track.take(replace(first, at=second.at - 1))
    assert [p.at for p in track.paces] == [first.at, second.at - 1]


def test_track_is_bounded() -> None:
    """It keeps the newest."""
    track, bursts = Track(3), group(1.0, bursts=5)["a"]
    for burst in bursts:
        track.take(burst)
    assert [p.at for p in track.paces] == [b.at for b in bursts[-3:]]


# --- properties -------------------------------------------------------------------------------------------------------

RATIOS = st.lists(st.floats(0.7, 1.6), min_size=3, max_size=7)


def words(verdict: Verdict) -> tuple[object, ...]:
    return verdict.status, verdict.reason, verdict.level, verdict.since, verdict.evidence.get("bursts")


def in_order(bursts: Mapping[str, list[Burst]], order: list[str]) -> Group:
    return {name: bursts[name] for name in order}


@settings(max_examples=40)
@given(RATIOS, st.randoms(use_true_random=False))
def test_order_of_the_targets_is_irrelevant(ratios: list[float], random: object) -> None:
    """Nobody's verdict depends on who stands first in the configuration."""
    bursts = group(*ratios)
    order = sorted(bursts)
    random.shuffle(order)  # type: ignore[attr-defined]
    for name in bursts:
        assert judge(bursts, name) == judge(in_order(bursts, order), name)


@settings(max_examples=40)
@given(RATIOS, st.floats(1e-3, 1e3))
def test_verdict_does_not_depend_on_the_unit(ratios: list[float], factor: float) -> None:
    """All latencies of the group times a constant change no word of it."""
    plain, scaled = judge(group(*ratios), "a"), judge(group(*[factor * ratio for ratio in ratios]), "a")
    near = any(abs(plain.evidence.get("ratio", 0) / edge - 1) < 1e-6 for edge in (1.1, 1.2))  # a rounding decides there
    assert near or words(plain) == words(scaled)
    assert scaled.evidence["ratio"] == pytest.approx(plain.evidence["ratio"])


@settings(max_examples=40)
@given(RATIOS, st.floats(1.0, 3.0))
def test_slower_replica_never_turns_from_worse_to_ok(ratios: list[float], slower: float) -> None:
    """The more it lags, the more it is named; its peers are named no more for it."""
    before, after = group(*ratios), group(ratios[0] * slower, *ratios[1:])
    if judge(before, "a").status is Status.WORSE:
        assert judge(after, "a").status is Status.WORSE
    for name in list(before)[1:]:
        if judge(before, name).status is Status.OK:
            assert judge(after, name).status is not Status.WORSE


@pytest.mark.parametrize("seed", range(3))
def test_one_figure_flips_the_verdict(seed: int) -> None:
    """The threshold decides, and so does how slow the one replica is: 15 % is normal, 25 % is named."""
    assert named(group(1.0, 1.15, 1.0, 1.0, seed=seed)) == []
    assert named(group(1.0, 1.25, 1.0, 1.0, seed=seed)) == ["b"]
    assert judge(group(1.0, 1.25, 1.0, 1.0, seed=seed), "b", threshold=0.4).status is Status.OK
