"""Latencies of a canary, made from a seed: kinds of noise without a change, and changes to put on them.

Natural logarithms over the nominal latency; shape (bursts, lanes, requests), one burst a minute. The first BASELINE of
them are what `watchdog baseline` would have stored. The p95 of every kind stays within 10 % of that of any hour of its
baseline, but for single bad bursts. `drift` and `neighbour` were never seen in tuning.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Rng = np.random.Generator

BASELINE = 60
DAY = 1440
THRESHOLD = 0.2
NOISE = {
    "quiet": 0.04,
    "typical": 0.12,
    "noisy": 0.30,
    "pareto": 0.10,
    "wander": 0.10,
    "clocks": 0.08,
    "diurnal": 0.10,
    "stalls": 0.10,
    "bad bursts": 0.10,
    "everything": 0.12,
    "drift": 0.08,
    "neighbour": 0.08,
}
"""Kinds, with the standard deviation of a request."""

UNSEEN = ("drift", "neighbour")
CHANGES = ("+10 %", "+20 %", "+30 %", "+50 %", "ramp to +30 %", "p95 only +20 %", "mixed +20 %")
SLOW_SHARE = 0.12  # of requests take the slow path of a tail change
RAMP_MIN = 360


def make(kind: str, bursts: int, lanes: int, size: int, rng: Rng) -> tuple[Array, Array]:
    """(latencies, what a genie may know: the common part of each burst), the latter of shape (bursts, lanes)."""
    logs = rng.standard_normal((bursts, lanes, size)) * NOISE[kind]
    common = np.zeros((bursts, lanes))
    if kind in ("wander", "everything"):
        common += autoregression(rng, bursts, lanes, 0.9, 0.035 if kind == "wander" else 0.02)
    if kind == "drift":  # over hours, as of a host that warms up and is slowly reconfigured
        common += autoregression(rng, bursts, lanes, 1 - 1 / 240, 0.03)
    if kind == "clocks":
        common += math.log(1.10) * two_states(rng, bursts, lanes, 1 / 30, 1 / 15)
    if kind in ("diurnal", "everything"):
        part = 1.0 if kind == "diurnal" else 0.6
        wave = np.sin(2 * np.pi * (np.arange(bursts)[:, None] / DAY + rng.random(lanes)))
        common += 0.03 * part * wave
        logs *= (1 + 0.10 * part * wave)[..., None]
    if kind in ("pareto", "everything"):
        hit = rng.random(logs.shape) < (0.03 if kind == "pareto" else 0.01)
        logs += np.where(hit, -np.log(1 - rng.random(logs.shape)) / 2.5, 0)
    if kind in ("stalls", "everything"):
        stalled = rng.random((bursts, lanes)) < (0.04 if kind == "stalls" else 0.02)
        many = rng.integers(1, 3, (bursts, lanes))
        hit = (np.arange(size) < many[..., None]) & stalled[..., None]
        logs += hit * np.log(rng.uniform(1.8, 4, (bursts, lanes, 1)))
    if kind in ("bad bursts", "everything"):
        bad = rng.random((bursts, lanes)) < (4 if kind == "bad bursts" else 2) / DAY
        two = np.zeros_like(bad)
        two[1:] = bad[:-1] & (rng.random((bursts - 1, lanes)) < 0.3)
        common += np.where(bad | two, np.log(rng.uniform(1.5, 3, (bursts, lanes))), 0)
    if kind == "neighbour":  # somebody else's short jobs hit single requests, in spells of about ten minutes
        spell = two_states(rng, bursts, lanes, 1 / 60, 1 / 10)
        hit = (rng.random(logs.shape) < 0.08) & spell[..., None]
        logs += hit * np.log(rng.uniform(1.05, 1.3, logs.shape))
    return logs + common[..., None], common


def contended(bursts: int, lanes: int, size: int, rng: Rng) -> tuple[Array, Array]:
    """A busy host, with a control beside each request: both of shape (bursts, lanes, size).

    In blocks of 6 to 15 bursts others take the cores. A request then waits its turns, a longer one more of them, and
    one in five none at all: the top is stretched and the floor is left. After 3-millisecond requests of a small model
    beside 1-millisecond requests of its control on a contended host of two cores.
    """
    busy = np.zeros((bursts, lanes))
    for lane in range(lanes):
        at = 0
        while at < bursts:
            quiet, block = int(rng.exponential(40)) + 1, int(rng.integers(6, 16))
            busy[at + quiet : at + quiet + block, lane] = rng.uniform(0.1, 0.7)
            at += quiet + block
    out = []
    for share, base in ((1.0, 0.08), (0.6, 0.10)):
        waits = (rng.random((bursts, lanes, size)) < 0.8 * share) * rng.exponential(1.0, (bursts, lanes, size))
        out.append(rng.standard_normal((bursts, lanes, size)) * base + np.log1p(waits * busy[..., None]))
    return out[0], out[1]


def autoregression(rng: Rng, bursts: int, lanes: int, phi: float, sd: float) -> Array:
    steps = rng.standard_normal((bursts, lanes)) * sd * math.sqrt(1 - phi * phi)
    values = np.empty((bursts, lanes))
    values[0] = rng.standard_normal(lanes) * sd
    for t in range(1, bursts):
        values[t] = phi * values[t - 1] + steps[t]
    return values


def two_states(rng: Rng, bursts: int, lanes: int, rise: float, fall: float) -> npt.NDArray[np.bool_]:
    """A state that is entered and left with these chances a burst."""
    on = np.zeros((bursts, lanes), dtype=bool)
    on[0] = rng.random(lanes) < rise / (rise + fall)
    chance = rng.random((bursts, lanes))
    for t in range(1, bursts):
        on[t] = np.where(on[t - 1], chance[t] >= fall, chance[t] < rise)
    return on


def change(logs: Array, what: str, onset: npt.NDArray[np.int64], rng: Rng) -> Array:
    """The same with a change from burst `onset` of each lane on."""
    age = np.arange(len(logs))[:, None] - onset[None]
    on = (age >= 0)[..., None]
    if what.startswith("+"):
        return logs + on * math.log1p(float(what[1:-2]) / 100)
    if what.startswith("ramp"):
        return np.asarray(logs + (np.clip(age / RAMP_MIN, 0, 1) * math.log(1.3))[..., None])
    body = math.log(1.08) if what.startswith("mixed") else 0.0
    hit = (rng.random(logs.shape) < SLOW_SHARE) & on
    return np.asarray(logs + hit * slow_path(logs[:BASELINE], math.log1p(THRESHOLD) - body) + on * body)


def slow_path(baseline: Array, rise: float) -> float:
    """By how much SLOW_SHARE of the requests must be slower for the pooled p95 to rise so much."""
    pooled = baseline.ravel()
    target, low, high = float(np.quantile(pooled, 0.95)) + rise, 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        above = (1 - SLOW_SHARE) * np.mean(pooled > target) + SLOW_SHARE * np.mean(pooled + middle > target)
        low, high = (middle, high) if above < 0.05 else (low, middle)
    return low
