"""A leak's kind and its history in the words of a person who was woken up, with what to look at first."""

from __future__ import annotations

from collections.abc import Mapping

from alerts.magnitude import number
from alerts.wording import COUNTED, say_count, say_size
from baselines.leak_kind import LeakKind
from baselines.verdict import Evidence

SAID = frozenset(
    {
        *("kind", "version", "appeared_with", "version_before", "slope_before_bytes_per_hour"),
        *("former_slope_bytes_per_hour", "former_version", "slope_before_per_hour", "former_slope_per_hour"),
    }
)
"""Keys of the evidence that these functions say."""

KINDS: Mapping[LeakKind, str] = {
    LeakKind.TENSORS: "live tensors pile up in torch's allocator: look for references or autograd graphs that are kept",
    LeakKind.FRAGMENTATION: (
        "torch reserves ever more for the same live tensors: fragmentation;"
        " try PYTORCH_ALLOC_CONF=expandable_segments:True"
    ),
    LeakKind.OUTSIDE_TORCH: "GPU memory outside torch's allocator: a library, a communicator or raw allocations",
    LeakKind.DEVICE: "GPU memory; with the agent in the worker it could be said whose it is",
    LeakKind.HOST: "host memory: look for caches without a bound and lists that only grow",
    LeakKind.RETENTION: (
        "host memory that a trim gives back: freed, and kept by the C library; set MALLOC_ARENA_MAX=2 or use jemalloc"
    ),
    LeakKind.NEW_SHAPES: "grows with new input shapes, not with requests: pad inputs to a few sizes, or bound caches",
    LeakKind.DESCRIPTORS: "file descriptors: connections or files that are never closed",
    LeakKind.THREADS: "threads that never end: pools or clients built anew for each request",
}


def say_kind(evidence: Evidence) -> str:
    """What kind of leak it is; empty when that is not known."""
    kind = evidence.get("kind")
    return KINDS[LeakKind(kind)] if isinstance(kind, str) and kind in set(LeakKind) else ""


def say_appearance(evidence: Evidence) -> str:
    """With which version it came; empty when that is not known."""
    version, before = (evidence.get(key) for key in ("appeared_with", "version_before"))
    slope = _say_slope(evidence, "slope_before")
    return f"It appeared with version {version}: {before} grew by {slope}." if slope else ""


def say_gone(evidence: Evidence) -> str:
    """How fast the worker before grew, and this one grows; empty while it is not known that the leak is gone."""
    former, slope = _say_slope(evidence, "former_slope"), _say_slope(evidence, "slope")
    if not former or not slope:
        return ""
    now, before = (
        "" if version is None else f" (version {version})"
        for version in (evidence.get("version"), evidence.get("former_version"))
    )
    return f"The worker before{before} grew by {former}, this one{now} by {slope}."


def say_what_leaks(evidence: Evidence) -> str:
    """Where it is counted and no memory; empty where it is memory."""
    counted = COUNTED.get(str(evidence.get("channel")))
    return f"leaks {counted}" if counted else ""


def _say_slope(evidence: Evidence, name: str) -> str:
    """In bytes, or what is counted; empty when it is not known. What shrank did not grow."""
    for unit, say in (("bytes_per_hour", say_size), ("per_hour", say_count)):
        if (slope := number(evidence, f"{name}_{unit}")) is not None:
            return f"{say(max(0.0, slope))}/h"
    return ""
