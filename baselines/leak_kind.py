"""Which kind of leak it is: by which figures grow together, what a trim gave back, and whether new shapes explain it.

used by the process on its device = reserved by torch's allocator + what lies outside torch (context, libraries, raw
allocations); reserved = allocated (live tensors) + cached. So a tensor that is kept raises all of them, fragmentation
raises reserved alone, and a library that leaks raises only what lies outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from baselines.quantiles import Floats

FLAT_SHARE = 0.25  # of the reserved memory's slope: an allocated slope below it does not explain it
PART_SHARE = 0.5  # of the device's slope: a part of it that grows by so much is what grows
TRIMMED_SHARE = 0.5  # of the growth: what was given back on request was never lost
SHAPES_SHARE = 0.7  # of the growth, explained by new shapes
MIN_SHAPES = 8  # new ones in the window; fewer are chance
MIN_TOGETHER = 0.6  # correlation of rises and new shapes over 23 steps; chance reaches 0.53 once in a hundred


class LeakKind(StrEnum):
    """The value is the word in the evidence."""

    TENSORS = "tensors"  # references, or autograd graphs, that are kept
    FRAGMENTATION = "fragmentation"  # torch reserves ever more for the same live tensors
    OUTSIDE_TORCH = "outside_torch"  # on the device, and not by torch's allocator
    DEVICE = "device"  # on the device; nobody says whose it is
    HOST = "host"
    RETENTION = "retention"  # freed, and kept by the C library; a trim gives it back
    NEW_SHAPES = "new_shapes"  # grows when an input has a shape that was not seen before
    DESCRIPTORS = "descriptors"
    THREADS = "threads"


_OF_FIGURE: Mapping[str, LeakKind] = {
    "allocated_bytes": LeakKind.TENSORS,
    "host_anon_bytes": LeakKind.HOST,
    "outside_torch_bytes": LeakKind.OUTSIDE_TORCH,
    "gpu_used_bytes": LeakKind.DEVICE,
    "reserved_bytes": LeakKind.FRAGMENTATION,
    "fds": LeakKind.DESCRIPTORS,
    "threads": LeakKind.THREADS,
}


def kind_of(figure: str, slopes: Mapping[str, float], *, trimmed: float, by_shapes: bool) -> LeakKind:
    """The kind of a leak of this figure.

    slopes: of each figure that is known, in bytes per second. trimmed: the largest share of what had been gained that a
    trim gave back. by_shapes: see `follows_shapes`.
    """
    if figure == "gpu_used_bytes":
        figure = _part(slopes)
    if figure == "host_anon_bytes" and trimmed >= TRIMMED_SHARE:
        return LeakKind.RETENTION
    if by_shapes and figure in ("host_anon_bytes", "allocated_bytes", "reserved_bytes"):
        return LeakKind.NEW_SHAPES
    if figure == "reserved_bytes" and slopes.get("allocated_bytes", 0.0) >= FLAT_SHARE * slopes["reserved_bytes"]:
        return LeakKind.TENSORS
    return _OF_FIGURE[figure]


def _part(slopes: Mapping[str, float]) -> str:
    """The part of the device's figure that grows, where an agent says what torch reserved; else the whole."""
    parts = ("reserved_bytes", "outside_torch_bytes")
    grows = max(parts, key=lambda part: slopes.get(part, 0.0))
    return grows if slopes.get(grows, 0.0) >= PART_SHARE * slopes["gpu_used_bytes"] else "gpu_used_bytes"


def follows_shapes(floors: Floats, shapes: Floats) -> bool:
    """Whether it rises when new shapes come, and not with time.

    floors, shapes: of the same moments, at equal distances; shapes: how many different ones there had been, a large
    number as estimated. False when the two cannot be told apart, because new shapes come at an even pace.
    """
    rises, new = np.diff(floors), np.diff(shapes)
    if new.sum() < MIN_SHAPES or floors[-1] <= floors[0] or new.std() == 0.0 or rises.std() == 0.0:
        return False
    together = float(np.corrcoef(rises, new)[0, 1])
    per_shape = together * rises.std() / new.std()
    return together >= MIN_TOGETHER and bool(per_shape * new.sum() >= SHAPES_SHARE * (floors[-1] - floors[0]))
