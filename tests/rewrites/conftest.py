"""What each rewrite does to the real upstream code, where KIT_UPSTREAM_DIR names a clone of it.

Each test runs a probe twice: in a tree where everything is rewritten but the rewrite in question,
where it must fail as the rewrite says, and in the tree with it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kit.settings import Settings
from kit.upstream.render import MEGATRON
from tests.unit.conftest import spark_state
from tests.upstream_real import FLAGS, fetched, rendered_tree, run_upstream

PROBES = Path(__file__).parent / "probes.py"


@dataclass(frozen=True)
class Run:
    """What a probe did: its exit code, what it found, all that it wrote."""

    code: int
    found: Any
    output: str


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return fetched(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="session")
def tree(upstream: Settings) -> Callable[..., Path]:
    """``tree(groups, without=names)``: a rewritten ``deepspeed-megatron`` folder."""

    def make(groups: Sequence[str] | None = None, without: Sequence[str] = ()) -> Path:
        name = "+".join([*(groups or ["default"]), *(f"not-{each}" for each in without)])
        folder = upstream.data_dir / "trees" / name / "rewritten"
        if not folder.exists():
            rendered_tree(upstream, folder, groups, without)
        return folder / MEGATRON

    return make


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``probe(tree, name, *options, hidden=…)``: a function of probes.py, run inside the tree."""

    @cache
    def checkpoint(hidden: int) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        state = spark_state(layers=2, hidden=hidden, ffn=2 * hidden, vocab=200)
        torch.save(state, folder / "mp_rank_00_model_states.pt")
        return folder

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
            "micro-batch-size": 1,
            "tokenizer-type": "NullTokenizer",
            "top_p": 0.0,
            "from-pretrained": checkpoint(hidden),
        }
        arguments = [tree, name, *(f"--{key}={value}" for key, value in named.items()), *FLAGS]
        environ = {"PATH": path} if path is not None else {}
        done = run_upstream(PROBES, [*arguments, *options], environ=environ)
        found = [line for line in done.stdout.splitlines() if line.startswith("found: ")]
        value = json.loads(found[-1].removeprefix("found: ")) if found else None
        return Run(done.code, value, done.stdout + done.stderr)

    return run
