"""Bursts, baselines and memory with known properties, and the noise families that detectors are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from baselines.baseline import Baseline
from probes.messages import Burst, Identity, MemorySample, Outcome, Sample

IDENTITY = Identity(input_hash="abc", shapes="1x8", dtype="float32")
START = 1_700_000_000.0
MINUTE = 60.0


def make_burst(
    latencies: Sequence[float],
    *,
    at: float = START,
    controls: Sequence[float] | None = None,
    outcomes: Sequence[Outcome] | None = None,
    tainted: Sequence[bool] | None = None,
    life: str | None = "7@1",
    identity: Identity = IDENTITY,
    provenance: Mapping[str, str] | None = None,
    workers_alive: int | None = None,
    worker_cpu: float | None = None,
    facts: Mapping[str, float] | None = None,
) -> Burst:
    """One burst; a latency belongs to each outcome, and is dropped where no answer came."""
    count = len(latencies)
    outcomes = outcomes or [Outcome.GOOD] * count
    samples = tuple(
        Sample(
            at=at + 0.1 * i,
            outcome=outcomes[i],
            latency_s=latencies[i] if outcomes[i] is Outcome.GOOD else None,
            control_s=controls[i] if controls is not None else None,
            tainted=tainted[i] if tainted is not None else False,
            life=life,
        )
        for i in range(count)
    )
    return Burst(
        target="api",
        canary="default",
        at=at,
        samples=samples,
        identity=identity,
        provenance=provenance or {},
        workers_alive=workers_alive,
        worker_cpu=worker_cpu,
        facts=facts or {},
    )


def failed_burst(*outcomes: Outcome, workers_alive: int | None = None, worker_cpu: float | None = None) -> Burst:
    """A burst that ended as told, one sample per outcome."""
    return make_burst([0.05] * len(outcomes), outcomes=outcomes, workers_alive=workers_alive, worker_cpu=worker_cpu)


def make_bursts(latencies: np.ndarray, *, start: float = START, **about: object) -> list[Burst]:
    """A burst a minute from an array (bursts, samples) of seconds; `controls` may be such an array too."""
    controls = about.pop("controls", None)
    return [
        make_burst(
            row.tolist(),
            at=start + MINUTE * i,
            controls=None if controls is None else controls[i].tolist(),  # type: ignore[index]
            **about,  # type: ignore[arg-type]
        )
        for i, row in enumerate(latencies)
    ]


def make_baseline(latencies: np.ndarray, *, controls: np.ndarray | None = None, **about: object) -> Baseline:
    """A baseline from an array (bursts, samples) of seconds."""
    fields: dict[str, object] = {
        "target": "api",
        "canary": "default",
        "taken_at": START,
        "identity": IDENTITY,
        "provenance": {},
        "bursts": tuple(map(tuple, latencies.tolist())),
        "controls": () if controls is None else tuple(map(tuple, controls.tolist())),
    }
    return Baseline(**(fields | about))  # type: ignore[arg-type]


def steady(
    rng: np.random.Generator, bursts: int, size: int = 10, *, sd: float = 0.04, typical: float = 0.05
) -> np.ndarray:
    """Log-normal latencies around `typical` seconds."""
    return typical * np.exp(rng.normal(0.0, sd, (bursts, size)))


# Log-sd of the noise families: no family's true p95 leaves +-10 %, except in single bad bursts.
NOISE = {
    "quiet": 0.04,
    "typical": 0.12,
    "noisy": 0.30,
    "pareto": 0.10,
    "ar1": 0.10,
    "bimodal": 0.08,
    "diurnal": 0.10,
    "gc": 0.10,
    "outburst": 0.10,
    "kitchen": 0.12,
}


def noise(name: str, rng: np.random.Generator, bursts: int, size: int = 10) -> np.ndarray:
    """Latencies (bursts, size) around 50 ms of a healthy canary whose machine makes this kind of noise."""
    sd = NOISE[name]
    y = rng.normal(0.0, sd, (bursts, size))
    if name in ("ar1", "kitchen"):
        y += _wander(rng, bursts, sd=0.035 if name == "ar1" else 0.02)[:, None]
    if name == "bimodal":
        y += np.log(1.10) * _clock_states(rng, bursts)[:, None]
    if name in ("diurnal", "kitchen"):
        swing = (1.0 if name == "diurnal" else 0.6) * np.sin(2 * np.pi * (np.arange(bursts) / 1440 + rng.random()))
        y = y * (1 + 0.10 * swing)[:, None] + 0.03 * swing[:, None]
    if name in ("pareto", "kitchen"):
        hit = rng.random(y.shape) < (0.03 if name == "pareto" else 0.01)
        y += np.where(hit, rng.exponential(1 / 2.5, y.shape), 0.0)
    if name in ("gc", "kitchen"):
        stalled = (rng.random(bursts) < (0.04 if name == "gc" else 0.02))[:, None]
        hit = (np.arange(size) < rng.integers(1, 3, bursts)[:, None]) & stalled
        y += hit * np.log(rng.uniform(1.8, 4.0, (bursts, 1)))
    if name in ("outburst", "kitchen"):
        bad = rng.random(bursts) < (4 if name == "outburst" else 2) / 1440
        bad[1:] |= bad[:-1] & (rng.random(bursts - 1) < 0.3)
        y += np.where(bad, np.log(rng.uniform(1.5, 3.0, bursts)), 0.0)[:, None]
    return 0.05 * np.exp(y)


def _wander(rng: np.random.Generator, bursts: int, *, sd: float, phi: float = 0.9) -> np.ndarray:
    steps = rng.normal(0.0, sd * np.sqrt(1 - phi**2), bursts)
    steps[0] = rng.normal(0.0, sd)
    for i in range(1, bursts):
        steps[i] += phi * steps[i - 1]
    return steps


def _clock_states(rng: np.random.Generator, bursts: int) -> np.ndarray:
    slow = np.zeros(bursts)
    for i in range(1, bursts):
        slow[i] = rng.random() >= 1 / 15 if slow[i - 1] else rng.random() < 1 / 30
    return slow


def make_memory(
    used: np.ndarray, *, step_s: float = 30.0, capacity: int | None = 8_000_000_000, life: str = "7@1", **about: object
) -> list[MemorySample]:
    """One worker's host memory, a sample every step_s."""
    return [
        MemorySample(
            target="api",
            slot=0,
            life=life,
            at=START + step_s * i,
            host_anon_bytes=int(value),
            capacity_bytes=capacity,
            **about,  # type: ignore[arg-type]
        )
        for i, value in enumerate(used)
    ]
