"""Memory of this process, in bytes: torch's CUDA allocator and the host's anonymous memory."""

from __future__ import annotations

import sys
from typing import Any, Dict, Optional

_ALLOCATOR = {
    "allocated_bytes": "allocated_bytes.all.current",
    "peak_allocated_bytes": "allocated_bytes.all.peak",
    "reserved_bytes": "reserved_bytes.all.current",
}
_DETAILS = {  # counted by torch's own allocator only: with cudaMallocAsync these stay at zero
    "active_bytes": "active_bytes.all.current",
    "inactive_split_bytes": "inactive_split_bytes.all.current",
    "alloc_retries": "num_alloc_retries",
    "ooms": "num_ooms",
}
_PRIVATE_POOLS, _CURRENT = "reserved_bytes_by_private_pools.", ".all.current"  # one key a pool; not in every torch


def allocator_bytes() -> Dict[str, float]:
    """Current, peak and reserved memory over all devices; empty while torch is not loaded or CUDA not initialised.

    The peak is since the last `reset_peak`. Asking creates no CUDA context.
    """
    torch = _initialised()
    if torch is None:
        return {}
    stats = [torch.cuda.memory_stats(device) for device in range(torch.cuda.device_count())]
    return {name: float(sum(s.get(key, 0) for s in stats)) for name, key in _ALLOCATOR.items()}


def allocator_figures() -> Dict[str, int]:
    """What a serving process tells of its allocator, over all devices, by the names of `agent_wire.Report`.

    What this torch does not count is left out; empty while torch is not loaded or CUDA not initialised. Asking creates
    no CUDA context. Source: torch.cuda.memory_stats.
    """
    torch = _initialised()
    if torch is None:
        return {}
    names = {name: key for name, key in _ALLOCATOR.items() if name != "peak_allocated_bytes"}
    if torch.cuda.get_allocator_backend() == "native":
        names.update(_DETAILS)
    stats = [torch.cuda.memory_stats(device) for device in range(torch.cuda.device_count())]
    pools = [int(s[key]) for s in stats for key in s if key.startswith(_PRIVATE_POOLS) and key.endswith(_CURRENT)]
    return {
        **{name: sum(int(s.get(key, 0)) for s in stats) for name, key in names.items() if any(key in s for s in stats)},
        **({"private_pool_bytes": sum(pools)} if pools else {}),
    }


def reset_peak() -> None:
    """Start a new peak; nothing happens while CUDA is not initialised."""
    torch = _initialised()
    if torch is not None:
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def host_anon_bytes(status: str = "/proc/self/status") -> Optional[int]:
    """RssAnon: what the process itself took, mapped weights and page cache left out. None where /proc is missing."""
    try:
        with open(status, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib is slower in a server
            for line in file:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def facts() -> Dict[str, float]:
    """All that is known, by name; what is not known is left out."""
    anon = host_anon_bytes()
    return {**allocator_bytes(), **({} if anon is None else {"host_anon_bytes": float(anon)})}


def _initialised() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None
