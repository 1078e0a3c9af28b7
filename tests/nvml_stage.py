"""The stub NVML on a test's own machine: what it says is the text in a file, which the test may change at any time."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import leave_out

BUILD = Path(__file__).parent / "stub_nvml" / "build.sh"
OLD_DRIVER = (  # what drivers before 510 do not have
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
)


def build_stub(folder: Path, *without: str) -> Path:
    """A folder with libnvidia-ml.so.1 for LD_LIBRARY_PATH, less the functions named."""
    if shutil.which("gcc") is None:
        leave_out("gcc is not installed")
    folder.mkdir(exist_ok=True)
    subprocess.run(["sh", str(BUILD), str(folder), *without], check=True, timeout=60)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call into the library. at_s: on the monotonic clock. device: "0", "0.1" for a MIG device, "-" for none.

    hangs: it did not return, or not before the scenario had changed.
    """

    at_s: float
    pid: int
    function: str
    device: str
    hangs: bool


class Driver:
    """A stub driver. state: the file with its scenario, whose language is described in tests/stub_nvml/scenario.c."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "scenario"
        self._calls = folder / "calls"
        self.set("")

    def use(self, monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
        """Processes that are started from now on load the stub instead of a real driver."""
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
        monkeypatch.setenv("NVML_STUB_STATE", str(self.state))
        monkeypatch.setenv("NVML_STUB_CALLS", str(self._calls))

    def set(self, scenario: str) -> None:
        """At once for every reader: no half of it is ever read."""
        part = self.state.with_suffix(".new")
        part.write_text(scenario)
        part.replace(self.state)

    def calls(self, function: str = "", device: str = "") -> list[Call]:
        """All so far, in order; those of one function, or about one device, when it is named."""
        if not self._calls.exists():
            return []
        whole, _, _ = self._calls.read_text().rpartition("\n")  # the newest may be half written
        rows = (line.split() for line in whole.splitlines())
        made = [
            Call(at_s=int(at) / 1e9, pid=int(pid), function=name, device=on, hangs=hangs == "hangs")
            for at, pid, name, on, hangs in rows
        ]
        return [c for c in made if function in ("", c.function) and device in ("", c.device)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    driver = Driver(tmp_path)
    driver.use(monkeypatch, library)
    yield driver
    driver.set("")  # what hangs in it may end
