"""Each canary's latency is followed across restarts and beside other canaries as if nothing had happened."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import NOW, SilentCanary, make_baseline, make_burst
from pipeline_stage import Bench

from baselines import baseline_store, schema
from baselines.database import open_database
from baselines.verdict import Cause, Check, Status, Verdict
from probes.messages import Burst, Outcome

CANARIES = ("default", "long")


def latencies(ratios: Sequence[float], *, seed: int = 1, typical_s: float = 0.05) -> np.ndarray:
    """Ten requests a burst around each ratio, in whole microseconds as the store keeps them."""
    spread = np.random.default_rng(seed).normal(0.0, 0.04, (len(ratios), 10))
    return np.round(typical_s * np.exp(spread) * np.array(ratios)[:, None], 6)


def bursts_of(rows: np.ndarray, controls: np.ndarray | None = None, *, canary: str = "default") -> list[Burst]:
    """A burst a minute from NOW + 60 on."""
    bursts = []
    for minute, row in enumerate(rows):
        burst = make_burst(*[Outcome.GOOD] * len(row), at=NOW + 60 * (minute + 1), canary=canary)
        samples = [
            replace(s, latency_s=float(row[i]), control_s=None if controls is None else float(controls[minute, i]))
            for i, s in enumerate(burst.samples)
        ]
        bursts.append(replace(burst, samples=tuple(samples)))
    return bursts


@contextmanager
def bench_on(folder: Path, name: str, *, controlled: bool = False) -> Iterator[Bench]:
    """A pipeline with a database and baselines of its own."""
    database = open_database(f"sqlite:///{folder}/{name}.db")
    schema.metadata.create_all(database.durable)
    bench = Bench(database, canaries={name: SilentCanary(name=name) for name in CANARIES})
    rows = tuple(map(tuple, latencies([1.0] * 40, seed=7).tolist()))
    controls = tuple(map(tuple, latencies([1.0] * 40, seed=8, typical_s=0.002).tolist())) if controlled else ()
    with database.write() as connection:
        for canary in CANARIES:
            taken = make_baseline(canary=canary, bursts=rows, controls=controls)
            saved = baseline_store.save_baseline(connection, taken)
            baseline_store.promote(connection, saved, at=NOW, by="ana", why="")
    yield bench
    database.close()


def run(bench: Bench, bursts: Sequence[Burst], *, restarts: Collection[int] = ()) -> list[Verdict]:
    """What is said after each burst; before those of the indices given the daemon starts anew."""
    said = []
    for index, burst in enumerate(bursts):
        if index in restarts:
            bench.start()
        bench.clock.at = burst.samples[-1].at
        bench.pipeline.take_burst(burst)
        said.append(bench.target.latencies[burst.canary].judge(now=bench.clock.at))
    return said


def essence(verdict: Verdict) -> tuple[object, ...]:
    """What of a verdict is told."""
    evidence = {key: verdict.evidence.get(key) for key in ("found_by", "channel", "samples", "bursts", "ratio")}
    return verdict.status, verdict.reason, verdict.cause, verdict.level, verdict.since, evidence


STEP = [1.0] * 7 + [1.3] * 8
RECOVERED = [1.0] * 5 + [1.3] * 5 + [1.0] * 6 + [1.3] * 5
RATIOS = {
    "a slowdown that stands": (STEP, None),
    "one that is over, and the next": (RECOVERED, None),
    "the model's, by its control": (STEP, [1.0] * len(STEP)),
    "the machine's": (STEP, STEP),
    "first the machine's, then the model's too": (STEP + [1.7] * 6, STEP + [1.3] * 6),
    "nothing": ([1.0] * 8, None),
}


@pytest.mark.parametrize(("canary", "control"), RATIOS.values(), ids=RATIOS.keys())
def test_a_restart_changes_nothing(canary: list[float], control: list[float] | None, tmp_path: Path) -> None:
    """Whenever a daemon is stopped and started, it says of every burst what it would have said anyway."""
    controls = None if control is None else latencies(control, seed=2, typical_s=0.002)
    bursts = bursts_of(latencies(canary), controls)
    controlled = control is not None
    with bench_on(tmp_path, "once", controlled=controlled) as once:
        expected = run(once, bursts)
    assert any(v.status is Status.WORSE for v in expected) is (max(canary) > 1.0)
    for name, restarts in {"always": range(len(bursts)), "now and then": (5, 8, 9, 12, 17)}.items():
        with bench_on(tmp_path, name, controlled=controlled) as again:
            said = run(again, bursts, restarts=restarts)
        assert [essence(v) for v in said] == [essence(v) for v in expected], name


def test_a_slowdown_that_a_device_explained_is_asked_for_anew(tmp_path: Path) -> None:
    """What was the device's before a restart is not, once the device is well."""
    with bench_on(tmp_path, "one") as bench:
        run(bench, bursts_of(latencies(STEP)))
        with bench.database.write() as connection:
            connection.execute(
                schema.verdicts.update()
                .where(schema.verdicts.c.status == Status.WORSE, schema.verdicts.c.check == Check.LATENCY)
                .values(cause=Cause.ENVIRONMENT, evidence={"found_by": "location", "score": 5.0, "gpu": "throttled"})
            )
        bench.start()
        (verdict,) = run(bench, bursts_of(latencies([1.3] * 16))[15:])
    assert (verdict.status, verdict.cause) == (Status.WORSE, Cause.UNKNOWN)


@pytest.mark.parametrize("alone", CANARIES)
def test_canaries_do_not_feel_each_other(alone: str, tmp_path: Path) -> None:
    """Two whose bursts come in turns are judged as each by itself."""
    rows = {"default": latencies(STEP, seed=3), "long": latencies(RECOVERED, seed=4)}
    bursts = {name: bursts_of(rows[name], canary=name) for name in CANARIES}
    with bench_on(tmp_path, "both") as both:
        mixed = sorted((burst for name in CANARIES for burst in bursts[name]), key=lambda burst: burst.at)
        said = [v for v in run(both, mixed) if v.subject == alone]
    with bench_on(tmp_path, "alone") as one:
        expected = run(one, bursts[alone])
    assert [essence(v) for v in said] == [essence(v) for v in expected]


def test_what_was_measured_before_a_baseline_became_active_is_not_judged_by_it(tmp_path: Path) -> None:
    """A slowdown that a new baseline takes for normal is over with it, and old bursts are no evidence."""
    with bench_on(tmp_path, "one") as bench:
        bursts = bursts_of(latencies([1.0] * 5 + [1.3] * 12))
        assert run(bench, bursts[:9])[-1].status is Status.WORSE
        slow = make_baseline(bursts=tuple(map(tuple, latencies([1.3] * 40, seed=9).tolist())))
        with bench.database.write() as connection:
            saved = baseline_store.save_baseline(connection, slow)
            baseline_store.promote(connection, saved, at=bursts[9].at - 1, by="ana", why="")
        said = run(bench, bursts[9:], restarts=(5,))
    assert [v.status for v in said] == [Status.UNKNOWN] * 2 + [Status.OK] * 6
