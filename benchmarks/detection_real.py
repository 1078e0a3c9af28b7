"""Recorded noise of real hardware, replayed in blocks of six bursts: fixed-model queries of an accelerator, memory
copies on cloud machines (shared/data/SOURCES.md has where they are from). Sources that are not there are left out.
"""

from __future__ import annotations

import csv
import gzip
import math
from pathlib import Path

import numpy as np

from baselines.closer_look import TIMES
from benchmarks.detection_follow import follow
from benchmarks.detection_streams import BASELINE, DAY, Array, change

SIZE = 10
BLOCK = 6
GAP, HORIZON = 60, 720


def real(folder: Path, seed: int, *, lanes: int, days: int, changes: int) -> dict[str, tuple[float, float, float]]:
    """By source: false alarms in 30 days, median bursts to +20 % and to p95 only +20 %.

    A burst is what was recorded one after the other; a closer look goes on in the recording.
    """
    found = {}
    for name, bursts in _recorded(folder).items():
        rng = np.random.default_rng([seed, len(bursts)])
        noise = _stream(bursts, days * DAY + BASELINE, lanes, rng)
        told = [follow(noise[:, lane], size=SIZE).told for lane in range(lanes)]
        alarms = sum(int((np.diff(np.flatnonzero(t), prepend=-GAP) >= GAP).sum()) for t in told)
        medians = []
        onset = np.full(changes, BASELINE + 240)
        for what in ("+20 %", "p95 only +20 %"):
            slower = change(_stream(bursts, BASELINE + 240 + HORIZON, changes, rng), what, onset, rng)
            told = [follow(slower[:, lane], size=SIZE, stop_after=int(onset[lane])).told for lane in range(changes)]
            late = [np.flatnonzero(t[BASELINE + 240 :]) for t in told if not t[: BASELINE + 240].any()]
            medians.append(float(np.median([float(at[0]) + 1 if len(at) else math.inf for at in late] or [math.inf])))
        found[name] = (alarms * 30 / (days * lanes), medians[0], medians[1])
    return found


def _stream(bursts: Array, count: int, lanes: int, rng: np.random.Generator) -> Array:
    """(bursts, lanes, requests), of blocks that begin anywhere."""
    starts = rng.integers(0, max(1, len(bursts) - BLOCK), (count // BLOCK + 1, lanes))
    blocks = bursts[starts[:, None, :] + np.arange(BLOCK)[None, :, None]]
    return np.asarray(blocks.reshape(-1, lanes, TIMES * SIZE)[:count])


def _recorded(folder: Path) -> dict[str, Array]:
    """Bursts of logarithms, each source over its own median."""
    found: dict[str, Array] = {}
    files = sorted((folder / "mlperf_v05_hailo8").glob("*.csv"))
    if files:
        runs = [np.log(np.loadtxt(file, delimiter=",", skiprows=1)[:, 1]) for file in files]
        found["accelerator queries"] = np.concatenate([run - np.median(run) for run in runs])
    file = folder / "azure_vm_noise" / "perfbench_memcpy1MB_GBs_D8s_v5_long.csv.gz"
    if file.exists():
        with gzip.open(file, "rt") as text:
            rows = list(csv.reader(text))[1:]
        machines = sorted({row[3] for row in rows})
        readings = ([r for r in rows if r[3] == machine] for machine in machines)
        found["VM memory copies"] = np.concatenate(
            [-np.log([float(r[0]) for r in sorted(each, key=lambda r: r[2])]) for each in readings]
        )
    return {
        k: (v[: len(v) // (TIMES * SIZE) * TIMES * SIZE] - np.median(v)).reshape(-1, TIMES * SIZE)
        for k, v in found.items()
    }
