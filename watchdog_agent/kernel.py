"""The reference kernel of the control: a fixed product of matrices, the same for every process on a kind of device.

How long it takes says how fast the machine is at this moment, whatever the model does. Only equal kernels can be
compared, also after a restart: so nothing here is measured or chosen. Its size depends on the kind of the device alone,
its numbers on a fixed seed; it has as many threads as torch gives to the caller, as a model's products have.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, ContextManager, Optional

if TYPE_CHECKING:
    import torch

SIZES = {"cpu": (512, 1), "cuda": (1024, 8)}
"""Side of the square matrices, and how many products make one run. A change makes all controls of before worthless.

On a CPU 0.27 GFLOP in 3 MiB: 3 ms of one core of an EPYC, 1.6 ms of two. On a GPU 17 GFLOP in 12 MiB: by NVIDIA's data
sheets at least 0.3 ms on an H100 (67 TFLOP/s), 0.9 ms on an A100 (19.5) and 2.1 ms on a T4 (8.1).
"""
SETTLING_RUNS = 2  # the first ones start threads and choose kernels


def kernel_name(device_type: str) -> Optional[str]:
    """What is run on that kind of device; None where nothing is."""
    if device_type not in SIZES:
        return None
    side, rounds = SIZES[device_type]
    return f"gemm {side} float32 {device_type}" + (f" x{rounds}" if rounds > 1 else "")


class Kernel:
    """Built on a cpu or cuda device, else KeyError; its memory is kept. Raises whatever torch raises.

    A cuda device becomes the calling thread's current one, so that no context is made on another.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        torch.get_num_threads()  # not before it is asked for does a new thread take the number that the process has set
        side, self._rounds = SIZES[device.type]
        self.name = kernel_name(device.type)
        self._stream: Optional[torch.cuda.Stream] = None
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        seeded = torch.Generator(device="cpu").manual_seed(0)  # the process's own generator is not touched
        factors = [torch.randn(side, side, generator=seeded, dtype=torch.float32, device="cpu") for _ in range(2)]
        with self._on_stream():
            self._left, self._right = (factor.to(device) for factor in factors)
            self._product = torch.empty_like(self._left)
        for _ in range(SETTLING_RUNS):
            self.run()

    @property
    def on_cuda(self) -> bool:
        return self._stream is not None

    def run(self) -> float:
        """Seconds by the clock until the device has finished."""
        import torch

        with self._on_stream():
            self._finish()
            start = time.perf_counter()
            for _ in range(self._rounds):
                torch.mm(self._left, self._right, out=self._product)
            self._finish()
            return time.perf_counter() - start

    def _on_stream(self) -> ContextManager[Any]:
        """Not torch's own for None, which would make a context on a GPU that nobody uses."""
        import torch

        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
