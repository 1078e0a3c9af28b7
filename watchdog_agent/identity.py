"""Which worker is this? Its pid with its start time, and the versions of what it has loaded. Loads no torch."""

from __future__ import annotations

import os
import sys
from typing import Dict, Optional

ASKING_HEADER = "X-Watchdog-Canary"
ANSWER_HEADER = "X-Watchdog-Worker"


def start_ticks(stat: str = "/proc/self/stat") -> Optional[int]:
    """Clock ticks from boot to the start of this process (field 22 of /proc/PID/stat); None where there is no /proc."""
    try:
        with open(stat, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no pathlib inside a server
            after_name = file.read().rpartition(")")[2]  # the name in field 2 may hold spaces and brackets
        return int(after_name.split()[19])
    except (OSError, ValueError, IndexError):
        return None


def life_key() -> Optional[str]:
    """PID@START_TICKS of this process; None where there is no /proc."""
    ticks = start_ticks()
    return None if ticks is None else f"{os.getpid()}@{ticks}"


def loaded_versions() -> Dict[str, str]:
    """Of torch and CUDA, where torch is loaded; what is not known is left out."""
    torch = sys.modules.get("torch")
    found = {
        "torch": getattr(torch, "__version__", None),
        "cuda": getattr(getattr(torch, "version", None), "cuda", None),
    }
    return {name: str(version) for name, version in found.items() if version}


class Worker:
    """The header's value. Worked out on the first question after each fork, since master and worker differ."""

    def __init__(self) -> None:
        self._pid = -1
        self._life = ""

    def header(self, model_version: Optional[str] = None) -> str:
        pid = os.getpid()
        if pid != self._pid:
            self._life, self._pid = life_key() or str(pid), pid
        versions = loaded_versions()
        if model_version:
            versions["model_version"] = model_version
        return ";".join([self._life, *(f"{name}={version}" for name, version in versions.items())])
