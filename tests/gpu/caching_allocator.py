"""torch's CUDA allocator without CUDA, as far as it matters to what is reserved (c10/cuda/CUDACachingAllocator.cpp).

Blocks up to 1 MiB are cut from segments of 2 MiB, those below 10 MiB from segments of 20 MiB, and larger ones get a
segment of their own in steps of 2 MiB. The smallest free block that fits is taken and split when enough is left over;
neighbours join when they are freed; segments are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True, order=True)
class Free:
    size: int
    segment: int
    offset: int


class Allocator:
    """allocated_bytes, reserved_bytes: as `torch.cuda.memory_stats` would tell them."""

    def __init__(self) -> None:
        self.allocated_bytes = self.reserved_bytes = 0
        self._free: dict[bool, list[Free]] = {True: [], False: []}  # small, large
        self._segments = 0

    def allocate(self, size: int) -> Block:
        """Held until nobody refers to it any more."""
        size = -(-size // 512) * 512
        small = size <= MIB
        found = min((free for free in self._free[small] if free.size >= size), default=None)
        if found is None:
            found = self._reserve(size, small=small)
        else:
            self._free[small].remove(found)
        left = found.size - size
        if left < 512 if small else left <= MIB:
            size = found.size
        else:
            self._free[small].append(Free(left, found.segment, found.offset + size))
        self.allocated_bytes += size
        return Block(self, found.segment, found.offset, size, small=small)

    def _reserve(self, size: int, *, small: bool) -> Free:
        whole = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        self._segments += 1
        self.reserved_bytes += whole
        return Free(whole, self._segments, 0)

    def free(self, block: Block) -> None:
        pool = self._free[block.small]
        begin, end = block.offset, block.offset + block.size
        for other in [free for free in pool if free.segment == block.segment]:
            if other.offset == end or other.offset + other.size == begin:
                pool.remove(other)
                begin, end = min(begin, other.offset), max(end, other.offset + other.size)
        pool.append(Free(end - begin, block.segment, begin))
        self.allocated_bytes -= block.size


class Block:
    def __init__(self, allocator: Allocator, segment: int, offset: int, size: int, *, small: bool) -> None:
        self.segment, self.offset, self.size, self.small = segment, offset, size, small
        self._allocator = allocator

    def __del__(self) -> None:
        self._allocator.free(self)
