"""Every way in which NVML says no is a named fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pynvml
import pytest
from nvml_stage import Driver, build_stub

from probes.gpu.nvml import FAULTS, GpuFault, Nvml

ROOT = Path(__file__).parents[2]
PROLOGUE = """
import pynvml
from probes.gpu.nvml import Nvml
nvml = Nvml.open()
h, _ = nvml.call("nvmlDeviceGetHandleByIndex", 0)
"""


def run(script: str) -> list[str]:
    """What a process of its own prints that has opened the library as `nvml` and its first device as `h`."""
    argv = [sys.executable, "-W", "error", "-c", PROLOGUE + script]
    return subprocess.run(argv, check=True, cwd=ROOT, timeout=30, stdout=subprocess.PIPE, text=True).stdout.splitlines()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver(tmp_path)
    driver.use(monkeypatch, build_stub(tmp_path / "library", "nvmlDeviceGetComputeRunningProcesses_v3"))
    driver.set("device 0 1000 10 100\n")
    return driver


def test_every_error_of_the_library_has_been_thought_of() -> None:
    """By the library's own list: one that a new version adds must be mapped on purpose."""
    known = {value: name for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}
    assert len(known) > 30
    assert set(FAULTS) == set(known)
    assert FAULTS[pynvml.NVML_ERROR_NOT_SUPPORTED] is GpuFault.NOT_SUPPORTED
    assert FAULTS[pynvml.NVML_ERROR_GPU_IS_LOST] is GpuFault.GPU_LOST
    assert FAULTS[pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH] is GpuFault.VERSION_MISMATCH


def test_each_error_reaches_the_caller_as_its_fault(driver: Driver) -> None:
    """Through the real library, code by code; one of tomorrow's is a failure."""
    codes = [*FAULTS, 31, 998]
    script = """
import os, pathlib
for code in %s:
    path = pathlib.Path(os.environ["NVML_STUB_STATE"])
    path.with_suffix(".new").write_text(f"device 0 1000 10 100\\nreturn nvmlDeviceGetUUID {code}\\n")
    path.with_suffix(".new").replace(path)
    print(code, *nvml.call("nvmlDeviceGetUUID", h))
    nvml._absent.clear()
"""
    answers = [line.split() for line in run(script % codes)]
    expected = [[str(code), "None", FAULTS.get(code, GpuFault.FAILED)] for code in codes]
    assert answers == expected


def test_what_the_library_lacks_is_looked_for_once(driver: Driver) -> None:
    """A missing function, one that raises pynvml's other exception, and a name that pynvml does not know. A function
    that is there by another version of its struct is not mistaken for the missing one."""
    found = run("""
import itertools
tries = itertools.count()
find = pynvml._nvmlGetFunctionPointer
pynvml._nvmlGetFunctionPointer = lambda name: (next(tries), find(name))[1]
for _ in range(3):
    print(nvml.call("nvmlDeviceGetComputeRunningProcesses_v3", h)[1])
print(next(tries))
print(nvml.call("nvmlDeviceGetComputeRunningProcesses", h)[1], nvml.call("nvmlDeviceGetNothing", h)[1])
print(nvml.first(("nvmlDeviceGetComputeRunningProcesses_v3", h), ("nvmlDeviceGetComputeRunningProcesses_v2", h)))
print(nvml.call("nvmlDeviceGetMemoryInfo", h, 0x02000028)[0].used, nvml.call("nvmlDeviceGetMemoryInfo", h)[0].used)""")
    assert found == ["not_supported"] * 3 + ["1", "not_supported not_supported", "([], None)", "100 110"]


def test_text_that_is_none_is_a_failure_and_no_exception(driver: Driver) -> None:
    """pynvml decodes names, and a broken device may answer anything."""
    path = driver.state
    path.write_bytes(b"device 0 1000 10 100\ntext nvmlDeviceGetName 0 \xff\xfe\n")
    assert run("print(nvml.call('nvmlDeviceGetName', h))") == ["(None, <GpuFault.FAILED: 'failed'>)"]


def test_a_library_that_was_never_opened_answers_nothing() -> None:
    """And may be closed, twice."""
    nvml = Nvml()
    assert nvml.call("nvmlDeviceGetCount") == (None, GpuFault.NO_LIBRARY)
    assert nvml.slowest() is None
    nvml.close()
    nvml.close()
