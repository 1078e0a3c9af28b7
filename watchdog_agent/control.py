"""Runs the reference kernel inside the serving process when the daemon asks: how fast is the machine, seen from here?

- Torch is used where the host has loaded it, and never loaded. On a GPU the kernel runs where the host's tensors are,
  on a stream of its own; no context is made. On a CPU it competes for the cores as the model does.
- A thread of its own runs it, begun at the first question, so that a device that hangs takes no answer but this one. It
  ends before a fork and at the end of the process, as the agent's does.
- What it may take of the host's time is bounded, whoever asks and however often.
"""

from __future__ import annotations

import queue
import sys
import time
from typing import Any, Optional

from watchdog_agent.agent_wire import Answer, Ran, Refused
from watchdog_agent.identity import life_key
from watchdog_agent.kernel import Kernel
from watchdog_agent.ledger import LEDGER
from watchdog_agent.native import Event, Thread, original

SHARE = 0.01  # of the time, in the long run: a burst of ten every minute takes 0.03 to 0.1 %
SAVED_S = 1.0  # so much may be taken at once: a baseline of 300 samples takes about half of it
WAIT_S = 0.2  # less than the daemon waits for a whole answer, and no more than a fork waits for the agent's thread


class _Run:
    """One run; took_s and kernel, or else problem, are known once it has ended. spent_s: with building the kernel."""

    def __init__(self) -> None:
        self.ended = Event()
        self.took_s = self.spent_s = 0.0
        self.kernel = ""
        self.problem: Optional[str] = None


class Control:
    """One of a process, for one thread that asks."""

    def __init__(self) -> None:
        self._saved_s = SAVED_S
        self._looked = time.monotonic()
        self._closed = False
        self._last: Optional[_Run] = None
        self._asked = _new_queue()
        self._thread: Optional[Thread] = None

    def answer(self) -> Answer:
        """What one run took, within WAIT_S, or why there is none. What torch raises is the reason."""
        why = self._refusal()
        if why is not None:
            return Refused(why=why)
        if self._thread is None or not self._thread.is_alive():
            self._thread = Thread(_work, self._asked)
        self._last = run = _Run()
        self._asked.put(run)
        if not run.ended.wait(WAIT_S):
            return Refused(why=f"the kernel has not ended within {WAIT_S:g} s")
        if run.problem is not None:
            return Refused(why=run.problem)
        return Ran(life=life_key(), kernel=run.kernel, took_s=run.took_s)

    def end(self, wait_s: float) -> None:
        """Have the thread end after the run that it is at, and wait for that. It begins again when it is needed."""
        thread, asked = self._thread, self._asked
        if thread is not None:
            self._thread, self._asked = None, _new_queue()
            asked.put(None)
            thread.await_end(wait_s)

    def close(self, wait_s: float) -> None:
        """End it for good: a thread that comes back from torch when the interpreter is gone may crash the process."""
        self._closed = True
        self.end(wait_s)

    def _refusal(self) -> Optional[str]:
        if self._closed:
            return "the process ends"
        if not LEDGER.may_run_kernel:
            return "attach(kernel=False) was called in this process"
        if "torch" not in sys.modules:
            return "torch is not loaded in this process"
        now = time.monotonic()
        self._saved_s = min(SAVED_S, self._saved_s + SHARE * (now - self._looked))
        self._looked = now
        if self._last is not None:
            if not self._last.ended.is_set():
                return "the kernel of before has not ended"
            self._saved_s -= self._last.spent_s
            self._last = None
        return None if self._saved_s > 0 else f"kernels have taken {SHARE:.0%} of the time"


def _new_queue() -> queue.SimpleQueue[Optional[_Run]]:
    asked: queue.SimpleQueue[Optional[_Run]] = original(queue, "SimpleQueue")()
    return asked


def _work(asked: queue.SimpleQueue[Optional[_Run]]) -> None:
    kernel: Optional[Kernel] = None
    while True:
        run = asked.get()
        if run is None:
            return
        began = time.perf_counter()
        try:
            if kernel is None or not kernel.on_cuda:
                kernel = _kernel_for(_device(), kernel)
            run.took_s = kernel.run()
            run.kernel = kernel.name or ""
        except Exception as error:  # noqa: BLE001 - torch half imported, no memory, a broken device
            run.problem = f"{type(error).__name__}: {error}"[:200]
        run.spent_s = time.perf_counter() - began
        run.ended.set()


def _kernel_for(device: Any, kernel: Optional[Kernel]) -> Kernel:
    """The one at hand, unless the host has begun to use a GPU since."""
    return kernel if kernel is not None and device.type == "cpu" else Kernel(device)


def _device() -> Any:
    """The GPU on which this process holds the most memory of torch's allocator; the CPU where it holds none."""
    torch = sys.modules["torch"]
    if not torch.cuda.is_initialized():
        return torch.device("cpu")
    held = [torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())]
    most = max(held, default=0)
    return torch.device("cuda", held.index(most)) if most else torch.device("cpu")
