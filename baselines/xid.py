"""What NVIDIA's Xid codes ask for, as data. What a target's configuration says of a code goes before this table.

Source: the resolution buckets of NVIDIA's Xid catalogue for Ampere and newer
(https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), as gpud carries them. They are not the last
word: of 109 the catalogue says "reset", Kubernetes' device plugin "ignore".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Remedy(StrEnum):
    """What a code asks for. The value is the word in the configuration."""

    RESTART_APP = "restart_app"  # the CUDA context is poisoned as long as the process lives: a recycle helps
    RESET_GPU = "reset_gpu"
    REBOOT = "reboot"
    WORKFLOW = "workflow"  # other figures or another code say what to do
    IGNORE = "ignore"
    UNKNOWN = "unknown"  # not in the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """name: NVIDIA's words in short; empty where the number is all there is to say."""

    code: int
    remedy: Remedy
    name: str = ""

    def __str__(self) -> str:
        return f"Xid {self.code} ({self.name})" if self.name else f"Xid {self.code}"


_NAMES: Mapping[int, str] = {
    8: "GPU stopped processing",
    13: "graphics engine exception",
    31: "MMU fault",
    32: "invalid or corrupted push buffer",
    43: "a channel was reset, the application is at fault",
    45: "preemptive clean-up after an earlier error",
    46: "GPU stopped processing",
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    63: "row remapping or page retirement recorded",
    64: "row remapping or page retirement failed",
    68: "video decoder exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high rate of single-bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    109: "context switch timeout",
    119: "GSP timeout",
    120: "GSP error",
    140: "unrecovered ECC error",
    143: "GPU initialisation failed",
    154: "recovery action changed",
}
_CODES: Mapping[Remedy, tuple[int, ...]] = {
    Remedy.RESTART_APP: (
        *(8, 11, 13, 25, 31, 32, 39, 40, 41, 60, *range(68, 73), *range(75, 78), 80, *range(82, 87), 88, 89, 94),
        *(*range(96, 106), *range(126, 136), 139),
    ),
    Remedy.RESET_GPU: (46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158),
    Remedy.REBOOT: (79, 151),
    Remedy.WORKFLOW: (45, 48, 74, *range(144, 151), 154),
    Remedy.IGNORE: (37, 38, 43, 44, 63, 66, 67, 92, 106, 107, 121, 137, 141, 152, 153, 157, 160, 161),
}
XIDS: Mapping[int, Xid] = {
    code: Xid(code=code, remedy=remedy, name=_NAMES.get(code, ""))
    for remedy, codes in _CODES.items()
    for code in sorted(codes)
}

FELL_OFF = 79  # nothing answers any more; a recycle would loop for ever
APP_OR_HARDWARE = frozenset({13, 31})
"""Alone it is the application's error; again and again on the same GPU, and on no other, it is the GPU's
(NVSentinel, ADR-014)."""
NVLINK = frozenset({74, *range(144, 151)})


def look_up(code: int, overrides: Mapping[int, Remedy]) -> Xid:
    """The code with what it asks for here; remedy UNKNOWN for one that is in neither table."""
    known = XIDS.get(code, Xid(code=code, remedy=Remedy.UNKNOWN))
    return Xid(code=code, remedy=overrides[code], name=known.name) if code in overrides else known
