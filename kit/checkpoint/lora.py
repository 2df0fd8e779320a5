"""Low-rank adapters in upstream's format: ``W + (B · A) · alpha / r`` for some of the matrices.

An adapter's files are named and nested as a checkpoint's, and hold only pairs of factors, without
biases: A ``[r, in]`` and B ``[out, r]``. Query, key and value have a pair each; a pair of
``dense_h_to_4h`` serves both of its interleaved projections. Source: upstream's ``LoRALayer``
classes and files that they wrote.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.checkpoint.tensor_parallel import merge_ranks
from kit.checkpoint.tensors import Tensor
from kit.checkpoint.torchfile import CheckpointFile, index_checkpoint
from kit.errors import IntegrityError

_NAME = re.compile(
    r"encoder\.layers\.(?P<layer>0|[1-9]\d{0,5})\.(?P<module>[\w.]+)\.lora_(?P<factor>[AB])"
    r"(?P<third>_[QKV])?\.weight"
)
_TARGETS: dict[str, tuple[str, ...]] = {
    "self_attention.query_key_value_Q": ("self_attn.q_proj",),
    "self_attention.query_key_value_K": ("self_attn.k_proj",),
    "self_attention.query_key_value_V": ("self_attn.v_proj",),
    "self_attention.dense": ("self_attn.o_proj",),
    "mlp.dense_h_to_4h": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.dense_4h_to_h": ("mlp.down_proj",),
}
_HINT = "give an adapter as upstream's LoRA training writes it"


@dataclass(frozen=True)
class Factors:
    """The pair of one of the model's matrices ``[out, in]``.

    Attributes:
        a: ``[r, in]``.
        b: ``[n · out, r]``: the matrix's rows are ``b_rows`` of it.
    """

    a: Tensor
    b: Tensor
    b_rows: range

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return len(self.b_rows), self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """An indexed adapter. ``factors`` are by the names of the model's weights."""

    files: tuple[CheckpointFile, ...]
    factors: Mapping[str, Factors]
    rank: int


def read_adapter(paths: Sequence[Path]) -> Adapter:
    """Index an adapter's files, one for each tensor-parallel rank.

    Raises:
        EnvironmentNotReady: a file cannot be read.
        IntegrityError: a file is damaged or unsafe (``UnsafePickle``), the shards are not of one
            adapter, or the tensors are no pairs of factors of one rank.
    """
    files = tuple(index_checkpoint(path) for path in paths)
    pairs = _pairs(merge_ranks(files), paths[0])
    ranks = {factors.a.shape[0] for factors in pairs.values()}
    if len(ranks) != 1:
        raise IntegrityError(f"{paths[0]}: the factors are of ranks {sorted(ranks)}", hint=_HINT)
    return Adapter(files, pairs, ranks.pop())


def require_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise IntegrityError unless every pair belongs to a weight, of ``shapes``, that it fits."""
    for name, factors in adapter.factors.items():
        if shapes.get(name) != factors.shape:
            found = f"of shape {list(shapes[name])}" if name in shapes else "not there"
            raise IntegrityError(
                f"the adapter is for another model: its {name} is {list(factors.shape)}, "
                f"the model's is {found}",
                hint="give the checkpoint that the adapter was trained on",
            )


def _pairs(tensors: Sequence[Tensor], path: Path) -> dict[str, Factors]:
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        module = match["module"] + (match["third"] or "") if match else ""
        if not match or module not in _TARGETS:
            raise IntegrityError(
                f"{path}: {tensor.name} is no factor of a low-rank adapter", hint=_HINT
            )
        found.setdefault((match["layer"], module), {})[match["factor"]] = tensor
    pairs: dict[str, Factors] = {}
    for (layer, module), factors in found.items():
        pairs |= _factors(f"model.layers.{layer}.", module, factors, path)
    return pairs


def _factors(prefix: str, module: str, found: dict[str, Tensor], path: Path) -> dict[str, Factors]:
    targets = _TARGETS[module]
    a, b = found.get("A"), found.get("B")
    if a is None or b is None:
        (lonely,) = found.values()
        raise IntegrityError(f"{path}: {lonely.name} has no counterpart", hint=_HINT)
    if (
        (len(a.shape), len(b.shape)) != (2, 2)
        or 0 in (*a.shape, *b.shape)
        or (a.shape[0] != b.shape[1])
        or b.shape[0] % len(targets)
    ):
        raise IntegrityError(
            f"{path}: {a.name} {list(a.shape)} and {b.name} {list(b.shape)} are no pair of factors",
            hint=_HINT,
        )
    return {
        f"{prefix}{target}.weight": Factors(a, b, range(start, b.shape[0], len(targets)))
        for start, target in enumerate(targets)
    }
