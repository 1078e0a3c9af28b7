"""What an exception of a model means, in the four words of the protocol, and one line that says where it came from."""

from __future__ import annotations

import os
import traceback
from typing import Optional

from watchdog_agent import wire

MAX_DETAIL = 300  # characters; CUDA's messages run to pages

# Texts of torch and CUDA from before they had exception classes of their own (OutOfMemoryError, AcceleratorError).
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_CUDA_FAULT = ("CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS_STATUS_", "device-side assert", "NCCL error")


def describe_failure(error: BaseException, *, loading: Optional[str] = None) -> wire.Failed:
    """loading: the model that was being loaded; None when it was being run."""
    kind = _kind(error)
    if loading is not None and kind == wire.WORKER_ERROR:
        kind = wire.MODEL_LOAD_FAILED
    prefix = "" if loading is None else f"{loading}: "
    return wire.Failed(error=kind, detail=f"{prefix}{_one_line(error)}")


def _kind(error: BaseException) -> str:
    """By class name along the whole family, so that torch is neither imported nor of a certain version."""
    family = {c.__name__ for c in type(error).__mro__}
    text = str(error)
    if family & {"OutOfMemoryError", "MemoryError"}:
        return wire.OUT_OF_MEMORY
    if "RuntimeError" in family and any(word in text for word in _OUT_OF_MEMORY):
        return wire.OUT_OF_MEMORY
    if "AcceleratorError" in family or ("RuntimeError" in family and any(word in text for word in _CUDA_FAULT)):
        return wire.CUDA_FAULT
    return wire.WORKER_ERROR


def _one_line(error: BaseException) -> str:
    """`ValueError: text (model.py:12 in forward)`; the place is the innermost one of the model's own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if "TorchScript" in text:  # a fixed sentence and a traceback of its own; the message proper comes last
        text = lines[-1]
    elif text.endswith(":") and len(lines) > 1:  # "Error(s) in loading state_dict for Net:"
        text = f"{text} {lines[1]}"
    if len(text) > MAX_DETAIL:
        text = text[:MAX_DETAIL] + "..."
    if type(error).__module__.startswith("watchdog_agent."):
        return text  # one of ours: the text is all there is to know
    name = type(error).__name__
    line = text if text.startswith(name) else f"{name}: {text}" if text else name
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_foreign(frame.filename):
            return f"{line} ({os.path.basename(frame.filename)}:{frame.lineno} in {frame.name})"  # noqa: PTH119
    return line


def _is_foreign(filename: str) -> bool:
    """Code of neither torch, nor this package, nor the standard library: the model's, or a library's that it uses."""
    own, standard = os.path.dirname(__file__), os.path.dirname(os.__file__)  # noqa: PTH120
    if f"{os.sep}torch{os.sep}" in filename or filename.startswith((own, "<")):
        return False
    return not filename.startswith(standard) or "site-packages" in filename
