"""How many different things there have been, in little memory: exactly at first, then a close estimate without end.

The first ones are kept. Each of the others falls to a register, which keeps the longest run of zero bits that it was
given (HyperLogLog: Flajolet et al., 2007). One that changes a register counts for as many as it takes, on average, to
change one (Ting, "Streamed approximate counting of distinct elements", 2014; Cohen's HIP estimator, 2015). So the count
never goes back, and what it rises by is right on average at any time, which an estimate from the registers is not.
"""

from __future__ import annotations

from typing import Set

EXACT = 1024  # so many are told apart one by one
REGISTERS = 1 << 16  # bytes, taken when the first ones are full; a standard error of 0.83 / 256 of the others: 0.3 %

_PLACE_BITS = REGISTERS.bit_length() - 1
_RUN_BITS = 64 - _PLACE_BITS
_MASK = (1 << 64) - 1


class Distinct:
    """What is added is given by its hash, equal for equals: any integer of 64 bits."""

    def __init__(self) -> None:
        self._first: Set[int] = set()
        self._registers = bytearray()
        self._chance = 1.0  # that one more, not seen before, changes a register
        self._others = 0.0

    @property
    def count(self) -> int:
        """Exact up to EXACT, estimated from there on; never less than before."""
        return len(self._first) + round(self._others)

    def add(self, hashed: int) -> None:
        """Counted unless it was added before."""
        if hashed in self._first:
            return
        if len(self._first) < EXACT:
            self._first.add(hashed)
            return
        if not self._registers:
            self._registers = bytearray(REGISTERS)
        mixed = _mix(hashed)
        place, run = mixed % REGISTERS, 1 + _RUN_BITS - (mixed >> _PLACE_BITS).bit_length()
        longest = self._registers[place]
        if run > longest:
            self._others += 1.0 / self._chance
            self._chance -= (0.5**longest - 0.5**run) / REGISTERS
            self._registers[place] = run


def _mix(hashed: int) -> int:
    """Every bit depends on every other: the finalizer of SplitMix64 (Steele et al., 2014; constants of Stafford)."""
    mixed = hashed & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
