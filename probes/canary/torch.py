"""The canary of a model without an HTTP face, or of a model apart from its server: run in an isolated worker.

The worker is a child process under the serving interpreter, started at the first burst and kept. Its crash, hang,
out-of-memory or CUDA fault is the outcome of a sample; a new one is started at the next burst, so at most one start a
burst. The worker times each call itself: no delay of the daemon is in a latency.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from probes.canary.burst import CanaryPlan, affordable_size, typical_control, typical_latency
from probes.expectation import MAX_GOLDEN_VALUES, Expectation, check_output
from probes.messages import Burst, Identity, OpStat, Outcome, Output, Sample, Snapshot
from probes.process import life_of
from probes.surroundings import Surroundings
from probes.taint import run_queue_delay_s
from probes.worker import WorkerError, WorkerProcess
from watchdog_agent import wire

SETTLING_CALLS = 3
"""Discarded after each load: compilation and oneDNN's or cuDNN's choice of kernels fall into the first calls."""

PROFILER_S = 60.0
"""Allowed for the profiler itself beside its steps; its first start in a process takes 1 to 1.5 s."""


class TorchCanary:
    """A model file, a fixed input and an isolated worker. Satisfies `Canary`.

    model: a torch.export .pt2 or TorchScript file, `package.module:factory` or `file.py:factory`; relative paths are
        relative to `folder`. weights: a state dict for the factory's module.
    python: the interpreter to run it with; None is this one. device: cpu, cuda or auto.
    input_spec: see `watchdog_agent.tensors.build_inputs`.
    withheld: variables of our environment that the worker does not get.
    control: whether a fixed reference kernel runs on the same device after each call.
    load_timeout_s: from the start of the worker until the model has made its first, discarded calls.
    own_delay_s: a counter of our own delay (`taint.OwnDelay`), asked from the thread that runs the burst.

    The last answer of a burst is checked and stands for all of them: same input, same weights.
    Raises wire.WireError (a ValueError) for an input_spec that is not plain JSON of a moderate size.
    """

    isolated = True

    def __init__(
        self,
        *,
        target: str,
        name: str,
        plan: CanaryPlan,
        expectation: Expectation,
        model: str,
        input_spec: Mapping[str, Any],
        python: str | None = None,
        weights: str | Path | None = None,
        device: str = "auto",
        folder: Path | None = None,
        load_timeout_s: float = 300.0,
        withheld: frozenset[str] = frozenset(),
        control: bool = True,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        own_delay_s: Callable[[], float] = run_queue_delay_s,
    ) -> None:
        self.target = target
        self.name = name
        self.plan = plan
        self._expectation = expectation
        self._load = wire.Load(
            model=model,
            input=dict(input_spec),
            device=device,
            folder=str((folder or Path()).absolute()),
            weights=None if weights is None else str(weights),
        )
        wire.encode(self._load, limit=wire.MAX_REQUEST_BYTES)  # so that what cannot be sent fails here
        self._python = python or sys.executable
        self._load_timeout_s = load_timeout_s
        self._withheld = withheld
        self._control = control
        self._now = now
        self._monotonic = monotonic
        self._surroundings = Surroundings(monotonic=monotonic, own_delay_s=own_delay_s)
        self._lock = threading.Lock()
        self._closed = False
        self._worker: WorkerProcess | None = None
        self._loaded: wire.Loaded | None = None  # by the worker at hand, or the one that just failed
        self._identity: Identity | None = None  # the last one known: a crash does not change it
        self._settled = False
        self._typical_s: float | None = None

    def burst(self, *, golden: Output | None = None, size: int | None = None, times: int = 1) -> Burst:
        """Run the model; blocks for at most load_timeout_s + (warmup + size + 1) * timeout_s and a few seconds."""
        with self._lock:
            at = self._now()
            samples: list[Sample] = []
            calls: list[wire.Timed] = []
            around: Mapping[str, float] = {}
            measured: wire.Measured | None = None
            try:
                worker = self._ready_worker()
                wanted = affordable_size(self.plan, self._typical_s, times=times) if size is None else max(1, size)
                life = life_of(worker.pid)
                lives = () if life is None else (life,)
                before = self._surroundings.begin(lives)
                try:
                    for timed in self._calls(worker, wanted):
                        calls.append(timed)
                        samples.append(self._sample(Outcome.GOOD, timed))
                finally:
                    around = self._surroundings.end(before, lives)
                measured = worker.receive(wire.Measured, timeout_s=self.plan.timeout_s)
            except WorkerError as failure:
                samples.append(self._sample(failure.outcome, detail=failure.detail))
            if (typical_s := typical_latency(samples)) is not None:
                self._typical_s = typical_s + typical_control(samples)
            output = None if measured is None else _output(measured.output)
            if measured is not None:
                outcome, detail = self._check(output, golden)
                samples = [replace(s, outcome=outcome, detail=detail) for s in samples]
            return Burst(
                target=self.target,
                canary=self.name,
                at=at,
                samples=tuple(samples),
                identity=self._identity or Identity(input_hash="unknown"),
                isolated=True,
                output=output,
                provenance={} if self._loaded is None else self._provenance(self._loaded),
                facts={**self._facts(measured, [t.device_s for t in calls if t.device_s is not None]), **around},
            )

    def profile(self, steps: int = 20) -> Snapshot:
        """The per-operator table of so many steps. Raises WorkerError."""
        with self._lock:
            at = self._now()
            worker = self._ready_worker()
            worker.send(wire.Profile(steps=steps))
            profiled = worker.receive(wire.Profiled, timeout_s=steps * self.plan.timeout_s + PROFILER_S)
            return Snapshot(
                target=self.target,
                canary=self.name,
                at=at,
                steps=profiled.steps,
                step_s=profiled.step_s,
                ops=tuple(OpStat(**vars(op)) for op in profiled.ops),
                environment=profiled.environment,
            )

    @property
    def identity(self) -> Identity | None:
        """The input and what it runs on, as the worker told; None until a worker has loaded the model."""
        return self._identity

    def close(self) -> None:
        """End the worker, also in the middle of a burst, which then ends as crashed. Safe to call twice."""
        self._closed = True
        while not self._lock.acquire(timeout=0.1):
            if (worker := self._worker) is not None:
                worker.kill()
        try:
            if self._worker is not None:
                self._worker.close()
        finally:
            self._lock.release()

    def _ready_worker(self) -> WorkerProcess:
        """A worker with the model loaded and settled. Raises WorkerError."""
        deadline = self._monotonic() + self._load_timeout_s
        worker = self._worker
        if worker is None or not worker.usable:
            worker = self._start(deadline)
        if not self._settled:
            worker.send(wire.Burst(warmup=SETTLING_CALLS, size=0, values=0, control=self._control))
            for _ in range(SETTLING_CALLS):
                timed = worker.receive(wire.Timed, timeout_s=deadline - self._monotonic())
                self._typical_s = timed.latency_s + (timed.control_s or 0.0)
            worker.receive(wire.Measured, timeout_s=deadline - self._monotonic())
            self._settled = True
        return worker

    def _start(self, deadline: float) -> WorkerProcess:
        """A new worker with the model loaded. Never beside an old one: two copies may not fit on the device."""
        if self._closed:
            raise WorkerError(Outcome.WORKER_ERROR, "the canary is closed")
        self._settled, self._loaded = False, None
        if self._worker is not None:
            self._worker.close()
            if not self._worker.ended:
                raise WorkerError(Outcome.WORKER_CRASHED, f"the last worker, {self._worker.pid}, survived SIGKILL")
        self._worker = worker = WorkerProcess(python=self._python, monotonic=self._monotonic, withheld=self._withheld)
        try:
            worker.send(self._load)
            self._loaded = worker.receive(wire.Loaded, timeout_s=deadline - self._monotonic())
        except WorkerError as failure:
            worker.kill()
            if failure.outcome is Outcome.TIMEOUT:
                detail = f"{self._load.model}: not loaded within {self._load_timeout_s:g} s; {failure.detail}"
                raise WorkerError(Outcome.MODEL_LOAD_FAILED, detail) from failure
            raise
        self._identity = Identity(
            input_hash=self._loaded.input_hash,
            shapes=self._loaded.shapes,
            dtype=self._loaded.dtype,
            gpu_type=self._loaded.gpu_type,
        )
        return worker

    def _calls(self, worker: WorkerProcess, size: int) -> Iterator[wire.Timed]:
        """The calls that count, as they come; each has a deadline of its own. Raises WorkerError."""
        request = wire.Burst(
            warmup=self.plan.warmup,
            size=size,
            values=MAX_GOLDEN_VALUES,
            top_k=self._expectation.top_k or 0,
            control=self._control,
        )
        worker.send(request)
        for index in range(request.warmup + size):
            timed = worker.receive(wire.Timed, timeout_s=self.plan.timeout_s)
            if index >= request.warmup:
                yield timed

    def _sample(self, outcome: Outcome, timed: wire.Timed | None = None, *, detail: str = "") -> Sample:
        latency_s, control_s = (None, None) if timed is None else (timed.latency_s, timed.control_s)
        return Sample(
            at=self._now() - (latency_s or 0.0),
            outcome=outcome,
            latency_s=latency_s,
            control_s=control_s,
            life=None if self._loaded is None else self._loaded.life,
            detail=detail,
        )

    def _provenance(self, loaded: wire.Loaded) -> Mapping[str, str]:
        """With the control's name: two kinds of control are not to be compared, and each leaves caches its own way."""
        if not self._control or loaded.kernel is None:
            return loaded.provenance
        return {**loaded.provenance, "control": loaded.kernel}

    def _check(self, output: Output | None, golden: Output | None) -> tuple[Outcome, str]:
        if output is None:
            return Outcome.NOT_NUMERIC, "the model's answer holds no tensor"
        return check_output(output, self._expectation, golden)

    def _facts(self, measured: wire.Measured | None, device_s: list[float]) -> dict[str, float]:
        facts = {} if self._loaded is None else {"model_load_s": self._loaded.model_load_s}
        if measured is not None:
            facts |= measured.facts
        if device_s:
            facts["device_latency_s"] = statistics.median(device_s)
        return facts


def _output(summary: wire.Summary | None) -> Output | None:
    if summary is None:
        return None
    return Output(
        **{
            **vars(summary),
            "shape": tuple(summary.shape),
            "values": tuple(summary.values),
            "top_k": tuple(summary.top_k),
        }
    )
