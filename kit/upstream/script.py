"""One of upstream's own scripts, run out of the rewritten tree.

Started as ``python -m kit.upstream.script TREE SCRIPT ARGUMENTS…``, once for each rank.
"""

import base64
import json
import os
import runpy
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import kit
from kit.errors import UsageError
from kit.serve.megatron.imports import import_source_only

MODULE = "kit.upstream.script"
_SCRIPTS = (
    "*iFlytekSpark*.py",
    "tools/*iFlytekSpark*.py",
    "tools/weight_convert/ds_*.py",
    "examples_deepspeed/*/*.py",
)
"""Those for Spark; the tree has many more, for other models."""
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Where ranks of one machine meet, unless someone knows better."""
_COMPILED_AT_START = "deepspeed_shm_comm"
"""An op of DeepSpeed's for the CPU: it asks for a compiler, and gloo does without it."""


def find_script(tree: Path, name: str) -> Path:
    """The script's path below ``tree``, the rewritten ``deepspeed-megatron`` folder.

    Raises:
        UsageError: it is no Python file of the tree.
    """
    path = (tree / name).resolve()
    if path.is_relative_to(tree.resolve()) and path.suffix == ".py" and path.is_file():
        return path
    paths = [each for pattern in _SCRIPTS for each in tree.glob(pattern)]
    found = sorted(each.relative_to(tree).as_posix() for each in paths)
    raise UsageError(f"the upstream tree has no script {name}", hint=f"try {', '.join(found)}")


def command(
    tree: Path, script: Path, arguments: Sequence[str], devices: Sequence[str]
) -> list[str]:
    """What to start: the script in one process, or by DeepSpeed's launcher in one for each device.

    Args:
        devices: as CUDA_VISIBLE_DEVICES names them; on the CPU any names.
    """
    run = [str(tree), str(script), *arguments]
    start = [sys.executable, "-u", "-m"]
    if len(devices) == 1:
        return [*start, MODULE, *run]
    world = json.dumps({"localhost": list(devices)})
    return [
        *start,
        "deepspeed.launcher.launch",
        f"--world_info={base64.urlsafe_b64encode(world.encode()).decode()}",
        f"--master_port={_free_port()}",
        "--no_local_rank",
        "--module",
        MODULE,
        *run,
    ]


def environment(
    tree: Path, device: str, ranks: int, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables that upstream and DeepSpeed ask for.

    Where RANK is set already, as by torchrun or on several machines, whoever set it says where
    ranks meet.

    Args:
        device: "cpu" or "cuda".
    """
    paths = [str(Path(kit.__file__).parent.parent), str(tree), environ.get("PYTHONPATH", "")]
    fixed = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "DS_ACCELERATOR": device,
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # upstream's tensor parallelism demands it
    }
    if "RANK" in environ:
        return {**environ, **fixed}
    fixed |= {"LOCAL_SIZE": str(ranks)}
    if ranks == 1:
        fixed |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        fixed |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    return {**_LOOPBACK, **environ, **fixed}


def main() -> None:
    """Run the script as ``python SCRIPT`` would, but of the tree its source alone."""
    tree, script = Path(sys.argv[1]), Path(sys.argv[2])
    import_source_only(tree)
    sys.path[0] = str(script.parent)  # not the folder that it was started in
    sys.path.insert(1, str(tree))
    # Upstream's `tools` has no __init__.py: an installed package of that name would come before it.
    tools = ModuleType("tools")
    tools.__path__ = [str(tree / "tools")]
    sys.modules["tools"] = tools
    if os.environ["DS_ACCELERATOR"] == "cpu":
        import deepspeed

        deepspeed.ops.__compatible_ops__[_COMPILED_AT_START] = False
    sys.argv = [str(script), *sys.argv[3:]]
    runpy.run_path(str(script), run_name="__main__")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
