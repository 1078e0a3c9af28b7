"""Memory of the worker's own process."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from watchdog_agent import memory, trim


def test_host_memory_is_the_kernels_figure() -> None:
    """RssAnon in bytes, close to what psutil derives from rss - shared."""
    anon = memory.host_anon_bytes()
    info = psutil.Process().memory_info()
    assert anon is not None
    assert anon == pytest.approx(info.rss - info.shared, rel=0.05, abs=8e6)


def test_host_memory_is_unknown_without_proc(tmp_path: Path) -> None:
    """None rather than zero: missing file, and a kernel that has no such line."""
    assert memory.host_anon_bytes(str(tmp_path / "missing")) is None
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t100 kB\n")
    assert memory.host_anon_bytes(str(tmp_path / "status")) is None


def test_asking_does_not_initialise_cuda() -> None:
    """No allocator figures without CUDA, and no context of 500 MB for having asked."""
    if torch.cuda.is_initialized():
        pytest.skip("an earlier test of this process has initialised CUDA")
    memory.reset_peak()
    assert memory.allocator_bytes() == {}
    assert memory.allocator_figures() == {}
    assert set(memory.facts()) == {"host_anon_bytes"}
    assert not torch.cuda.is_initialized()


def test_a_trim_makes_no_context_on_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freed from where most is held: a thread of ours begins on GPU 0, which the host may not use."""
    current = [0]
    freed_on: list[int] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 3,
        memory_reserved=[0, 5 << 20, 1 << 20].__getitem__,
        memory_stats=lambda _: {},
        set_device=lambda index: current.__setitem__(0, index),
        empty_cache=lambda: freed_on.append(current[0]),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert [step.ran for step in trim.trim()][1]
    assert freed_on == [1]


@pytest.mark.gpu
def test_allocator_figures_follow_a_tensor(cuda: None) -> None:
    """Current rises and falls with a tensor; the peak stays until it is reset."""
    before = torch.ones(1, device="cuda")
    start = memory.allocator_bytes()["allocated_bytes"]
    held = torch.ones(1 << 20, device="cuda")
    assert memory.allocator_bytes()["allocated_bytes"] == start + (4 << 20)
    del held
    now = memory.allocator_bytes()
    assert now["allocated_bytes"] == start
    assert now["peak_allocated_bytes"] >= start + (4 << 20)
    assert now["reserved_bytes"] >= now["allocated_bytes"]
    memory.reset_peak()
    assert memory.allocator_bytes()["peak_allocated_bytes"] == start
    del before


@pytest.mark.gpu
def test_a_serving_process_tells_of_its_allocator_and_trims_it(cuda: None) -> None:
    """What is freed stays reserved until the trim; what is held stays."""
    held = torch.ones(8 << 20, device="cuda")
    freed = torch.ones(64 << 20, device="cuda")
    del freed
    before = memory.allocator_figures()
    assert before["allocated_bytes"] == torch.cuda.memory_allocated()
    assert before["reserved_bytes"] == torch.cuda.memory_reserved()
    assert {"active_bytes", "inactive_split_bytes", "alloc_retries", "ooms"} <= set(before)
    step = trim.trim()[1]
    assert (step.name, step.ran) == ("empty_cache", True)
    assert step.before.reserved_bytes is not None
    assert step.after.reserved_bytes is not None
    assert step.before.reserved_bytes - step.after.reserved_bytes >= 256 << 20
    assert memory.allocator_figures()["allocated_bytes"] >= held.nbytes
