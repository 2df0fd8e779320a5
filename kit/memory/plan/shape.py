"""The shape of a converted model directory: its config.json, and its safetensors headers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.encoding import OutputDType, Stored, choose_encoding, choose_group_size
from kit.checkpoint.layout import Dimensions, expected_tensors
from kit.checkpoint.shards import DEFAULT_MAX_SHARD_BYTES
from kit.errors import EnvironmentNotReady, IntegrityError, UsageError, printable
from kit.memory.plan.allocator import Allocator
from kit.records import MAX_BYTES, parse_object, read_object

Precision = Literal["fp32", "bf16", "int8", "int4"]

DTYPES: dict[Precision, OutputDType] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "int8": "int8",
    "int4": "int4",
}


_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_HEAD_DIM = 128


@dataclass(frozen=True)
class ModelShape:
    """What the memory of a model follows from.

    Attributes:
        max_context: positions the model was made for.
        window: keys a query sees at most (upstream's local window); None: all.
        dtype_bytes: bytes of one number in the weights, the KV cache and the activations.
        weights_bytes: of all tensors together.
        packed_bytes: of those among them that are 4-bit integers.
        packed_scales_bytes: of those among them that are scales of 4-bit integers.
        integer_bytes: of those among them that are integers, of whatever size.
        rounding_bytes: what torch's pool on a GPU adds, see ``kit.memory.plan.allocator``.
        largest_file_bytes: of the largest file's tensors; 0: there is one file.
        heads: of attention; 0: not known.
    """

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    max_context: int
    window: int | None
    dtype_bytes: int
    weights_bytes: int
    packed_bytes: int = 0
    packed_scales_bytes: int = 0
    integer_bytes: int = 0
    rounding_bytes: int = 0
    largest_file_bytes: int = 0
    heads: int = 0

    @property
    def precision(self) -> str:
        """As ``kit weights convert`` names it: ``bf16`` stands for all of 16 bits."""
        if self.packed_bytes:
            return "int4"
        if self.integer_bytes:
            return "int8"
        return "fp32" if self.dtype_bytes == 4 else "bf16"

    @property
    def attention_heads(self) -> int:
        """``heads``, or as many as there would be of the 13B's size."""
        return self.heads or max(1, self.hidden // _HEAD_DIM)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file; ``dtype`` as the format names it."""

    name: str
    dtype: str
    size_bytes: int


def read_shape(model_dir: Path) -> ModelShape:
    """Shape of the model in ``model_dir``; reads headers only, never the tensors.

    Raises:
        EnvironmentNotReady: config.json or the safetensors files are missing.
        UsageError: the model is of a family that is not served.
        IntegrityError: one of them is damaged or cut short.
    """
    config = _config(model_dir)
    require_served(config, model_dir)
    paths = sorted(model_dir.glob("*.safetensors"))
    if not paths:
        raise EnvironmentNotReady(
            f"no safetensors files in {model_dir}", hint="convert a checkpoint: kit weights convert"
        )
    files = [read_header(path) for path in paths]
    try:
        return ModelShape(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            max_context=int(config["max_position_embeddings"]),
            window=config.get("sliding_window"),
            heads=int(config.get("num_attention_heads", 0)),
            **sizes(files),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(model_dir / "config.json", f"no usable {error}") from error


def sizes(files: Sequence[Sequence[StoredTensor]]) -> dict[str, int]:
    """What a ``ModelShape`` says of the tensors, from those of each file.

    Raises:
        ValueError: there are none of a float type.
    """
    tensors = [tensor for file in files for tensor in file]
    by_dtype: Counter[str] = Counter()
    for tensor in tensors:
        by_dtype[tensor.dtype] += tensor.size_bytes
    floats = {dtype: size for dtype, size in by_dtype.items() if dtype in _DTYPE_BYTES}
    packed, scales = _packed_bytes(tensors)
    return {
        "dtype_bytes": _DTYPE_BYTES[max(floats, key=floats.__getitem__)],
        "weights_bytes": by_dtype.total(),
        "packed_bytes": packed,
        "packed_scales_bytes": scales,
        "integer_bytes": by_dtype.total() - sum(floats.values()),
        "rounding_bytes": _reserved_bytes(tensors) - by_dtype.total(),
        "largest_file_bytes": max(sum(tensor.size_bytes for tensor in file) for file in files),
    }


def _reserved_bytes(tensors: Sequence[StoredTensor]) -> int:
    """What torch's pool of a GPU holds once all tensors are there."""
    pool = Allocator()
    for tensor in tensors:
        if tensor.size_bytes:
            pool.allocate(tensor.size_bytes)
    return pool.reserved_bytes


def read_header(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors of a safetensors file.

    The format: 8 bytes little-endian header length, a JSON header with ``dtype`` and
    ``data_offsets`` per tensor, the data (https://github.com/huggingface/safetensors#format).

    Raises:
        IntegrityError: the header is broken, or the file is not as long as it says.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        actual = path.stat().st_size
        if not 0 < length <= actual - 8:
            raise _damaged(path, "its header is cut short")
        try:
            header = parse_object(file.read(min(length, MAX_BYTES + 1)))
            header.pop("__metadata__", None)
            offsets = {name: tensor["data_offsets"] for name, tensor in header.items()}
            tensors = tuple(
                StoredTensor(name, header[name]["dtype"], end - begin)
                for name, (begin, end) in offsets.items()
            )
            data_bytes = max((end for _, end in offsets.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, "its header cannot be read") from error
    if actual != 8 + length + data_bytes:
        raise _damaged(path, f"{actual} bytes long, its header says {8 + length + data_bytes}")
    return tensors


def _packed_bytes(tensors: Sequence[StoredTensor]) -> tuple[int, int]:
    """4-bit integers and their scales, by the names of ``kit.checkpoint.encoding``."""
    sizes = {tensor.name: tensor.size_bytes for tensor in tensors}
    packed = [name for name in sizes if name.endswith("_packed")]
    scales = [name.removesuffix("_packed") + "_scale" for name in packed]
    return sum(sizes[name] for name in packed), sum(sizes[name] for name in scales)


def _config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "config.json"
    try:
        return read_object(path)
    except OSError as error:
        raise EnvironmentNotReady(
            f"{path} cannot be read ({error.strerror})",
            hint="name a converted model directory; kit weights convert makes one",
        ) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error


SERVED_TYPE = "iflytekspark"
"""The ``model_type`` of the directories that the kit's engines serve, so far."""


def require_served(config: Mapping[str, Any], model_dir: Path) -> None:
    """Return when the directory's model is of a family that is served.

    Raises:
        UsageError: it is of another.
    """
    if (found := config.get("model_type", SERVED_TYPE)) != SERVED_TYPE:
        raise UsageError(
            f"{model_dir} holds a model of type {printable(str(found))}; the kit serves "
            f"{SERVED_TYPE} only",
            hint="transformers opens it: AutoModelForCausalLM.from_pretrained(DIRECTORY, "
            "trust_remote_code=True)",
        )


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged: {why}",
        hint=f"remove {path.parent} and convert again: kit weights convert",
    )


@dataclass(frozen=True)
class Architecture:
    """What a model is, apart from its numbers' precision; see ``ModelShape``."""

    dimensions: Dimensions
    max_context: int
    window: int | None
    heads: int

    @property
    def parameters(self) -> int:
        """Numbers of the weights, the tied head counted once."""
        return self.at("fp32").weights_bytes // 4

    def at(self, precision: Precision) -> ModelShape:
        """The shape of the directory that ``kit weights convert`` makes.

        Raises:
            UsageError: the widths cannot be cut into groups for int4.
        """
        dimensions = self.dimensions
        tensors = [
            StoredTensor(stored.name, stored.dtype, stored.nbytes)
            for stored in _stored(dimensions, DTYPES[precision])
        ]
        found = sizes([tensors])
        largest = min(found["weights_bytes"], DEFAULT_MAX_SHARD_BYTES)
        return ModelShape(
            layers=dimensions.layers,
            hidden=dimensions.hidden_size,
            intermediate=dimensions.ffn_size,
            vocabulary=dimensions.vocab_size,
            max_context=self.max_context,
            window=self.window,
            heads=self.heads,
            **found | {"largest_file_bytes": largest},
        )


def _stored(dimensions: Dimensions, dtype: OutputDType) -> Iterator[Stored]:
    widths = (dimensions.hidden_size, dimensions.ffn_size)
    group_size = choose_group_size(widths) if dtype == "int4" else None
    for _, shape, parts in expected_tensors(dimensions):
        for part in parts:
            part_shape = (len(part.rows), *shape[1:])
            encoding = choose_encoding(part.name, part_shape, dtype, group_size)
            yield from encoding.stored(part.name, part_shape)
