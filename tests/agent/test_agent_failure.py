"""What an exception of a model is called, and what a person is told of it."""

from __future__ import annotations

import pytest
import torch

from watchdog_agent import wire
from watchdog_agent.failure import MAX_DETAIL, describe_failure


def _fail() -> None:
    raise ValueError("first\nsecond")


JIT_TEXT = (
    "The following operation failed in the TorchScript interpreter.\n"
    "Traceback of TorchScript (most recent call last):\n    <forward op>\n"
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied\n"
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), wire.OUT_OF_MEMORY),
        (MemoryError(), wire.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), wire.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), wire.OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), wire.CUDA_FAULT),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), wire.CUDA_FAULT),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), wire.CUDA_FAULT),
        (ValueError("CUDA error is a word in my text"), wire.WORKER_ERROR),
        (RuntimeError("shapes cannot be multiplied"), wire.WORKER_ERROR),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{type(v).__name__}: {str(v)[:30]}",
)
def test_exception_has_one_of_four_names(error: Exception, kind: str) -> None:
    """By class where torch has one, by text of a RuntimeError where it has not."""
    assert describe_failure(error).error == kind


def test_loading_turns_errors_of_the_model_into_load_failures_only() -> None:
    """Out of memory while loading stays out of memory; the model is named either way."""
    failed = describe_failure(KeyError("layer.weight"), loading="m.pt2")
    assert failed == wire.Failed(error=wire.MODEL_LOAD_FAILED, detail="m.pt2: KeyError: 'layer.weight'")
    assert describe_failure(MemoryError(), loading="m.pt2") == wire.Failed(
        error=wire.OUT_OF_MEMORY, detail="m.pt2: MemoryError"
    )


def test_detail_is_one_short_line_with_its_place() -> None:
    """The place is in the model's code; pages of advice are cut."""
    with pytest.raises(ValueError, match="first") as caught:
        _fail()
    detail = describe_failure(caught.value).detail
    assert detail.startswith("ValueError: first (test_agent_failure.py:")
    assert detail.endswith(" in _fail)")
    assert len(describe_failure(ValueError("x" * 5000)).detail) < MAX_DETAIL + 50


def test_headline_is_followed_by_the_first_of_its_list() -> None:
    """A heading alone says nothing."""
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(1, 1).load_state_dict({})
    assert describe_failure(caught.value).detail.startswith(
        'RuntimeError: Error(s) in loading state_dict for Linear: Missing key(s) in state_dict: "weight", "bias".'
    )


def test_torchscript_message_is_the_last_line() -> None:
    """Its first line is the same for every error."""
    assert describe_failure(RuntimeError(JIT_TEXT)).detail == (
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    )
