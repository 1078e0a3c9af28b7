"""The way of a result from the probes' threads to the judge thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from probes.gpu.sample import GpuSample
from probes.messages import Burst, MemorySample
from watchdog.judge_thread import JudgeThread
from watchdog.metrics import Metrics
from watchdog.pipeline import Pipeline
from watchdog.provisional import Provisional
from watchdog.target import Target


class Intake:
    """Counts results and enqueues them; returns at once.

    What is configured no longer when its turn comes is dropped.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        metrics: Metrics,
        judge: JudgeThread,
        pipeline: Pipeline,
        provisional: Provisional,
    ) -> None:
        self._targets = targets
        self._metrics = metrics
        self._judge = judge
        self._pipeline = pipeline
        self._provisional = provisional

    def put_burst(self, burst: Burst) -> None:
        """One burst of a canary."""
        self._metrics.observe_burst(burst)
        self._judge.put(partial(self._judge_burst, burst))
        self._judge.put(partial(self._consider, burst))

    def put_memory(self, target: str, samples: Sequence[MemorySample]) -> None:
        """Memory of a target's workers; empty while none runs."""
        self._metrics.observe_memory(target, samples)
        if samples:
            self._judge.put(partial(self._judge_memory, target, samples))

    def put_gpu(self, sample: GpuSample) -> None:
        """The devices of a target."""
        self._metrics.observe_gpu(sample)
        self._judge.put(partial(self._judge_gpu, sample))

    def _judge_burst(self, burst: Burst) -> None:
        if self._is_asked(burst):
            self._pipeline.take_burst(burst)

    def _consider(self, burst: Burst) -> None:
        if self._is_asked(burst):
            self._provisional.consider(burst)

    def _judge_memory(self, target: str, samples: Sequence[MemorySample]) -> None:
        if target in self._targets and self._targets[target].workers is not None:
            self._pipeline.take_memory(target, samples)

    def _judge_gpu(self, sample: GpuSample) -> None:
        if sample.target in self._targets and self._targets[sample.target].gpu is not None:
            self._pipeline.take_gpu(sample)

    def _is_asked(self, burst: Burst) -> bool:
        return burst.target in self._targets and burst.canary in self._targets[burst.target].canaries
