"""What the serving process tells of itself when it is asked. Each figure by itself: one that fails is None."""

from __future__ import annotations

import platform
import sys
from typing import Any, Callable, Dict, Optional

from watchdog_agent import identity, memory
from watchdog_agent.agent_wire import Report
from watchdog_agent.ledger import Ledger


def report(ledger: Ledger) -> Report:
    """How this process stands now. Loads nothing and creates no CUDA context; never raises."""
    gpu: Dict[str, int] = _or_none(memory.allocator_figures) or {}
    versions = {"python": platform.python_version(), **(_or_none(identity.loaded_versions) or {})}
    return Report(
        life=_or_none(identity.life_key),
        version=ledger.version,
        versions={name: version[:100] for name, version in versions.items()},
        model_load_s=ledger.model_load_s,
        in_flight=ledger.in_flight,  # before the requests: what begins in between must not be in flight alone
        requests=ledger.requests,
        shapes=ledger.shapes,
        recompiles=_or_none(recompiles),
        host_anon_bytes=_or_none(memory.host_anon_bytes),
        allocated_bytes=gpu.get("allocated_bytes"),
        reserved_bytes=gpu.get("reserved_bytes"),
        active_bytes=gpu.get("active_bytes"),
        inactive_split_bytes=gpu.get("inactive_split_bytes"),
        private_pool_bytes=gpu.get("private_pool_bytes"),
        alloc_retries=gpu.get("alloc_retries"),
        ooms=gpu.get("ooms"),
    )


def recompiles() -> Optional[int]:
    """How often torch.compile compiled something again; None while it was never used, or where torch does not say."""
    frames = getattr(sys.modules.get("torch._dynamo.convert_frame"), "FRAME_COMPILE_COUNTER", None)
    return None if frames is None else sum(times - 1 for times in list(frames.values()) if times > 1)


def _or_none(read: Callable[[], Any]) -> Any:
    """Another thread may be importing torch at this moment, and a CUDA context may be broken."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - a figure that cannot be read is not known
        return None
