"""The scan against a slow and plain one, which reads each window from the bursts themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import noise, steady

from baselines.noise import Noise, count_slow, levels, location, noise_of, side_by_side
from baselines.scan import (
    AGREEING,
    CENTER,
    CLEARLY,
    CLIP,
    FEW_SLOW,
    GATE,
    HALFWAY,
    KEPT,
    LOCATION_WINDOWS,
    MIN_TAIL_BURSTS,
    SHORT,
    TAIL_CAUTION,
    TAIL_SHARE,
    TAIL_WINDOWS,
    WANDER,
    Channel,
    Scan,
    divergence,
    spread_of,
)

Bursts = Sequence[np.ndarray]


def noise_in(bursts: np.ndarray) -> Noise:
    return noise_of(tuple(map(tuple, bursts.tolist())), threshold=0.2)


def is_up(logs: Bursts, noise: Noise) -> bool:
    """The gate: more than 5 % of all requests lie above 1.15 times the baseline's p95."""
    pooled = np.concatenate(logs)
    return bool((pooled > noise.p95 + math.log(1 + GATE * 0.2)).sum() > 0.05 * len(pooled))


def score_location(logs: Bursts, noise: Noise) -> tuple[float, bool]:
    """The weighted mean shift of these bursts over its error, and whether they agree."""
    cap = max(CLIP * noise.rise, noise.rise + 1.5 * math.sqrt(noise.variance(noise.size)))
    offs = [float(location(burst)) - noise.center for burst in logs]
    weights = [1 / float(noise.variance(len(burst))) for burst in logs]
    mean = sum(w * min(max(off, -cap), cap) for w, off in zip(weights, offs, strict=True)) / sum(weights)
    error = math.sqrt(1 / sum(weights) + CENTER * float(noise.variance(noise.size)) / noise.bursts + WANDER**2)
    if len(logs) < SHORT:
        return mean / error, all(off > CLEARLY * noise.rise for off in offs)
    return mean / error, sum(off > HALFWAY * noise.rise for off in offs) >= AGREEING * len(logs)


def score_tail(logs: Bursts, noise: Noise, *, line: float, rate: float, spread: float) -> tuple[float, bool]:
    """How far the share of slow requests is from the usual rate, and whether it is so in enough bursts."""
    slow = [float(count_slow(burst, line)) for burst in logs]
    weights = [1 / float(spread_of(spread, noise.size, len(burst))) for burst in logs]
    of = sum(w * len(burst) for w, burst in zip(weights, logs, strict=True))
    share = sum(w * s for w, s in zip(weights, slow, strict=True)) / of
    z = math.sqrt(2 * of * float(divergence(share, rate))) / TAIL_CAUTION if share > rate else 0.0
    agreeing = sum(s >= max(1, round(FEW_SLOW * len(burst))) for s, burst in zip(slow, logs, strict=True))
    return z, agreeing >= max(MIN_TAIL_BURSTS, TAIL_SHARE * len(logs))


def score_slowly(bursts: Bursts, noise: Noise) -> dict[Channel, float]:
    """Of each channel the strongest window that agrees and passes the gate; 0 without one."""
    logs = [np.log(burst) for burst in bursts]
    usual = levels(np.array([float(location(burst)) for burst in logs]))
    rests = [burst - level for burst, level in zip(logs, usual, strict=True)]
    tail = {"line": noise.tail_line, "rate": noise.tail_rate, "spread": noise.tail_spread}
    shape = {"line": noise.shape_line, "rate": noise.shape_rate, "spread": noise.shape_spread}
    found = dict.fromkeys(Channel, 0.0)
    for channel in Channel:
        for window in LOCATION_WINDOWS if channel is Channel.LOCATION else TAIL_WINDOWS:
            newest = slice(len(logs) - int(window), None)
            if window > min(len(logs), KEPT) or not is_up(logs[newest], noise):
                continue
            if channel is Channel.LOCATION:
                z, agree = score_location(logs[newest], noise)
            elif channel is Channel.TAIL:
                z, agree = score_tail(logs[newest], noise, **tail)
            else:
                z, agree = score_tail(rests[newest], noise, **shape)
            found[channel] = max(found[channel], z if agree else 0.0)
    return found


def scan_all(bursts: Bursts, noise: Noise) -> Scan:
    scan = Scan(noise)
    for burst in bursts:
        scan.take(burst)
    return scan


@pytest.mark.parametrize("count", [1, 3, 7, 40, KEPT, 2 * KEPT, 2 * KEPT + 1, 3 * KEPT + 17])
def test_it_says_what_the_plain_one_says(count: int) -> None:
    """Bursts of many sizes, some slow, more of them than are kept."""
    rng = np.random.default_rng(count)
    usual = noise_in(noise("kitchen", rng, 40))
    bursts = [0.05 * np.exp(rng.normal(0.02, 0.1, rng.integers(1, 30))) for _ in range(count)]
    for i in range(count - min(count, 12), count):
        bursts[i] = bursts[i] * rng.choice([1.1, 1.35, 1.5])
    score = scan_all(bursts, usual).score()
    expected = score_slowly(bursts, usual)
    assert {channel: float(score.z[channel]) for channel in Channel} == pytest.approx(expected)
    assert float(score.hint) >= max(expected.values()) - 1e-9
    if count >= 7:
        assert expected[Channel.LOCATION] > 0


@pytest.mark.parametrize("kind", ["pareto", "gc", "outburst"])
def test_tails_are_what_the_plain_one_says(kind: str) -> None:
    """At every burst of a stream in which one request in six becomes slow."""
    rng = np.random.default_rng(3)
    usual, rows = noise_in(noise(kind, rng, 60)), noise(kind, rng, 60)
    rows[30:] *= np.where(rng.random((30, 10)) < 0.17, 1.7, 1.0)
    scan, last = Scan(usual), {}
    for i, row in enumerate(rows):
        scan.take(row)
        if i % 6 == 5:
            score, last = scan.score(), score_slowly(rows[: i + 1], usual)
            assert {channel: float(score.z[channel]) for channel in Channel} == pytest.approx(last)
    assert min(last[Channel.TAIL], last[Channel.SHAPE]) > 3


def test_lanes_are_so_many_single_streams() -> None:
    """With a noise of its own each, and beyond what is kept."""
    rng = np.random.default_rng(4)
    kinds = ["quiet", "gc", "kitchen"]
    noises = [noise_in(noise(kind, rng, 30)) for kind in kinds]
    rows = np.stack([noise(kind, rng, 2 * KEPT + 40) for kind in kinds])
    rows[:, -25:] *= 1.25
    lanes = Scan(side_by_side(noises), lanes=(3,))
    alone = [Scan(each) for each in noises]
    for i in range(rows.shape[1]):
        lanes.take(rows[:, i])
        for lane, scan in enumerate(alone):
            scan.take(rows[lane, i])
        if i % 53 and i < rows.shape[1] - 3:
            continue
        together, scores = lanes.score(), [scan.score() for scan in alone]
        for channel in Channel:
            assert together.z[channel] == pytest.approx(np.array([s.z[channel] for s in scores]))
            assert together.bursts[channel].tolist() == [int(s.bursts[channel]) for s in scores]
        assert together.hint == pytest.approx(np.array([s.hint for s in scores]))


def test_only_the_last_kept_bursts_count() -> None:
    """What it was before them is forgotten: two streams that differ only there score alike."""
    rng = np.random.default_rng(5)
    usual, shared = noise_in(steady(rng, 30)), steady(rng, KEPT + 6) * 1.1
    scans = [scan_all([*steady(rng, 2 * KEPT) * factor, *shared], usual) for factor in (0.5, 3.0)]
    one, other = (scan.score() for scan in scans)
    assert [scan.bursts for scan in scans] == [KEPT, KEPT]
    assert {c: float(one.z[c]) for c in Channel} == pytest.approx({c: float(other.z[c]) for c in Channel})


def test_before_the_shortest_window_is_full_it_says_nothing() -> None:
    """Not even of bursts a hundred times as slow."""
    usual = noise_in(steady(np.random.default_rng(6), 30))
    assert Scan(usual).score().hint == 0
    score = scan_all(steady(np.random.default_rng(7), 2) * 100, usual).score()
    assert [float(score.z[channel]) for channel in Channel] == [0, 0, 0]


@pytest.mark.parametrize(("channel", "fast"), [(Channel.LOCATION, 4), (Channel.TAIL, 14)])
def test_back_is_what_surely_is(channel: Channel, fast: int) -> None:
    """After slow bursts so many fast ones, and only bursts since it began count: before it all were fast."""
    usual = noise_in(steady(np.random.default_rng(5), 60))
    slow = np.full(10, 0.05 * 1.2) if channel is Channel.LOCATION else np.array([0.05] * 8 + [0.07] * 2)
    scan = scan_all([np.full(10, 0.05)] * 30 + [slow] * 3, usual)
    assert not scan.is_back(channel, since=3)
    for count in range(30):
        scan.take(slow)
        assert not scan.is_back(channel, since=4 + count)
    for count in range(1, fast + 1):
        scan.take(np.full(10, 0.05))
        assert scan.is_back(channel, since=33 + count) == (count == fast)


@pytest.mark.parametrize("shift", [1.2, 1.5])
@pytest.mark.parametrize("ago", [3, 10, 60])
def test_where_it_began(ago: int, shift: float) -> None:
    """The location's estimate is the true beginning, on quiet noise."""
    rng = np.random.default_rng(8)
    usual, rows = noise_in(steady(rng, 60)), steady(rng, 100)
    rows[-ago:] *= shift
    scan = scan_all(rows, usual)
    assert scan.began(Channel.LOCATION, int(scan.score().bursts[Channel.LOCATION])) == ago


def test_where_a_tail_began() -> None:
    """Within a few bursts, for not each of them has a slow request."""
    rng = np.random.default_rng(9)
    usual, rows = noise_in(steady(rng, 60)), steady(rng, 100)
    rows[-40:] *= np.where(rng.random((40, 10)) < 0.15, 1.6, 1.0)
    scan = scan_all(rows, usual)
    for channel in (Channel.TAIL, Channel.SHAPE):
        assert 36 <= scan.began(channel, int(scan.score().bursts[channel])) <= 41


@given(st.floats(0, 1), st.floats(0.006, 0.9))
def test_divergence(share: float, rate: float) -> None:
    """Finite, above 0 where the share is not the rate, and 0 where it is."""
    found = float(divergence(share, rate))
    assert 0 <= found < math.inf
    assert found > 0 or abs(share - rate) < 1e-4
    assert float(divergence(rate, rate)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1.0), (10, 2.0), (19, 3.0), (100, 12.0)], ids=["one", "as usual", "19", "100"]
)
def test_spread_grows_with_the_size(count: int, expected: float) -> None:
    """A burst of one has none; slow requests of a larger burst come together in larger numbers."""
    assert float(spread_of(2.0, 10, count)) == pytest.approx(expected)
