import mmap
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.plan.line import Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CPU_BUILD
from kit.memory.probes.nvml import Gpu
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.service.preflight import Freed, held_by, require_room, rooms
from kit.units import GIB, MIB

SHAPE = ModelShape(2, 64, 128, 100, 1024, 256, 2, 10 * GIB)


def test_too_small_says_what_else_can_be_done():
    with pytest.raises(EnvironmentNotReady, match="not enough free VRAM on L4") as caught:
        require_room([Room("free VRAM on L4", 3 * GIB, 29 * GIB, "see nvidia-smi")])
    assert caught.value.hint.startswith("see nvidia-smi; or ask for less")
    assert "--no-preflight" in caught.value.hint


def test_rooms_on_a_gpu():
    plan = plan_serving(SHAPE, context=256, max_sequences=1, device="cuda", build=CPU_BUILD)
    gpu = Gpu(0, "GPU-a", "L4", 24 * GIB, 1 * GIB, "580")
    found = {room.what: room for room in rooms(plan, CPU_BUILD, (gpu,))}
    assert found["free VRAM on L4"].free_bytes == 23 * GIB
    assert found["free VRAM on L4"].need_bytes > 10 * GIB
    assert found["RAM (MemAvailable)"].need_bytes < 10 * GIB  # mapped pages need no room


def test_rooms_on_a_cpu():
    plan = plan_serving(SHAPE, context=256, max_sequences=1, device="cpu", build=CPU_BUILD)
    found = {room.what: room for room in rooms(plan, CPU_BUILD, ())}
    assert found["RAM (MemAvailable)"].need_bytes > 10 * GIB
    assert not any("VRAM" in what for what in found)


def test_what_a_service_frees_is_counted_as_room():
    plan = plan_serving(SHAPE, context=256, max_sequences=1, device="cuda", build=CPU_BUILD)
    gpu = Gpu(0, "GPU-a", "L4", 24 * GIB, 20 * GIB, "580")
    found = {r.what: r for r in rooms(plan, CPU_BUILD, (gpu,), Freed(1000 * GIB, {0: 19 * GIB}))}
    assert found["free VRAM on L4"].free_bytes == 23 * GIB
    assert found["RAM (MemAvailable)"].free_bytes > 1000 * GIB


def test_every_rank_needs_its_share_of_its_own_card():
    ranks = {"engine": "megatron", "ranks": 2}
    plan = plan_serving(
        SHAPE, context=256, max_sequences=1, device="cuda", build=CPU_BUILD, **ranks
    )
    first = Gpu(0, "GPU-a", "L4", 24 * GIB, 1 * GIB, "580")
    second = replace(first, index=3, uuid="GPU-b", used_bytes=20 * GIB)
    held = Freed(0, {3: 2 * GIB})
    one, other = (r for r in rooms(plan, CPU_BUILD, (first, second), held) if r.limit == "vram")
    assert one.need_bytes == other.need_bytes == -(-plan.peak_bytes(Pool.DEVICE) // 2)
    assert (one.free_bytes, other.free_bytes) == (23 * GIB, 6 * GIB)
    assert (one.what, other.what) == ("free VRAM on L4 (GPU 0)", "free VRAM on L4 (GPU 3)")


LIMITS = """
import resource
limit = 1 << 30
resource.setrlimit(getattr(resource, "RLIMIT_{kind}"), (limit, limit))
from kit.memory.plan.line import Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import CPU_BUILD
from kit.service.preflight import rooms
shape = ModelShape(2, 64, 128, 100, 1024, 256, 2, 10 << 30)
plan = plan_serving(shape, context=256, max_sequences=1, device="cpu", build=CPU_BUILD)
for room in rooms(plan, CPU_BUILD, ()):
    if room.limit == "address space":
        print(room.problem, "|", room.remedy)
"""


@pytest.mark.parametrize(
    ("kind", "what", "option"),
    [("AS", "address space (ulimit -v)", "-v"), ("DATA", "private memory (ulimit -d)", "-d")],
)
def test_what_a_shell_holds_its_processes_to_is_seen(kind, what, option):
    code = LIMITS.format(kind=kind)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"not enough {what}: 1")
    assert done.stdout.endswith(
        f"1.00 GiB there | raise it in this shell: ulimit {option} unlimited\n"
    )


def test_unknown_vram_of_a_service_is_room_unknown():
    plan = plan_serving(SHAPE, context=256, max_sequences=1, device="cuda", build=CPU_BUILD)
    gpu = Gpu(0, "GPU-a", "L4", 24 * GIB, 20 * GIB, "580")
    found = rooms(plan, CPU_BUILD, (gpu,), Freed(0, Unavailable("NVML is silent")))
    assert "free VRAM on L4 unknown: NVML is silent" in require_room([found[-1]])


def test_private_memory_of_a_process_is_held():
    before = held_by(os.getpid()).host_bytes
    with mmap.mmap(-1, 64 * MIB) as pages:
        for offset in range(0, len(pages), mmap.PAGESIZE):
            pages[offset] = 1
        assert held_by(os.getpid()).host_bytes - before > 60 * MIB
