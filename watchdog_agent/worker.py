"""The program `python -m watchdog_agent.worker`: one model in a process of its own, driven over its standard pipes.

- The protocol runs on private copies of stdin and stdout, taken first. What the model's code or its child processes
  print goes to stderr and cannot corrupt it.
- It ends when stdin closes, even in the middle of a call: the daemon that started it is gone.
- When the machine runs out of memory, the kernel takes this process before the server beside it.
- An exception of the model is an answer. A crash, or SIGTERM while a call hangs, leaves the line where it happened on
  stderr.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any, Callable, Tuple

from watchdog_agent import failure, identity, memory, wire


class Worker:
    """Answers requests one after the other. `answer` sends one message."""

    def __init__(self, answer: Callable[[wire.Answer], None]) -> None:
        self._answer = answer
        self._model: Any = None

    def serve(self, request: wire.Message) -> bool:
        """Answer one request, whatever the model does. False when this process must not be used again."""
        loading = request.model if isinstance(request, wire.Load) else None
        try:
            self._serve(request)
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it is the answer
            failed = failure.describe_failure(error, loading=loading)
            self._answer(failed)
            return failed.error not in (wire.CUDA_FAULT, wire.MODEL_LOAD_FAILED)
        return True

    def _serve(self, request: wire.Message) -> None:
        if isinstance(request, wire.Load):
            self._load(request)
        elif self._model is None:
            raise wire.WireError("no model is loaded")
        elif isinstance(request, wire.Burst):
            self._burst(request)
        elif isinstance(request, wire.Profile):
            self._profile(request)
        else:
            raise wire.WireError(f"{type(request).__name__} is no request")

    def _load(self, request: wire.Load) -> None:
        try:
            import torch  # noqa: F401 - fails here, with a message of its own, and not in the middle of loading
        except ImportError as error:
            raise ImportError(f"torch cannot be imported by {sys.executable}: {error}") from error
        from watchdog_agent.model import load_model

        self._model = load_model(request, life=identity.life_key())
        gc.collect()
        gc.freeze()  # what is loaded now stays; collections need not look at it again
        self._answer(self._model.described)

    def _burst(self, request: wire.Burst) -> None:
        """The collector rests meanwhile: a collection of this process is not the model's latency."""
        import torch

        from watchdog_agent.tensors import first_tensor, summarise

        gc.collect()
        memory.reset_peak()
        gc.disable()
        answer = None
        try:
            with torch.inference_mode():
                for _ in range(request.warmup + request.size):
                    answer, timed = self._model.timed_call(control=request.control)
                    self._answer(timed)
        finally:
            gc.enable()
        facts = memory.facts()  # before the summary, which copies the answer
        tensor = first_tensor(answer)
        output = None if tensor is None else summarise(tensor, values=request.values, top_k=request.top_k)
        self._answer(wire.Measured(output=output, facts=facts))

    def _profile(self, request: wire.Profile) -> None:
        import torch

        from watchdog_agent.snapshot import take_snapshot

        model = self._model
        with torch.inference_mode():
            profiled = take_snapshot(
                model.call, steps=request.steps, on_cuda=model.on_cuda, environment=model.environment()
            )
        self._answer(profiled)


def main() -> int:
    """Serve until told to stop. The exit code says only whether the end was orderly; answers say the rest."""
    requests, answers = _claim_pipes()
    os.environ["KINETO_LOG_LEVEL"] = "6"  # its lines on stderr would push out the ones that explain a crash
    os.environ.pop("KINETO_USE_DAEMON", None)  # without a listener it delays the exit by seconds
    _go_first()
    faulthandler.enable(all_threads=False)
    faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)

    def answer(message: wire.Answer) -> None:
        answers.write(wire.encode(message))
        answers.flush()

    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests, inbox), daemon=True).start()
    worker = Worker(answer)
    while True:
        request = _decode(inbox.get())
        if isinstance(request, wire.Failed):
            answer(request)
        elif isinstance(request, wire.Stop):
            return 0
        elif not worker.serve(request):
            return 1


def _claim_pipes() -> Tuple[int, IO[bytes]]:
    """Private copies of stdin and stdout, which children do not inherit; stdout is stderr and stdin empty from now."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed last before a crash is worth having
    return requests, os.fdopen(answers, "wb")


def _go_first() -> None:
    """Raising one's own score needs no privilege; 1000 is the highest."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _read_requests(fd: int, inbox: queue.SimpleQueue[bytes]) -> None:
    """A thread of its own, so that the end of the daemon is noticed while a call hangs."""
    lines = wire.Lines(limit=wire.MAX_REQUEST_BYTES)
    try:
        while True:
            data = os.read(fd, 65536)
            if not data:
                break
            for line in lines.feed(data):
                inbox.put(line)
    finally:
        os._exit(0)


def _decode(line: bytes) -> wire.Message:
    try:
        return wire.decode(line)
    except wire.WireError as error:
        return wire.Failed(error=wire.WORKER_ERROR, detail=f"request not understood: {error}")


if __name__ == "__main__":
    sys.exit(main())
