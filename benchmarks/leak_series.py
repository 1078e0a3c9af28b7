"""Memory of a serving worker over three days, made from a seed: what leaks, and what only looks like it.

Megabytes and minutes, a sample every 30 s. A series is a background (a wandering heap and activations in flight, which
follow the load) plus what its name says. Of the harmless families, `jobs` and `heap` were never seen in tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.floating[Any]]

STEP_MIN = 0.5
HOURS = 72
COUNT = int(HOURS * 60 / STEP_MIN)
TIMES: Series = np.arange(COUNT, dtype=np.float64) * STEP_MIN
BASE_MB, LIMIT_MB = 3000.0, 8192.0
DAY_MIN = 1440.0


@dataclass(frozen=True, slots=True)
class Case:
    """One run. load: as measured, 0 to 1. restart_min, onset_min: None where there is none. rate: MB a minute, true."""

    memory_mb: Series
    load: Series
    restart_min: float | None
    onset_min: float | None
    rate: float


def make(name: str, seed: int, *, noise: float = 1.0) -> Case:
    """The run of that name and seed. noise: a factor on the background's wandering and activations."""
    return _Maker(name, seed, noise).make()


def make_twice(first: str, second: str, seed: int) -> tuple[Case, Case]:
    """Two lives of one service, one after the other: of a heap, its threshold and its rate stay."""
    before, after = _Maker(first, seed, 1.0), _Maker(second, seed + TWICE, 1.0)
    case = before.make()
    after.heap_of = before.heap_of
    return case, after.make()


HARMLESS = (
    "flat",
    "wander",
    "sawtooth",
    "steps",
    "warm-up",
    "restart",
    "shift",
    "diurnal",
    "logarithm",
    "jobs",
    "heap",
)
LEAKS = (
    "0.1 flat",
    "1 flat",
    "10 flat",
    "50 flat",
    "1 onset",
    "0.1 wander",
    "1 wander",
    "1 sawtooth",
    "1 warm-up",
    "1 steps",
    "1 diurnal",
    "1 diurnal per-request",
    "10 diurnal",
    "0.5 irregular",
    "1 jobs",
    "1 heap",
)
UNSEEN = ("jobs", "heap")
LIVES = (
    ("heap", "heap"),
    ("sawtooth", "sawtooth"),
    ("heap", "1 heap"),
    ("sawtooth", "1 sawtooth"),
    ("1 flat", "1 flat"),
)
"""A life and the next one of the same service."""
TWICE = 1_000_000  # no seed of a first life is that high


class _Maker:
    def __init__(self, name: str, seed: int, noise: float) -> None:
        words = name.split()
        self.rate = float(words[0]) if words[0][0].isdigit() else 0.0
        self.words = set(words)
        self.rng = np.random.default_rng([seed, sum(map(ord, name))])
        self.noise = noise
        self.heap_of: tuple[float, float] | None = None  # threshold in MB, and MB a minute at full load
        self.load = self.load_curve()

    def make(self) -> Case:
        measured = np.clip(self.load * (1 + self.rng.normal(0, 0.10, COUNT)), 0, None)
        memory = self.background()
        for word, part in self.parts().items():
            if word in self.words:
                memory += part()
        restart = onset = None
        if "restart" in self.words:
            restart = float(self.rng.uniform(600, 3600))
            after = restart <= TIMES
            fresh = self.background() * self.rng.uniform(0.9, 1.1) + self.warm_up(restart)
            memory = np.where(after, fresh, memory + self.warm_up())
        if self.rate:
            onset = float(self.rng.uniform(1440, 2160)) if "onset" in self.words else 0.0
            memory += self.leak(onset)
        if "irregular" in self.words:
            memory = reserve(memory, 2.0)
        if "steps" in self.words:
            peaks = np.where(self.rng.random(COUNT) < STEP_MIN / 3.0, self.rng.lognormal(5.0, 0.6, COUNT), 0)
            memory = reserve(memory + peaks, 20.0)
        return Case(memory, measured, restart, onset, self.rate)

    def parts(self) -> Mapping[str, Callable[[], Series]]:
        return {
            "wander": lambda: self.wandering(180, 40.0),
            "sawtooth": self.sawtooth,
            "warm-up": self.warm_up,
            "diurnal": lambda: self.rng.uniform(150, 400) * (self.load - self.load.min()),
            "shift": lambda: self.rng.uniform(200, 500) * (self.rng.uniform(300, 3900) <= TIMES),
            "logarithm": lambda: self.rng.uniform(40, 80) * np.log1p(TIMES / 30),
            "jobs": self.jobs,
            "heap": self.heap,
        }

    # --- the background -----------------------------------------------------------------------------------------------

    def wandering(self, tau_min: float, sd: float) -> Series:
        """First-order autoregression: forgets over tau_min."""
        phi = math.exp(-STEP_MIN / tau_min)
        steps = self.rng.normal(0, sd * math.sqrt(1 - phi * phi), COUNT)
        values = np.empty(COUNT)
        values[0] = self.rng.normal(0, sd)
        for i in range(1, COUNT):
            values[i] = phi * values[i - 1] + steps[i]
        return values

    def load_curve(self) -> Series:
        level: Series = np.full(COUNT, 0.5)
        if "diurnal" in self.words:
            level = 0.55 + 0.4 * np.sin(2 * np.pi * (TIMES - self.rng.uniform(0, DAY_MIN)) / DAY_MIN)
        if self.noise > 1:
            level = level * 1.9
        return np.clip(level * (1 + self.wandering(20, 0.08)), 0.02, 0.97)

    def background(self) -> Series:
        in_flight = self.rng.lognormal(math.log(60.0 * self.noise) - 0.18, 0.6, COUNT)
        busy = self.rng.random(COUNT) < self.load
        return BASE_MB + self.wandering(10, 5.0 * self.noise) + busy * in_flight

    # --- what is harmless ---------------------------------------------------------------------------------------------

    def sawtooth(self) -> Series:
        """A cache that fills and is dropped."""
        period, height = self.rng.uniform(30, 120), self.rng.uniform(150, 400)
        values, at = np.zeros(COUNT), 0.0
        while at < TIMES[-1]:
            p, a = period * self.rng.uniform(0.8, 1.2), height * self.rng.uniform(0.8, 1.2)
            tooth = (at <= TIMES) & (at + p > TIMES)
            values[tooth] = a * (TIMES[tooth] - at) / p
            at += p
        return values

    def warm_up(self, since: float = 0.0) -> Series:
        height, tau = self.rng.uniform(200, 900), self.rng.uniform(10, 90)
        values: Series = height * (1 - np.exp(-np.clip(TIMES - since, 0, None) / tau))
        return values

    def jobs(self) -> Series:
        """Batch jobs that come at any time and hold memory while they run, some for hours."""
        values, at = np.zeros(COUNT), float(self.rng.exponential(120))
        while at < TIMES[-1]:
            long = float(self.rng.lognormal(math.log(60), 0.9))
            values[(at <= TIMES) & (at + long > TIMES)] += self.rng.uniform(50, 400)
            at += float(self.rng.exponential(180))
        return values

    def heap(self) -> Series:
        """A garbage collector's heap: grows with the work done, is swept at a threshold, and not to the same level."""
        values, level, kept = np.zeros(COUNT), 0.0, 0.0
        threshold, rate = self.heap_of = self.heap_of or (self.rng.uniform(150, 500), self.rng.uniform(2, 10))
        for i in range(COUNT):
            level += rate * self.load[i] * STEP_MIN
            if level > threshold:
                kept = max(0.0, kept + float(self.rng.normal(-0.1 * kept, 0.05 * threshold)))
                level = 0.0
            values[i] = kept + level
        return values

    # --- the leak -----------------------------------------------------------------------------------------------------

    def leak(self, onset: float) -> Series:
        since = np.clip(TIMES - onset, 0, None)
        if "irregular" in self.words:
            hits = (self.rng.random(COUNT) < STEP_MIN / 25.0) * self.rng.exponential(25.0 * self.rate, COUNT)
            return np.cumsum(hits)
        if "per-request" in self.words:
            served = np.cumsum(self.load) * STEP_MIN
            since = (served - np.interp(onset, TIMES, served)).clip(0) / self.load.mean()
        return np.asarray(self.rate * since)


def reserve(values: Series, segment: float) -> Series:
    """What a caching allocator reserves for it: whole segments, never given back."""
    return np.asarray(np.ceil(np.maximum.accumulate(values) / segment) * segment)
