"""How rank processes are started: one directly, several by DeepSpeed's launcher."""

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import kit
from kit.units import MIB

RANK_MODULE = "kit.serve.megatron.rank"
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Where ranks of one machine meet, unless someone knows better."""
_CPU_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(MIB)}
"""glibc gives tensors from that size on back at once (mallopt(3)). By itself it raises the size to
32 MiB and keeps holes: every pass has longer scores, which do not fit into those of the one before.
"""

_GPU_POOL = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""The same on a GPU: in torch's pool a shorter pass's segment would stay, too short for the next:
2 GiB of a prompt of 4096 tokens, 10 of 8192 (``kit memory simulate``)."""


def command(ranks: int, device: str, socket: Path, environ: Mapping[str, str]) -> Sequence[str]:
    """What to start.

    DeepSpeed's ``launch`` module is what its ``deepspeed`` program runs on a single machine. It
    sets every rank's environment, and ends with the code of a rank that failed.
    """
    start = [sys.executable, "-u", "-m"]
    if ranks == 1:
        return [*start, RANK_MODULE, str(socket)]
    world = json.dumps({"localhost": _devices(ranks, device, environ)})
    return [
        *start,
        "deepspeed.launcher.launch",
        f"--world_info={base64.urlsafe_b64encode(world.encode()).decode()}",
        "--master_port=0",
        "--no_local_rank",
        "--module",
        RANK_MODULE,
        str(socket),
    ]


def environment(ranks: int, device: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment that upstream and DeepSpeed need; DeepSpeed's launcher sets RANK and others.

    MASTER_ADDR and MASTER_PORT must be there, but nothing listens at them: ranks find each other
    by a file. What else they open is bound to the loopback interface, unless ``environ`` says
    otherwise.
    """
    package_root = str(Path(kit.__file__).parent.parent)
    paths = [package_root, *filter(None, [environ.get("PYTHONPATH")])]
    fixed = {
        "PYTHONPATH": os.pathsep.join(paths),
        "DS_ACCELERATOR": device,
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "LOCAL_SIZE": str(ranks),
    }
    if ranks == 1:
        fixed |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        fixed |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    heap = _CPU_HEAP if device == "cpu" else _GPU_POOL
    return {**_LOOPBACK, **heap, **environ, **fixed}


def _devices(ranks: int, device: str, environ: Mapping[str, str]) -> list[str]:
    """The GPUs by the names that CUDA has them visible under; the launcher sets that anew."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    if device == "cuda" and visible:
        return [name.strip() for name in visible.split(",")][:ranks]
    return [str(index) for index in range(ranks)]
