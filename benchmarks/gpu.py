"""What only a GPU can show: leaks on it told apart, what asking its driver costs, and how steadily it multiplies.

Without one nothing is measured, and the exit code is 3. --rehearse does all of it in short on the CPU, beside whatever
driver there is, to see that it runs: its figures mean nothing, and are written nowhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from baselines.quantiles import Floats
from baselines.verdict import Verdict
from benchmarks import report
from benchmarks.bench import NOTHING
from benchmarks.gpu_driver import Driver, time_calls
from benchmarks.gpu_effect import Effect, measure
from benchmarks.gpu_leaks import TOLD_AS, Course, agreement, follow, started, tell
from benchmarks.gpu_worker import Worker
from probes.gpu.nvml import GpuFault, Nvml
from probes.gpu.reader import GpuReader
from probes.gpu.rhythm import Rhythm

AGENT_S = 15.0  # `[target.leak] interval`: so often is an agent asked by default
MAX_CONTEXT_MIB, MAX_SPREAD_MIB = 1024.0, 64.0
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything, in seconds. nvml: why the driver cannot be asked; None when it can."""

    device: str = "cuda"
    course: Course = field(default_factory=Course)
    readings: int = 300
    effect_s: float = 160.0
    turn_s: float = 4.0
    asked_every_s: float = 0.5
    multiply_s: float = 20.0
    nvml: GpuFault | None = None


REHEARSAL = Plan(
    device="cpu",
    course=Course(speed=900.0, windows=1.0, rate=8e6),
    readings=5,
    effect_s=4.0,
    turn_s=1.0,
    asked_every_s=0.1,
    multiply_s=1.0,
)

Found = tuple[Mapping[str, Any], list[report.Goal]]


def leaks(plan: Plan) -> Found:
    """Which is told as what and when, and what NVML says of a leaking process beside what its allocator says."""
    expected = TOLD_AS[plan.device]
    gpu = None if plan.nvml is not None else GpuReader(rhythm=plan.course.rhythm)
    try:
        with started(expected, plan.course, device=plan.device) as workers:
            samples = follow(workers, plan.course, gpu=gpu)
    finally:
        if gpu is not None:
            gpu.close()
    told = {kind: judged.told for kind, judged in tell(samples, plan.course).items()}
    found = agreement(samples["tensors"])
    goals = [
        report.Goal(
            name=f"{kind}: told as",
            goal=expected[kind] or "no leak",
            value=_words(verdict, samples[kind][0].at),
            met=(None if verdict is None else verdict.evidence["kind"]) == expected[kind],
        )
        for kind, verdict in told.items()
    ]
    goals += [
        _mib("NVML less reserved: the context", None if found is None else found.middle, MAX_CONTEXT_MIB),
        _mib("the same: spread of 98 % of samples", None if found is None else found.high - found.low, MAX_SPREAD_MIB),
    ]
    return {
        "speed": plan.course.speed,
        "samples": {kind: len(points) for kind, points in samples.items()},
        "told": {kind: None if verdict is None else dict(verdict.evidence) for kind, verdict in told.items()},
        "agreement": None if found is None else asdict(found),
    }, goals


def _words(told: Verdict | None, began: float) -> str:
    return "no leak" if told is None else f"{told.evidence['kind']}, after {told.at - began:.0f} s"


def _mib(name: str, value: float | None, limit: float) -> report.Goal:
    """Not told where NVML does not say what a process has, as in many containers."""
    if value is None:
        return report.Goal(name=name, goal=f"<= {limit:g} MiB", value="NVML does not say", met=None)
    return report.at_most(name, value / MIB, limit, "MiB", digits=0)


def calls(plan: Plan) -> Found:
    """Microseconds of each call into the driver, made in this process."""
    if plan.nvml is not None:
        return {"why": plan.nvml.value}, []
    took, memory, whole = time_calls(plan.readings)
    heavy = sorted(took.items(), key=lambda item: -sum(item[1]))
    rows = [(name, f"{len(each) / plan.readings:.1f}", *_microseconds(each)) for name, each in heavy]
    rows += [("all of a reading of memory", "", *_microseconds(memory))]
    rows += [("all of one with lists and health", "", *_microseconds(whole))]
    header = ("call", "times", "median us", "p99 us")
    report.show_table(rows, header=header)
    return {"header": header, "rows": rows}, []


def _microseconds(took: list[float]) -> tuple[str, str]:
    middle, high = np.quantile(took, [0.5, 0.99])
    return f"{1e6 * middle:.1f}", f"{1e6 * high:.1f}"


def driver(plan: Plan) -> Found:
    """What the daemon's readings cost a model that serves without a pause."""
    if plan.nvml is not None:
        return {"why": plan.nvml.value}, []
    with Driver() as asked, Worker("serve", device=plan.device) as worker:
        asked.read()  # opens the devices
        found = _effect(plan, worker, asked.read, seconds=plan.effect_s, default_s=Rhythm().memory_s)
    return asdict(found), [found.change.goal("NVML's readings: change of the model's p99")]


def agent(plan: Plan) -> Found:
    """What it costs the same model that its agent is asked; and what the report takes of its process."""
    with Worker("report", device=plan.device) as worker:
        middle, high = _microseconds(list(worker.run_for(plan.multiply_s / 2)))
    print(f"the agent's report of itself takes {middle} us, p99 {high} us")
    with Worker("serve", device=plan.device) as worker:
        client, life = worker.agent(), worker.life

        def ask() -> None:
            assert client.ask([life])[life].report is not None, "the agent does not answer"

        found = _effect(plan, worker, ask, seconds=plan.effect_s / 2, default_s=AGENT_S)
    figures = {"report_median_us": middle, "report_p99_us": high, **asdict(found)}
    return figures, [found.change.goal("the agent's answers: change of the model's p99")]


def _effect(plan: Plan, worker: Worker, ask: Callable[[], None], *, seconds: float, default_s: float) -> Effect:
    worker.wait_ready()
    found = measure(worker, ask, seconds=seconds, turn_s=plan.turn_s, every_s=plan.asked_every_s, default_s=default_s)
    plain = {name: value for name, value in asdict(found).items() if name != "change"}
    report.show_table([tuple(f"{value:.5g}" for value in plain.values())], header=tuple(plain))
    return found


def multiply(plan: Plan) -> Found:
    """How steadily the device does one and the same thing, by itself and beside a model that serves."""
    with Worker("multiply", device=plan.device) as worker:
        alone = _steadiness(worker.run_for(plan.multiply_s))
    with Worker("serve", device=plan.device) as load, Worker("multiply", device=plan.device) as worker:
        load.wait_ready()
        load.begin()
        beside = _steadiness(worker.run_for(plan.multiply_s))
    rows = [(name, *(f"{value:.4g}" for value in each.values())) for name, each in (("alone", alone), ("load", beside))]
    report.show_table(rows, header=("", *alone))
    return {"alone": alone, "beside_load": beside}, []


def _steadiness(took: Floats) -> dict[str, float]:
    p50, p99 = np.quantile(took, [0.5, 0.99])
    return {
        "count": len(took),
        "median_ms": 1e3 * float(p50),
        "sd_of_log": float(np.log(took).std()),
        "p99_over_p50": float(p99 / p50),
    }


PARTS: Mapping[str, Callable[[Plan], Found]] = {
    "leaks": leaks,
    "calls": calls,
    "driver": driver,
    "agent": agent,
    "multiply": multiply,
}


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="*", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rehearse", action="store_true", help="in short, on the CPU; measures nothing")


def run(options: argparse.Namespace) -> report.Report:
    nvml = Nvml.open()
    if options.rehearse and options.json:
        sys.exit("a rehearsal measures nothing that could be written down: leave --json away")
    if not options.rehearse and not torch.cuda.is_available():
        print(f"no GPU: nothing measured (torch {torch.__version__} sees no CUDA device, NVML: {nvml.why or 'good'})")
        sys.exit(NOTHING)
    plan = replace(REHEARSAL if options.rehearse else Plan(), nvml=nvml.why)
    figures, goals = dict[str, Any](about(plan, nvml)), list[report.Goal]()
    nvml.close()
    for name in options.only or PARTS:
        print(f"\n{name}", flush=True)
        figures[name], more = PARTS[name](plan)
        goals += more
    if options.rehearse:
        json.dumps(figures)  # that they could be written down is rehearsed too
        print("\nA rehearsal: these figures mean nothing.")
    return report.Report(name="gpu", figures=figures, goals=goals)


def about(plan: Plan, nvml: Nvml) -> dict[str, str | None]:
    """On what and with what it was measured."""
    handle, _ = nvml.call("nvmlDeviceGetHandleByIndex", 0)
    name, _ = nvml.call("nvmlDeviceGetName", handle)
    version, _ = nvml.call("nvmlSystemGetDriverVersion")
    known = {"gpu": name, "driver": version, "cuda": torch.version.cuda, "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in known.items()))
    return known | {"device": plan.device}


if __name__ == "__main__":
    report.main(run, describe, __doc__)
