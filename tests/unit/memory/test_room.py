import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.room import Room, require_room
from kit.memory.unavailable import Unavailable
from kit.units import GIB

ENOUGH = Room("RAM", 2 * GIB, 2 * GIB, "end other programs")
TOO_SMALL = Room("free VRAM on L4", 3 * GIB, 29 * GIB, "see nvidia-smi")
WISHED = Room("RAM to serve it", GIB, 2 * GIB, "take another machine", required=False)
UNKNOWN = Room("RAM", Unavailable("no /proc"), 2 * GIB, "")


def test_enough() -> None:
    assert require_room([ENOUGH], "ask for less") == ()


def test_too_small_names_need_and_have() -> None:
    with pytest.raises(EnvironmentNotReady) as caught:
        require_room([ENOUGH, TOO_SMALL], "ask for less")
    assert caught.value.message == "not enough free VRAM on L4: 29.00 GiB needed, 3.00 GiB there"
    assert caught.value.hint == "see nvidia-smi; ask for less"


def test_unknown_and_wished_are_warnings() -> None:
    assert require_room([UNKNOWN, WISHED], "ask for less") == (
        "RAM unknown: no /proc",
        "not enough RAM to serve it: 2.00 GiB needed, 1.00 GiB there; take another machine",
    )
