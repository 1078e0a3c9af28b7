"""The reference kernel: always the same, and nobody else's business."""

from __future__ import annotations

import os

import pytest
import torch

from watchdog_agent.kernel import SIZES, Kernel, kernel_name

CPU = torch.device("cpu")


def test_every_process_runs_the_same_product() -> None:
    """Size, numbers and type come from nothing but the kind of device: times of two processes can be compared."""
    seeded = torch.Generator().manual_seed(0)
    left, right = torch.randn(512, 512, generator=seeded), torch.randn(512, 512, generator=seeded)
    kernel = Kernel(CPU)
    assert 0 < kernel.run() < 60
    assert torch.equal(kernel._product, left @ right)
    assert kernel.name == kernel_name("cpu") == "gemm 512 float32 cpu"
    assert not kernel.on_cuda


def test_names_say_what_is_run() -> None:
    """Controls of other kernels are not to be compared; where there is no kernel there is no name."""
    assert kernel_name("cuda") == "gemm 1024 float32 cuda x8"
    assert kernel_name("meta") is None
    assert len({kernel_name(kind) for kind in SIZES}) == len(SIZES)
    with pytest.raises(KeyError):
        Kernel(torch.device("meta"))


def test_the_process_does_not_notice_it() -> None:
    """Neither its random numbers nor its default type and device; and no gradient is recorded."""
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        kernel = Kernel(CPU)
        kernel.run()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(torch.rand(3), wanted)
    assert (kernel._product.dtype, kernel._product.device, kernel._product.requires_grad) == (torch.float32, CPU, False)


@pytest.mark.gpu
def test_on_cuda_it_waits_for_the_device() -> None:
    """On a stream of its own; the current one stays current."""
    if not torch.cuda.is_available():
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU=1 and torch sees no CUDA device")
        pytest.skip("torch sees no CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    before = torch.cuda.current_stream()
    kernel = Kernel(device)
    assert kernel.on_cuda
    assert kernel.run() > 17e9 / 1e15, "no device makes 1000 TFLOP/s of float32"
    assert torch.cuda.current_stream() == before
