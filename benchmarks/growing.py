"""How memory grows in a serving loop: what really leaks, and what only looks like it, for any allocator.

Each is told how long it has been at work, in seconds, and brings its memory to where it belongs by then. It knows
nothing of devices: `allocate` takes bytes and returns a tensor, or whatever else holds them until it is dropped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

MIB = 2**20
PIECE = MIB // 2  # a small block for torch's CUDA allocator; the C library maps one of this size by itself
RESULT = 2 * MIB
SCRATCH, LONGER = 12 * MIB, 2 * MIB  # above 10 MiB torch's CUDA allocator takes a segment for itself, in steps of 2 MiB
RESULTS = 8

Allocate = Callable[[int], Any]


class Growing(Protocol):
    def grow(self, elapsed_s: float) -> None:
        """Bring it to where it belongs after so long."""


class Tensors:
    """A leak: outputs are appended to a list, "for later"."""

    def __init__(self, allocate: Allocate, *, bytes_a_second: float) -> None:
        self._allocate, self._rate = allocate, bytes_a_second
        self._kept: list[Any] = []

    def grow(self, elapsed_s: float) -> None:
        while PIECE * (len(self._kept) + 1) <= self._rate * elapsed_s:
            self._kept.append(self._allocate(PIECE))


class Fragmentation:
    """Inputs that get ever longer: no block that was freed is large enough for the next one.

    All scratch space is freed at once, and of the results the last few are held; they lie in the blocks that were free.
    So what is reserved grows and what is in use does not. bytes_a_second: of what is reserved.
    """

    def __init__(self, allocate: Allocate, *, bytes_a_second: float) -> None:
        self._allocate, self._rate = allocate, bytes_a_second
        self._results: deque[Any] = deque(maxlen=RESULTS)
        self._scratch, self._asked = SCRATCH, 0

    def grow(self, elapsed_s: float) -> None:
        while self._asked + self._scratch <= self._rate * elapsed_s:
            scratch = self._allocate(self._scratch)
            del scratch
            self._results.append(self._allocate(RESULT))
            self._asked += self._scratch
            self._scratch += LONGER


class Plateau:
    """No leak: a cache of keys and values, soon full; then each new entry takes the place of the oldest.

    It fills as a cache does whose entries are asked for again and again: ever more slowly. fills_s: the time constant.
    """

    def __init__(self, allocate: Allocate, *, bytes_in_all: float, fills_s: float) -> None:
        self._allocate, self._in_all, self._fills_s = allocate, bytes_in_all, fills_s
        self._cached: deque[Any] = deque()

    def grow(self, elapsed_s: float) -> None:
        if self._cached:
            self._cached.popleft()
        while PIECE * (len(self._cached) + 1) <= self._in_all * (1 - math.exp(-elapsed_s / self._fills_s)):
            self._cached.append(self._allocate(PIECE))


def growing(kind: str, allocate: Allocate, *, bytes_a_second: float, window_s: float) -> Growing:
    """One of KINDS. window_s: the middle one of the windows in which it will be looked at."""
    return KINDS[kind](allocate, bytes_a_second, window_s)


KINDS: Mapping[str, Callable[[Allocate, float, float], Growing]] = {
    "tensors": lambda allocate, rate, _: Tensors(allocate, bytes_a_second=rate),
    "fragmentation": lambda allocate, rate, _: Fragmentation(allocate, bytes_a_second=rate),
    "plateau": lambda allocate, rate, window_s: Plateau(
        allocate, bytes_in_all=rate * window_s / 2, fills_s=window_s / 16
    ),
}
"""Of a plateau, four times as much as a leak has taken by the time that it can be told at the earliest."""
