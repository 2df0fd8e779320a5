"""A stand-in for the rewritten upstream tree that really runs: own code, a tiny model.

``tree`` stands for upstream's ``deepspeed-megatron`` folder. What it computes is written down here
a second time, from the whole sequence and without ranks.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kit.lock import read_lock, write_lock
from kit.settings import bundled
from kit.upstream.render import MEGATRON, render, write_rendered

TREE = Path(__file__).parent / "tree"
FAILS, DIES = 1998, 1999
"""Tokens that make a forward pass fail, and that kill the last rank."""


def scores(table: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """Scores ``[vocab]`` after ``tokens``, given the embedding table ``[vocab, hidden]``."""
    weights = 0.5 ** torch.arange(len(tokens) - 1, -1, -1)
    return table.float() @ (table[list(tokens)].float() * weights[:, None]).sum(dim=0)


def greedy(
    table: torch.Tensor, prompt: Sequence[int], count: int, presence: float = 0.0
) -> list[int]:
    """The ``count`` tokens of the highest scores, after the penalty for those generated before."""
    chosen: list[int] = []
    for _ in range(count):
        row = scores(table, [*prompt, *chosen])
        for token in Counter(chosen):
            row[token] -= presence
        chosen.append(int(row.argmax()))
    return chosen


def install(folder: Path) -> dict[str, str]:
    """Make it the rewritten tree of an installation; the environment that says so.

    Nothing is rewritten in it, and the lock that it comes with pins what it is.
    """
    content = {
        f"{MEGATRON}/{path.relative_to(TREE)}": path.read_bytes()
        for path in sorted(TREE.rglob("*.py"))
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    lock = replace(read_lock(bundled("kit.lock")), commit="0" * 40, upstream_files=hashes)
    write_lock(folder / "kit.lock", lock)
    write_rendered(render(content, (), lock), folder / "upstream" / "rewritten")
    return {
        "KIT_UPSTREAM_TREE": str(folder / "upstream"),
        "KIT_UPSTREAM_LOCK": str(folder / "kit.lock"),
    }
