"""The real upstream repo, where KIT_UPSTREAM_DIR names a clone of it at the pinned commit."""

import os
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit.settings import Settings
from kit.upstream.render import MEGATRON, render, write_rendered
from kit.upstream.selection import select
from kit.upstream.source import fetch
from kit.upstream.tree import pinned, read_pristine, rewritten_dir

FLAGS = (
    "--apply-gated-linear-unit",
    "--gate-gelu",
    "--no-position-embedding",
    "--use-rotary-position-embeddings",
    "--no-bias-gelu-fusion",
    "--no-bias-dropout-fusion",
    "--no-masked-softmax-fusion",
    "--no-query-key-layer-scaling",
    "--mlp-type=standard",
    "--make-vocab-size-divisible-by=1",
    "--distributed-backend=gloo",
)
"""Of upstream's own launch script for generation, but for gloo."""
_ENVIRON = {
    "MASTER_ADDR": "127.0.0.1",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
}
_SECONDS = 600


def fetched(folder: Path) -> Settings:
    """The pristine tree, below ``folder``. The test skips where KIT_UPSTREAM_DIR is not set."""
    named = os.environ.get("KIT_UPSTREAM_DIR")
    if not named:
        pytest.skip("KIT_UPSTREAM_DIR does not name a clone of the real upstream repo")
    settings = Settings(data_dir=folder, state_dir=folder)
    fetch(settings, named, print)
    return settings


def rendered_tree(
    settings: Settings,
    output: Path,
    groups: Iterable[str] | None = None,
    without: Collection[str] = (),
) -> Path:
    """The ``deepspeed-megatron`` folder at ``output``, rewritten as chosen."""
    chosen = select(groups, without=without)
    write_rendered(render(read_pristine(settings), chosen, pinned(settings)), output)
    return output / MEGATRON


def rewritten_tree(folder: Path, groups: Iterable[str] | None = None) -> Path:
    """The ``deepspeed-megatron`` folder, fetched and rewritten below ``folder``.

    The test skips where KIT_UPSTREAM_DIR is not set.
    """
    settings = fetched(folder)
    return rendered_tree(settings, rewritten_dir(settings), groups)


@dataclass(frozen=True)
class Done:
    """How a program ended: its exit code, what it wrote."""

    code: int
    stdout: str
    stderr: str


def run_upstream(
    program: Path,
    arguments: Sequence[object],
    ranks: int = 1,
    environ: Mapping[str, str] | None = None,
) -> Done:
    """Run a program that starts upstream, in a process for each rank; rank 0's end."""
    common = {**os.environ, **_ENVIRON, "MASTER_PORT": str(_free_port()), **(environ or {})}
    started = [
        subprocess.Popen(
            [sys.executable, str(program), *map(str, arguments)],
            env=common
            | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            | {"WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        stdout, stderr = started[0].communicate(timeout=_SECONDS)
        return Done(started[0].returncode, stdout, stderr)
    finally:
        for process in started:
            process.kill()
            process.wait()


def run_script(
    tree: Path, script: str, arguments: Sequence[object], ranks: int = 1, path: str | None = None
) -> Done:
    """`kit upstream run` of the ``deepspeed-megatron`` folder in a tree named ``rewritten``.

    ``path`` is where programs are looked for.
    """
    named = {"KIT_UPSTREAM_TREE": str(tree.parent.parent), "OMP_NUM_THREADS": "1"}
    environ = {**os.environ, **named, **({} if path is None else {"PATH": path})}
    command = [sys.executable, "-m", "kit", "upstream", "run", "--device=cpu", f"--ranks={ranks}"]
    done = subprocess.run(
        [*command, script, *map(str, arguments)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
