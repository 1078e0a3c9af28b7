"""The process on the device, as whoever measures it holds it: `gpu_host.py`, and the daemon's own eyes on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from baselines.quantiles import Floats
from benchmarks.watched import HERE, scratch_folder
from probes.agent import AgentClient, AgentSpec
from probes.gpu.reader import GpuReader
from probes.gpu.usage import TargetGpu
from probes.messages import Life
from probes.process import ProcessSpec, WorkerWatch, life_of

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # with segments that can grow nothing fragments
UNMAPPED = {
    "MALLOC_MMAP_THRESHOLD_": "131072"
}  # what is freed on the CPU goes back; else the C library learns to keep it
END_S = 30.0


class Worker:
    """One process that does `what`; it ends with the `with` block. more: further words of its command line."""

    def __init__(self, what: str, *, device: str, more: tuple[str, ...] = ()) -> None:
        self.what = what
        self._scratch = scratch_folder()
        self._folder = Path(self._scratch.name)
        argv = [sys.executable, "-m", "benchmarks.gpu_host", what, self._scratch.name, "--device", device, *more]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
            env={name: value for name, value in os.environ.items() if name not in ALLOCATOR} | UNMAPPED,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()
        self._scratch.cleanup()

    def wait_ready(self) -> None:
        """Until its model is on the device and warm. Raises RuntimeError when it ends before."""
        if self._stdout.readline() != "ready\n":
            raise RuntimeError(f"{self.what}: the process has ended, see its own words above")

    def begin(self) -> None:
        """Have it begin; after `wait_ready`."""
        self._stdin.write("\n")
        self._stdin.flush()

    def end(self) -> Floats:
        """Have it end, and what it measured."""
        self._stdin.close()
        if self._process.wait(END_S) != 0:
            raise RuntimeError(f"{self.what}: the process has failed, see its own words above")
        found: Floats = np.load(self._folder / f"{self.what}.npy")
        return found

    def run_for(self, seconds: float) -> Floats:
        """Wait until it is ready, have it work so long, and what it measured."""
        self.wait_ready()
        self.begin()
        time.sleep(seconds)
        return self.end()

    @property
    def life(self) -> Life:
        found = life_of(self._process.pid)
        assert found is not None, f"{self.what} has ended"
        return found

    def agent(self) -> AgentClient:
        """As a daemon's, that asks this process's agent."""
        return AgentClient(AgentSpec(folder=self._folder), monotonic=time.monotonic)

    def watch(self, gpu: GpuReader | None) -> WorkerWatch:
        """As a daemon's of this process, its agent and its part of the GPU."""
        return WorkerWatch(
            ProcessSpec(parent_pid=self._process.pid, workers="self"),
            target=self.what,
            gpu=None if gpu is None else TargetGpu(gpu),
            agents=self.agent(),
        )
