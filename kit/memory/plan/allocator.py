"""torch's caching allocator of GPU memory, as arithmetic: what a series of tensors reserves.

The rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings, for one stream:
sizes are rounded, taken from the smallest free block that holds them, blocks are split and, when
they are free, joined again; the memory of a segment stays reserved until the pool is emptied.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from kit.units import MIB

_STEP_BYTES, _LARGE_STEP_BYTES = 512, 2 * MIB
_LARGE_FROM_BYTES = 10 * MIB


def rounded_bytes(size_bytes: int) -> int:
    """What a tensor of ``size_bytes`` takes: whole steps of 512 bytes, from 10 MiB of 2 MiB.

    Smaller ones share segments. Source: c10/cuda/CUDACachingAllocator.cpp of torch, ``round_size``
    and ``get_allocation_size``.
    """
    step = _LARGE_STEP_BYTES if size_bytes >= _LARGE_FROM_BYTES else _STEP_BYTES
    return -(-size_bytes // step) * step


def pinned_bytes(size_bytes: int) -> int:
    """What torch pins for a pinned tensor, and keeps: the next power of two.

    Source: aten/src/ATen/core/CachingHostAllocator.h, ``allocate``.
    """
    return 1 << max(0, size_bytes - 1).bit_length()


_MIN_BLOCK_BYTES = 512
_SMALL_BYTES = MIB
"""Up to here tensors share segments of their own (kSmallSize)."""
_SMALL_SEGMENT_BYTES, _LARGE_SEGMENT_BYTES = 2 * MIB, 20 * MIB
_OWN_SEGMENT_BYTES = 10 * MIB
"""From here a tensor that finds no free block gets a segment of its size (kMinLargeAlloc)."""


class OutOfPool(Exception):
    """The pool may not grow that far, even after all free segments are given back."""


@dataclass(eq=False)
class Block:
    """A piece of a segment. ``before`` and ``after`` are its neighbours there."""

    address: int
    size_bytes: int
    small: bool
    free: bool = False
    before: "Block | None" = None
    after: "Block | None" = None


@dataclass
class Allocator:
    """The pool of one GPU.

    Attributes:
        limit_bytes: what it may reserve; None: without end.
        expandable: there is one segment for small tensors and one for large ones, which grow
            (``expandable_segments:True`` in PYTORCH_CUDA_ALLOC_CONF).
        allocated_bytes: of the blocks in use.
        reserved_bytes: of all segments.
    """

    limit_bytes: int | None = None
    expandable: bool = False
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    _next_address: int = 0
    _last: dict[bool, Block] = field(default_factory=dict)
    _free: dict[bool, list[tuple[int, int, Block]]] = field(
        default_factory=lambda: {True: [], False: []}
    )

    def allocate(self, size_bytes: int) -> Block:
        """A block for a tensor of ``size_bytes``, which must not be 0.

        Raises:
            OutOfPool: it does not fit ``limit_bytes``.
        """
        wanted = _blocks_bytes(size_bytes)
        small = wanted <= _SMALL_BYTES
        block = self._take_free(wanted, small) or self._new_segment(wanted, small)
        remaining = block.size_bytes - wanted
        if remaining >= _MIN_BLOCK_BYTES if small or self.expandable else remaining > _SMALL_BYTES:
            rest = Block(block.address + wanted, remaining, small, True, block, block.after)
            if block.after is not None:
                block.after.before = rest
            block.size_bytes, block.after = wanted, rest
            self._note_last(rest)
            self._insert(rest)
        self.allocated_bytes += block.size_bytes
        return block

    def release(self, block: Block) -> None:
        """The tensor in ``block`` is gone: the block joins its free neighbours."""
        self.allocated_bytes -= block.size_bytes
        if block.before is not None and block.before.free:
            self._remove(block.before)
            block = _joined(block.before, block)
        if block.after is not None and block.after.free:
            self._remove(block.after)
            block = _joined(block, block.after)
        block.free = True
        self._note_last(block)
        self._insert(block)

    def empty_cache(self) -> None:
        """Give back what holds no tensor: segments, or pages of those that grow.

        It is what torch.cuda.empty_cache does. Of the latter only those at the end are counted.
        """
        if self.expandable:
            for small, last in self._last.items():
                self._shrink(last, _page_bytes(small))
            return
        for small, blocks in self._free.items():
            whole = [entry for entry in blocks if _is_segment(entry[2])]
            self.reserved_bytes -= sum(size for size, _, _ in whole)
            self._free[small] = [entry for entry in blocks if not _is_segment(entry[2])]

    def _take_free(self, wanted: int, small: bool) -> Block | None:
        blocks = self._free[small]
        at = bisect_left(blocks, (wanted, -1), key=lambda entry: entry[:2])
        if at == len(blocks):
            return None
        block = blocks.pop(at)[2]
        block.free = False
        return block

    def _shrink(self, last: Block, page_bytes: int) -> None:
        if last.free:
            self._remove(last)
            pages = last.size_bytes // page_bytes * page_bytes
            self.reserved_bytes -= pages
            last.size_bytes -= pages
            self._insert(last)

    def _note_last(self, block: Block) -> None:
        if self.expandable and block.after is None:
            self._last[block.small] = block

    def _grow(self, wanted: int, small: bool) -> Block:
        """The end of the segment, grown by as many pages as lack."""
        last, page = self._last.get(small), _page_bytes(small)
        there = last.size_bytes if last is not None and last.free else 0
        more = -(-(wanted - there) // page) * page
        if self._passes_limit(more):
            raise OutOfPool(f"{wanted} bytes beside {self.reserved_bytes} that are reserved")
        self.reserved_bytes += more
        if last is not None and last.free:
            self._remove(last)
            last.size_bytes += more
            last.free = False
            return last
        address = 0 if last is None else last.address + last.size_bytes
        block = Block(address + (1 << 60) * small, more, small, before=last)
        if last is not None:
            block.address, last.after = address, block
        self._last[small] = block
        return block

    def _new_segment(self, wanted: int, small: bool) -> Block:
        if self.expandable:
            return self._grow(wanted, small)
        size = _segment_bytes(wanted)
        if self._passes_limit(size):
            self.empty_cache()
            if self._passes_limit(size):
                raise OutOfPool(f"{wanted} bytes beside {self.reserved_bytes} that are reserved")
        self.reserved_bytes += size
        block = Block(self._next_address, size, small)
        self._next_address += size
        return block

    def _passes_limit(self, more_bytes: int) -> bool:
        return self.limit_bytes is not None and self.reserved_bytes + more_bytes > self.limit_bytes

    def _insert(self, block: Block) -> None:
        entry = (block.size_bytes, block.address, block)
        insort(self._free[block.small], entry, key=lambda each: each[:2])

    def _remove(self, block: Block) -> None:
        blocks = self._free[block.small]
        at = bisect_left(blocks, (block.size_bytes, block.address), key=lambda entry: entry[:2])
        del blocks[at]


def _blocks_bytes(size_bytes: int) -> int:
    return -(-size_bytes // _MIN_BLOCK_BYTES) * _MIN_BLOCK_BYTES


def _page_bytes(small: bool) -> int:
    return _SMALL_SEGMENT_BYTES if small else _LARGE_SEGMENT_BYTES


def _segment_bytes(wanted: int) -> int:
    if wanted <= _SMALL_BYTES:
        return _SMALL_SEGMENT_BYTES
    return rounded_bytes(wanted) if wanted >= _OWN_SEGMENT_BYTES else _LARGE_SEGMENT_BYTES


def _joined(first: Block, second: Block) -> Block:
    first.size_bytes += second.size_bytes
    first.after = second.after
    if second.after is not None:
        second.after.before = first
    return first


def _is_segment(block: Block) -> bool:
    return block.before is None and block.after is None
