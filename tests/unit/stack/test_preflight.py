import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.nvml import Gpu
from kit.memory.plan import plan_serving
from kit.memory.shape import ModelShape
from kit.memory.torch_build import CPU_BUILD
from kit.memory.unavailable import Unavailable
from kit.stack.preflight import Room, require_room, rooms
from kit.units import GIB

ENOUGH = Room("RAM (MemAvailable)", 2 * GIB, 2 * GIB, "end other programs")
TOO_SMALL = Room("VRAM on L4", 3 * GIB, 29 * GIB, "see nvidia-smi")
UNKNOWN = Room("RAM (MemAvailable)", Unavailable("no /proc"), 2 * GIB, "")
SHAPE = ModelShape(2, 64, 128, 100, 1024, 256, 2, 10 * GIB)


def test_enough():
    assert require_room([ENOUGH]) == ()


def test_too_small_names_need_and_have():
    with pytest.raises(EnvironmentNotReady) as caught:
        require_room([ENOUGH, TOO_SMALL])
    assert caught.value.message == (
        "not enough VRAM on L4: the plan needs 29.00 GiB, 3.00 GiB is free"
    )
    assert caught.value.hint.startswith("see nvidia-smi; ")
    assert "--no-preflight" in caught.value.hint


def test_unknown_is_a_warning():
    assert require_room([UNKNOWN]) == ("free RAM (MemAvailable) unknown: no /proc",)


def test_rooms_on_a_gpu():
    plan = plan_serving(SHAPE, context=256, max_sequences=1, device="cuda", build=CPU_BUILD)
    gpu = Gpu(0, "GPU-a", "L4", 24 * GIB, 1 * GIB, "580")
    found = {room.what: room for room in rooms(plan, CPU_BUILD, gpu)}
    assert found["VRAM on L4"].free_bytes == 23 * GIB
    assert found["VRAM on L4"].need_bytes > 10 * GIB
    assert found["RAM (MemAvailable)"].need_bytes < 10 * GIB  # mapped pages need no room


def test_rooms_on_a_cpu():
    plan = plan_serving(SHAPE, context=256, max_sequences=1, device="cpu", build=CPU_BUILD)
    found = {room.what: room for room in rooms(plan, CPU_BUILD, None)}
    assert found["RAM (MemAvailable)"].need_bytes > 10 * GIB
    assert not any("VRAM" in what for what in found)
