"""Machines as literals: what the checks judge in tests."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kit
from kit.containers.compose import ComposeProgram
from kit.doctor.facts import (
    Budgets,
    CdiSpec,
    Clock,
    Disk,
    Docker,
    Facts,
    Folders,
    HostMemory,
    Image,
    Interpreter,
    Machine,
    NoDocker,
    ProbeRun,
    Reply,
    ServiceState,
    Serving,
    Toolkit,
    Torch,
    UpstreamTree,
    WeightsFolder,
)
from kit.memory.plan.line import Basis, Phase, Plan, PlanLine, Pool
from kit.memory.probes.nvml import Gpu, GpuProcess, NoDriver, Nvidia
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.units import GIB, MIB

WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
CUDA_13 = Torch("2.13.0+cu130", (13, 0), WHEEL, "libtorch_python.so")
CUDA_12 = Torch("2.10.0", (12, 8), ("sm_70", *WHEEL), "the wheels of torch 2.10")
CPU_BUILD = Torch("2.13.0+cpu", None, (), "torch/version.py")
GPU = Gpu(0, "GPU-aaaa", "Stub 48", 48 * GIB, GIB // 2, "580.65.06", (8, 9), ())
TENANTS = (GpuProcess(4712, "ollama", 35 * GIB // 2), GpuProcess(4711, "python3", 3 * GIB))


def plan(gpu: Gpu | None, host_bytes: int = GIB, device_bytes: int = 29 * GIB) -> Plan:
    phases = (Phase.LOAD, Phase.SERVE)
    lines = [PlanLine("runtime", Pool.HOST, phases, host_bytes, Basis.ASSUMED, "a literal")]
    if gpu is not None:
        why = "a literal"
        lines.append(PlanLine("weights", Pool.DEVICE, phases, device_bytes, Basis.COMPUTED, why))
    return Plan("cpu" if gpu is None else "cuda", 4096, 1, tuple(lines))


def serving(gpu: Gpu | None, *more: Room, **changes: Any) -> Serving:
    """The real model on ``gpu``, or the demo on the CPU, on a machine with 60 GiB of free RAM."""
    rooms = [Room("RAM (MemAvailable)", 60 * GIB, GIB, "end other programs", "ram")]
    if gpu is not None:
        what, remedy = f"free VRAM on {gpu.name}", "end the programs that hold it: nvidia-smi"
        rooms.append(Room(what, gpu.free_bytes, 29 * GIB, remedy, "vram"))
    name = "demo" if gpu is None else "spark-13b-chat in bf16"
    found = Serving(
        name, gpu is not None, plan(gpu), () if gpu is None else (gpu,), (*rooms, *more)
    )
    return replace(found, **changes)


LAPTOP = Facts(
    machine=Machine("6.8.0", "x86_64", ("glibc", (2, 39)), 8, frozenset({"avx2"})),
    interpreter=Interpreter((3, 12, 3), "/venv/bin/python", virtual=True),
    nvidia=NoDriver("no NVIDIA driver answers (NVML Shared Library Not Found)", "library"),
    torch=CPU_BUILD,
    docker=NoDocker("there is no Docker engine", None),
    compose=Unavailable("neither `docker compose` nor `docker-compose` is installed"),
    toolkit=Toolkit(None, False, "auto", False, (), False),
    probe=Unavailable("there is no Docker engine"),
    image=Unavailable("there is no Docker engine"),
    memory=HostMemory(64 * GIB, 8 * MIB, 32 * GIB),
    serving=serving(None),
    disk=Disk((Room("disk at /", 500 * GIB, 75 * GIB, "make room", "disk"),), None),
    folders=Folders(),
    weights_sources=(Reply("https://gitee.com/x", "source gitee", None, 0.4),),
    index=Reply("pip's default index", "pip's configuration", None),
    registry=Unavailable("there is no Docker engine"),
    clock=Clock(
        datetime(2026, 11, 26, 12, 0, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), "a literal"
    ),
    weights=WeightsFolder(),
    upstream=UpstreamTree(Path("/data/upstream/rewritten"), "absent"),
    service=ServiceState("127.0.0.1", 8000, "stopped", "not running; start it: kit up"),
    budgets=Budgets(30 * GIB, None),
)
"""No GPU, no Docker: the demo runs."""

WORKSTATION = replace(
    LAPTOP,
    nvidia=Nvidia("580.65.06", (13, 0), (GPU,)),
    torch=CUDA_13,
    docker=Docker("28.2.2", "systemd", runtimes=("nvidia", "runc")),
    compose=ComposeProgram(("docker", "compose"), (2, 36, 2)),
    toolkit=Toolkit("1.17.8", True, "auto", False, (), device_links=True),
    probe=ProbeRun("spark-kit:1", "docker run …", 0, ("GPU-aaaa",), ""),
    image=Image("spark-kit:1", True, kit.__version__, "abc", "abc", CUDA_12),
    serving=serving(GPU),
    registry=Reply("https://registry.example/v2/", "the engine's configuration", None, 0.2),
)
"""A GPU of 48 GiB, Docker, and the toolkit: everything passes."""

STALE = CdiSpec(Path("/etc/cdi/nvidia.yaml"), "570.124.06")


def on(facts: Facts, nvidia: Nvidia | Unavailable, used: Gpu | None) -> Facts:
    """The machine with another driver answer; ``used`` is the GPU that would be served on."""
    return replace(facts, nvidia=nvidia, serving=serving(used))
