"""What each rewrite does to the real upstream code, where KIT_UPSTREAM_DIR names a clone of it.

Each test runs a probe twice: in a tree where everything is rewritten but the rewrite in question,
where it must fail as the rewrite says, and in the tree with it.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kit.settings import Settings
from kit.upstream.fetch import fetch
from kit.upstream.render import MEGATRON, render, write_rendered
from kit.upstream.selection import select
from kit.upstream.tree import pinned, read_pristine
from tests.unit.conftest import spark_state

PROBES = Path(__file__).parent / "probes.py"
_FLAGS = (
    "--apply-gated-linear-unit",
    "--gate-gelu",
    "--no-position-embedding",
    "--use-rotary-position-embeddings",
    "--no-bias-gelu-fusion",
    "--no-bias-dropout-fusion",
    "--no-masked-softmax-fusion",
    "--no-query-key-layer-scaling",
)
_ENVIRON = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Run:
    """What a probe did: its exit code, what it found, all that it wrote."""

    code: int
    found: Any
    output: str


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    named = os.environ.get("KIT_UPSTREAM_DIR")
    if not named:
        pytest.skip("KIT_UPSTREAM_DIR does not name a clone of the real upstream repo")
    folder = tmp_path_factory.mktemp("upstream")
    settings = Settings(data_dir=folder, state_dir=folder)
    fetch(settings, named, print)
    return settings


@pytest.fixture(scope="session")
def tree(upstream: Settings) -> Callable[..., Path]:
    """``tree(groups, without=names)``: a rewritten ``deepspeed-megatron`` folder."""

    def make(groups: Sequence[str] | None = None, without: Sequence[str] = ()) -> Path:
        name = "+".join([*(groups or ["default"]), *(f"not-{each}" for each in without)])
        folder = upstream.data_dir / "trees" / name
        if not folder.exists():
            chosen = select(groups, without=without)
            write_rendered(render(read_pristine(upstream), chosen, pinned(upstream)), folder)
        return folder / MEGATRON

    return make


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``probe(tree, name, *options, hidden=…)``: a function of probes.py, run inside the tree."""
    checkpoints: dict[int, Path] = {}

    def checkpoint(hidden: int) -> Path:
        if hidden not in checkpoints:
            checkpoints[hidden] = tmp_path_factory.mktemp("checkpoint")
            state = spark_state(layers=2, hidden=hidden, ffn=2 * hidden, vocab=200)
            torch.save(state, checkpoints[hidden] / "mp_rank_00_model_states.pt")
        return checkpoints[hidden]

    @cache
    def run(tree: Path, name: str, *options: str, hidden: int = 64, path: str | None = None) -> Run:
        named = {
            "num-layers": 2,
            "hidden-size": hidden,
            "ffn-hidden-size": 2 * hidden,
            "num-attention-heads": 4,
            "seq-length": 1024,
            "max-position-embeddings": 1024,
            "localsize": 256,
            "vocab-size": 199,  # the tokenizer adds one
            "make-vocab-size-divisible-by": 1,
            "micro-batch-size": 1,
            "tokenizer-type": "NullTokenizer",
            "distributed-backend": "gloo",
            "mlp-type": "standard",
            "top_p": 0.0,
            "from-pretrained": checkpoint(hidden),
        }
        arguments = [f"--{key}={value}" for key, value in named.items()]
        arguments += _FLAGS
        environ = {**os.environ, **_ENVIRON, "MASTER_PORT": str(_free_port())}
        done = subprocess.run(
            [sys.executable, str(PROBES), str(tree), name, *arguments, *options],
            env=environ | ({"PATH": path} if path is not None else {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        found = [line for line in done.stdout.splitlines() if line.startswith("found: ")]
        value = json.loads(found[-1].removeprefix("found: ")) if found else None
        return Run(done.returncode, value, done.stdout + done.stderr)

    return run


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
