import pytest

from kit.memory.plan.allocator import rounded_bytes
from kit.units import MIB


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (0, 0),
        (1, 512),
        (513, 1024),
        (3 * MIB + 1, 3 * MIB + 512),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (25 * MIB // 2, 14 * MIB),
    ],
)
def test_steps(asked, given):
    assert rounded_bytes(asked) == given
