"""torch's caching allocator as arithmetic: the rules, and that nothing is lost on the way."""

import random
from itertools import pairwise

import pytest

from kit.memory.plan.allocator import Allocator, OutOfPool, pinned_bytes
from kit.units import MIB


def test_small_tensors_share_segments() -> None:
    pool = Allocator()
    first, second = pool.allocate(1), pool.allocate(513)
    assert (first.size_bytes, second.size_bytes) == (512, 1024)
    assert pool.reserved_bytes == 2 * MIB
    assert pool.allocated_bytes == 1536


def test_middle_tensors_take_segments_of_20_mib() -> None:
    pool = Allocator()
    pool.allocate(3 * MIB)
    pool.allocate(3 * MIB)
    assert pool.reserved_bytes == 20 * MIB


def test_large_tensors_have_segments_of_their_own() -> None:
    pool = Allocator()
    block = pool.allocate(11 * MIB)
    assert pool.reserved_bytes == 12 * MIB
    assert block.size_bytes == 12 * MIB  # a rest of no more than 1 MiB is not cut off


def test_a_rest_of_more_than_a_mib_is_used_by_others() -> None:
    pool = Allocator()
    pool.release(pool.allocate(100 * MIB))
    pool.allocate(60 * MIB)
    pool.allocate(30 * MIB)
    assert pool.reserved_bytes == 100 * MIB


def test_the_smallest_block_that_fits_is_taken() -> None:
    pool = Allocator()
    large, small = pool.allocate(100 * MIB), pool.allocate(50 * MIB)
    pool.release(large)
    pool.release(small)
    assert pool.allocate(40 * MIB).address == small.address


def test_segments_are_not_joined() -> None:
    pool = Allocator()
    for block in [pool.allocate(100 * MIB) for _ in range(4)]:
        pool.release(block)
    pool.allocate(200 * MIB)
    assert pool.reserved_bytes == 600 * MIB


def test_neighbours_in_a_segment_are_joined() -> None:
    pool = Allocator()
    pool.release(pool.allocate(100 * MIB))
    parts = [pool.allocate(25 * MIB) for _ in range(4)]
    for index in (1, 3, 0, 2):
        pool.release(parts[index])
    assert pool.allocate(100 * MIB).size_bytes == 100 * MIB
    assert pool.reserved_bytes == 100 * MIB


def test_emptying_gives_back_whole_segments_only() -> None:
    pool = Allocator()
    pool.release(pool.allocate(100 * MIB))
    kept = pool.allocate(30 * MIB)
    pool.release(pool.allocate(40 * MIB))
    pool.allocate(200 * MIB)
    pool.empty_cache()
    assert pool.reserved_bytes == 300 * MIB
    pool.release(kept)
    pool.empty_cache()
    assert pool.reserved_bytes == 200 * MIB


def test_at_its_limit_the_pool_is_emptied_first() -> None:
    pool = Allocator(limit_bytes=150 * MIB)
    pool.release(pool.allocate(100 * MIB))
    pool.allocate(140 * MIB)
    assert pool.reserved_bytes == 140 * MIB
    with pytest.raises(OutOfPool):
        pool.allocate(20 * MIB)


def test_nothing_is_lost_or_given_twice() -> None:
    chance, pool, held = random.Random(1), Allocator(), {}
    for number in range(3000):
        if held and chance.random() < 0.5:
            pool.release(held.pop(chance.choice(list(held))))
        else:
            held[number] = pool.allocate(chance.choice((100, 5000, MIB, 3 * MIB, 15 * MIB)))
    spans = sorted((block.address, block.address + block.size_bytes) for block in held.values())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert pool.allocated_bytes == sum(block.size_bytes for block in held.values())
    for block in held.values():
        pool.release(block)
    assert pool.allocated_bytes == 0
    pool.empty_cache()
    assert pool.reserved_bytes == 0


def test_pinned_memory_is_a_power_of_two() -> None:
    assert [pinned_bytes(size) for size in (1, 1024, 1025)] == [1, 1024, 2048]
    assert pinned_bytes(16 * MIB + 1) == 32 * MIB


def test_an_expandable_segment_grows_where_others_are_outgrown() -> None:
    fixed, growing = Allocator(), Allocator(expandable=True)
    for size in range(100, 500, 100):
        for pool in (fixed, growing):
            pool.release(pool.allocate(size * MIB))
    assert fixed.reserved_bytes == (100 + 200 + 300 + 400) * MIB
    assert growing.reserved_bytes == 400 * MIB
    growing.empty_cache()
    assert growing.reserved_bytes == 0


def test_nothing_is_lost_in_an_expandable_segment() -> None:
    chance, pool, held = random.Random(2), Allocator(expandable=True), {}
    for number in range(3000):
        if held and chance.random() < 0.5:
            pool.release(held.pop(chance.choice(list(held))))
        else:
            held[number] = pool.allocate(chance.choice((100, 5000, MIB, 3 * MIB, 15 * MIB)))
        taken = sum(block.size_bytes for block in held.values())
        assert pool.allocated_bytes == taken <= pool.reserved_bytes
    for small in (True, False):
        mine = (block for block in held.values() if block.small is small)
        spans = sorted((block.address, block.address + block.size_bytes) for block in mine)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
