"""A serving process on a device, for `gpu` and its tests: `python -m benchmarks.gpu_host WHAT FOLDER [--device cpu]`.

    tensors, fragmentation, plateau    serves now and then, while its memory does that (`growing`)
    serve       serves without a pause: when each request began (monotonic clock) and how long it took, in seconds
    multiply    one multiplication of matrices over and over: seconds of each, by the device's clock where it has one
    report      what the agent says of this process, over and over: seconds of each

It attaches the agent in FOLDER, says "ready", begins at a line on standard input, and ends when that is closed. What it
measured lies in FOLDER/WHAT.npy then.
"""

from __future__ import annotations

import argparse
import select
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.growing import KINDS, growing
from watchdog_agent.attach import attach
from watchdog_agent.ledger import LEDGER
from watchdog_agent.middleware import watching
from watchdog_agent.report import report

PACE_S = 0.01
WARM_UP = 20
PRODUCT_S = 1e-3  # what is timed as one multiplication takes about so long


class Device:
    """Where it runs: a CUDA device, or one thread of the CPU, where all of it is smaller."""

    def __init__(self, name: str) -> None:
        self.name, self.is_cuda = name, name.startswith("cuda")
        torch.set_num_threads(1)
        torch.manual_seed(0)

    def allocate(self, size: int) -> Tensor:
        """So many bytes, every page of them touched."""
        return torch.ones(size, dtype=torch.uint8, device=self.name)

    def finish(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def serving(self) -> Callable[[], None]:
        """A model that answers one request at a time, and is warm."""
        width, layers = (1024, 24) if self.is_cuda else (64, 4)
        parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.GELU())]
        model, batch = nn.Sequential(*parts).to(self.name).eval(), torch.randn(64, width, device=self.name)

        def answer() -> None:
            with watching(), torch.inference_mode():
                model(batch)
                self.finish()

        for _ in range(WARM_UP):
            answer()
        return answer

    def multiplying(self) -> Callable[[], float]:
        """Seconds of one multiplication, which is repeated so often that it takes about PRODUCT_S."""
        side, dtype = (2048, torch.float16) if self.is_cuda else (256, torch.float32)
        left, right = (torch.randn(side, side, device=self.name).to(dtype) for _ in range(2))

        def multiply(times: int) -> float:
            self.finish()
            if not self.is_cuda:
                began = time.perf_counter()
                for _ in range(times):
                    torch.mm(left, right)
                return time.perf_counter() - began
            event: Any = torch.cuda.Event  # untyped
            start, end = event(enable_timing=True), event(enable_timing=True)
            start.record()
            for _ in range(times):
                torch.mm(left, right)
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3

        once = min(multiply(1) for _ in range(WARM_UP))
        times = max(1, round(PRODUCT_S / once))
        return lambda: multiply(times)


class Caller:
    """Whoever started this process."""

    def wait(self) -> None:
        """Until it says that work may begin."""
        print("ready", flush=True)
        sys.stdin.readline()

    def ends(self, pause_s: float = 0.0) -> bool:
        """Whether it has closed our standard input; waits for that so long."""
        return bool(select.select([sys.stdin], [], [], pause_s)[0])


def grow(kind: str, device: Device, caller: Caller, options: argparse.Namespace) -> None:
    answer = device.serving()
    memory = growing(kind, device.allocate, bytes_a_second=options.bytes_a_second, window_s=options.window_s)
    caller.wait()
    began = time.monotonic()
    while not caller.ends(PACE_S):
        answer()
        memory.grow(time.monotonic() - began)


def serve(device: Device, caller: Caller) -> array[float]:
    answer, found = device.serving(), array("d")
    caller.wait()
    while not caller.ends():
        began = time.monotonic()
        answer()
        found.extend((began, time.monotonic() - began))
    return found


def multiply(device: Device, caller: Caller) -> array[float]:
    measure, found = device.multiplying(), array("d")
    caller.wait()
    while not caller.ends(PACE_S / 2):
        found.append(measure())
    return found


def tell(device: Device, caller: Caller) -> array[float]:
    device.serving()
    found = array("d")
    caller.wait()
    while not caller.ends(PACE_S / 2):
        began = time.perf_counter()
        report(LEDGER)
        found.append(time.perf_counter() - began)
    return found


MEASURES: dict[str, Callable[[Device, Caller], array[float]]] = {"serve": serve, "multiply": multiply, "report": tell}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*KINDS, *MEASURES])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--bytes-a-second", type=float, default=12e6, help="by which its memory grows")
    parser.add_argument("--window-s", type=float, default=120.0, help="in which its memory will be looked at")
    options = parser.parse_args()
    device, caller = Device(options.device), Caller()
    attach(folder=str(options.folder))
    if options.what in KINDS:
        grow(options.what, device, caller, options)
    else:
        np.save(options.folder / options.what, np.array(MEASURES[options.what](device, caller)))


if __name__ == "__main__":
    main()
