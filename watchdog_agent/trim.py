"""Gives memory back, step by step, and says what came of each: what trims away was kept by an allocator, not leaked.

    gc            reference cycles that nobody can reach (holds the interpreter: 0.1 to 1 s with torch loaded)
    empty_cache   blocks of torch's CUDA allocator that hold no tensor (waits for the GPU; what comes next must ask the
                  driver again, so that the next requests are slower)
    malloc_trim   free memory that glibc kept (mallopt(3); holds the arenas' locks, milliseconds per gigabyte; musl and
                  other C libraries have none)

Measured: a convolution with 600 shapes of input takes 736 MB, of which malloc_trim gives 528 back. Runs on the thread
that asks; only `gc` stops the others. A thread begins on GPU 0, and freeing another GPU's memory from there makes a
context on it (pytorch#25752): so the GPU where the process holds the most becomes the thread's current one.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Callable, List

from watchdog_agent import memory
from watchdog_agent.agent_wire import Held, Step


class _Absent(Exception):  # noqa: N818 - it is no error
    """The step does not exist here; the text says why."""


def trim() -> List[Step]:
    """Take every step that exists here. Never raises: what went wrong is in the step's detail."""
    return [_take(step) for step in (_collect, _empty_cache, _trim_heap)]


def _take(step: Callable[[], str]) -> Step:
    before, began, ran = _held(), time.monotonic(), True
    try:
        detail = step()
    except _Absent as absent:
        ran, detail = False, str(absent)
    except Exception as error:  # noqa: BLE001 - an allocator may raise anything; it is the answer
        ran, detail = False, f"{type(error).__name__}: {error}"[:200]
    name = step.__name__.lstrip("_")
    return Step(
        name=_NAMES[name], ran=ran, detail=detail, took_s=time.monotonic() - began, before=before, after=_held()
    )


_NAMES = {"collect": "gc", "empty_cache": "empty_cache", "trim_heap": "malloc_trim"}


def _collect() -> str:
    return f"{gc.collect()} objects could not be reached"


def _empty_cache() -> str:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        raise _Absent("CUDA is not initialised")
    held = [torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())]
    if any(held):
        torch.cuda.set_device(held.index(max(held)))
    torch.cuda.empty_cache()
    return ""


def _trim_heap() -> str:
    import ctypes  # a megabyte; only now is it needed

    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        raise _Absent("this C library has no malloc_trim") from None
    return "gave pages back" if malloc_trim(ctypes.c_size_t(0)) else "had nothing to give back"


def _held() -> Held:
    """What it holds now; a figure that cannot be read is None."""
    try:
        gpu = memory.allocator_bytes()
    except Exception:  # noqa: BLE001 - the figures are a courtesy, the step is what counts
        gpu = {}
    return Held(
        host_anon_bytes=memory.host_anon_bytes(),
        allocated_bytes=int(gpu["allocated_bytes"]) if "allocated_bytes" in gpu else None,
        reserved_bytes=int(gpu["reserved_bytes"]) if "reserved_bytes" in gpu else None,
    )
