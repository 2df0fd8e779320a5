"""The tensors of an upstream checkpoint file: names, types, shapes and where their bytes lie.

Layout of ``mp_rank_00_model_states.pt``: nested dictionaries
``{"module": {"language_model": {"embedding": …, "encoder": …}}}`` with tensors at the leaves; the
levels ``module`` (``model`` without DeepSpeed) and ``language_model`` are optional, and names may
be flat, with dots. Whatever else was saved beside them (optimizer, schedule, random states,
arguments, the rotary frequencies, which are no weights) is not looked at.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kit.checkpoint.archive import Archive, Span
from kit.checkpoint.source import SourceFile
from kit.checkpoint.torch_objects import TensorRef
from kit.checkpoint.unpickle import MAX_PICKLE_BYTES, read_pickle
from kit.errors import IntegrityError, printable

DType = Literal["float32", "float16", "bfloat16"]
ITEM_BYTES: dict[DType, int] = {"float32": 4, "float16": 2, "bfloat16": 2}

_STORAGES: dict[str, DType] = {
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
}
_IN_MODEL = re.compile(r"(module\.|model\.)?(language_model\.|(?=(embedding|encoder)\.))")
_EMBEDDING = "embedding.word_embeddings.weight"
_HEAD = re.compile(
    r"(module\.|model\.)?(language_model\.)?"
    r"(lm_head|output_layer|embed_out|word_embeddings_for_head)\.weight"
)
"""What GPT-like models call a head that is not tied to the embedding table."""

_COMPUTED = "rotary_pos_emb.inv_freq"
_MAX_NAME = 512
_SAVE_HINT = "save the checkpoint again with contiguous float32, bfloat16 or float16 tensors"
_AGAIN = "the file is damaged: get it again"


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's bytes in a file: little-endian, row-major, contiguous.

    Attributes:
        name: upstream's dotted name below ``language_model``.
        offset: absolute, from the start of ``path``.
        nbytes: product of ``shape`` times the item size of ``dtype``.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class CheckpointFile(SourceFile):
    """One indexed checkpoint file. Its fingerprint covers the CRC-32 of every member."""

    tensors: tuple[TensorEntry, ...]


def index_checkpoint(path: Path) -> CheckpointFile:
    """Index a checkpoint file. Reads its directory and pickle only; runs and builds nothing.

    Raises:
        EnvironmentNotReady: the file cannot be opened.
        UnsafePickle: its pickle would call code.
        IntegrityError: it is not an intact torch zip file, holds no ``language_model``, or a tensor
            is not contiguous, of another type than fp32, fp16 and bf16, or larger than its bytes.
    """
    return _index(path, _upstreams)


def index_state_dict(path: Path) -> CheckpointFile:
    """Index a file whose tensors are a flat state dict, under their full names.

    Raises:
        EnvironmentNotReady, UnsafePickle, IntegrityError: see :func:`index_checkpoint`.
    """
    return _index(path, lambda archive, root: dict(_leaves(root)))


def _index(path: Path, choose: Callable[[Archive, object], dict[str, TensorRef]]) -> CheckpointFile:
    with Archive(path) as archive:
        if "byteorder" in archive and archive.read("byteorder", 64) != b"little":
            raise IntegrityError(f"{path} holds big-endian tensors", hint=_SAVE_HINT)
        root = read_pickle(archive.read("data.pkl", MAX_PICKLE_BYTES), source=str(path))
        named = choose(archive, root)
        status = archive.stat()
        return CheckpointFile(
            path=path,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            fingerprint=archive.fingerprint(),
            checksums=archive.checksums(),
            tensors=tuple(_entry(archive, name, tensor) for name, tensor in named.items()),
        )


def _upstreams(archive: Archive, root: object) -> dict[str, TensorRef]:
    named, heads = _language_model(root, archive.path)
    _require_tied(archive, named, heads)
    return named


def _language_model(root: object, path: Path) -> tuple[dict[str, TensorRef], dict[str, TensorRef]]:
    """The model's tensors, by their names below ``language_model``, and output heads among all."""
    named: dict[str, TensorRef] = {}
    heads: dict[str, TensorRef] = {}
    for full_name, tensor in _leaves(root):
        if _HEAD.fullmatch(full_name):
            heads[full_name] = tensor
        elif match := _IN_MODEL.match(full_name):
            name = full_name[match.end() :]
            if name == _COMPUTED:
                continue
            if name in named:
                raise IntegrityError(
                    f"{path} holds two tensors named {printable(name)}", hint=_AGAIN
                )
            named[name] = tensor
    if named:
        return named, heads
    raise IntegrityError(
        f"{path} holds no tensors under module.language_model",
        hint="give an iFlytekSpark checkpoint as upstream's deepspeed-megatron writes it",
    )


def _require_tied(
    archive: Archive, named: dict[str, TensorRef], heads: dict[str, TensorRef]
) -> None:
    """Raise IntegrityError for an output head that is not the embedding table."""
    for name, head in heads.items():
        table = named.get(_EMBEDDING)
        if table is None:
            continue  # then there is no model either, and that is said
        if (head.storage, head.offset, head.shape) == (table.storage, table.offset, table.shape):
            continue
        first, second = (_entry(archive, name, head), _entry(archive, _EMBEDDING, table))
        if (first.dtype, first.shape) != (second.dtype, second.shape) or not archive.holds_alike(
            Span(first.offset, first.nbytes), Span(second.offset, second.nbytes)
        ):
            raise IntegrityError(
                f"{archive.path} has an output head of its own, {printable(name)}, which differs "
                "from the embedding table; the model has one table for both",
                hint="train with tied embeddings (without --untie-embeddings-and-output-weights): "
                "such a head cannot be converted without changing every answer",
            )


def _leaves(root: object) -> Iterator[tuple[str, TensorRef]]:
    """Every tensor below ``root`` with its dotted name, in the pickle's order.

    A dictionary is entered once and a name of absurd length not at all, so that one which contains
    itself, or is shared a million times, costs nothing.
    """
    pending: list[tuple[str, object]] = [("", root)]
    entered: set[int] = set()
    while pending:
        name, value = pending.pop()
        if isinstance(value, TensorRef):
            yield name, value
        elif isinstance(value, dict) and id(value) not in entered:
            entered.add(id(value))
            prefix = name + "." if name else ""
            short = [key for key in reversed(value) if len(prefix) + len(key) <= _MAX_NAME]
            pending.extend((prefix + key, value[key]) for key in short)


def _entry(archive: Archive, name: str, tensor: TensorRef) -> TensorEntry:
    where = f"{archive.path}: {printable(name)}"
    dtype = _STORAGES.get(tensor.storage.kind)
    if dtype is None:
        raise IntegrityError(f"{where} is of type {tensor.storage.kind[:100]!r}", hint=_SAVE_HINT)
    if not _is_contiguous(tensor):
        raise IntegrityError(
            f"{where} is not contiguous (shape {tensor.shape}, stride {tensor.stride})",
            hint=_SAVE_HINT,
        )
    item_bytes = ITEM_BYTES[dtype]
    nbytes = math.prod(tensor.shape) * item_bytes
    span = archive.span(f"data/{tensor.storage.key}")
    start = tensor.offset * item_bytes
    if start + nbytes > span.nbytes:
        raise IntegrityError(
            f"{where} needs bytes {start} to {start + nbytes} of a storage of {span.nbytes} bytes",
            hint=_AGAIN,
        )
    return TensorEntry(name, dtype, tensor.shape, archive.path, span.offset + start, nbytes)


def _is_contiguous(tensor: TensorRef) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
