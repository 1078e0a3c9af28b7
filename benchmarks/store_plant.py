"""One target of the simulated fleet, and the bursts and memory samples that it gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baselines.quantiles import Floats
from probes.messages import Burst, Identity, MemorySample, Outcome, Output, Sample

HOUR_S, DAY_S = 3600, 86400
BURST, INTERVAL_S, MEMORY_INTERVAL_S = 10, 60, 15
IDENTITY = Identity(input_hash="4ffa0312d8d22ead")
OUTPUT = Output(
    content_hash="eb86166ac7b490dd",
    shape=(1, 8),
    finite=True,
    count=8,
    mean=0.006250422244193032,
    std=0.04129074881923555,
    low=-0.06544576585292816,
    high=0.09520584344863892,
)
FACTS = {
    "cpu_steal": 0.0,
    "cpu_pressure": 0.03172,
    "memory_pressure": 0.0,
    "io_pressure": 0.001514,
    "own_delay": 0.002213,
    "server_wait": 0.0361,
    "server_cpu": 0.1398,
    "load": 3.0,
}


@dataclass
class Plant:
    """One target while the year goes by. base_s: its usual latency; faults: (begin, end), oldest first."""

    name: str
    base_s: float
    faults: list[tuple[float, float]]
    life: int = 0
    used_bytes: int = 1_200_000_000

    @property
    def key(self) -> str:
        return f"{7000 + self.life}@{88_000_000 + self.life}"

    def faults_in(self, begin: float) -> list[tuple[float, float]]:
        """Those that lie at least partly in the hour from `begin` on."""
        return [fault for fault in self.faults if fault[0] < begin + HOUR_S and fault[1] > begin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """An hour's requests, a row a burst; silent: bursts that got no answer."""

    latencies: Floats
    controls: Floats
    strays: npt.NDArray[np.bool_]
    silent: npt.NDArray[np.bool_]


def make_burst(plant: Plant, begin: float, drawn: Drawn, i: int) -> Burst:
    at = begin + i * INTERVAL_S + 0.137
    if drawn.silent[i]:
        silence = Sample(at=at, outcome=Outcome.TIMEOUT, life=plant.key, detail="no answer within 10 s")
        samples: tuple[Sample, ...] = (silence,)
    else:
        columns = (drawn.latencies[i].tolist(), drawn.controls[i].tolist(), drawn.strays[i].tolist())
        samples = _samples(plant, at, *columns)
    return Burst(
        target=plant.name,
        canary="default",
        at=at,
        samples=samples,
        identity=IDENTITY,
        output=OUTPUT,
        provenance={"server": "gunicorn", "model_version": f"v{int(begin // (7 * DAY_S))}"},
        generation="c146d00bdbf6",
        workers_alive=1,
        worker_cpu=0.1273,
        facts=FACTS,
    )


def make_memory_sample(plant: Plant, begin: float, i: int, used_bytes: int) -> MemorySample:
    return MemorySample(
        target=plant.name,
        slot=0,
        life=plant.key,
        at=begin + i * MEMORY_INTERVAL_S + 0.021,
        host_anon_bytes=used_bytes,
        capacity_bytes=25_276_514_304,
        uptime_s=float(i * MEMORY_INTERVAL_S),
    )


def _samples(
    plant: Plant, at: float, latencies: list[float], controls: list[float], strays: list[bool]
) -> tuple[Sample, ...]:
    samples = []
    for i, (latency_s, control_s, stray) in enumerate(zip(latencies, controls, strays, strict=True)):
        samples.append(
            Sample(
                at=at,
                outcome=Outcome.STATUS_500 if stray else Outcome.GOOD,
                latency_s=None if stray else latency_s,
                first_byte_s=None if stray else latency_s * 0.985,
                connect_s=0.00031 if i == 0 else None,
                control_s=control_s,
                life=plant.key,
                detail="Internal Server Error" if stray else "",
            )
        )
        at += latency_s + control_s + 0.0007
    return tuple(samples)
