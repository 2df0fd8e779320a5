"""Back to upstream's checkpoint files; adapters as the ``peft`` library loads them."""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.convert import Conversion, convert_tensors
from kit.checkpoint.encoding import OutputDType
from kit.checkpoint.journal import JOURNAL_NAME
from kit.checkpoint.layout import Dimensions, Part, Tensor
from kit.checkpoint.layout import Mapping as TensorMapping
from kit.checkpoint.lora import Adapter
from kit.checkpoint.shard_export import export_shards, upstream_tensors
from kit.checkpoint.shards import index_directory
from kit.checkpoint.source import Progress
from kit.checkpoint.torchfile import ITEM_BYTES, DType, TensorEntry, index_checkpoint
from kit.errors import IntegrityError, KitError, UsageError
from kit.files import (
    exclusive,
    full_disk_explained,
    publish,
    remove,
    require_free,
    require_outside,
    require_space,
    work_directory,
    write_durably,
)
from kit.records import read_object
from kit.weights.convert.locate import open_adapter
from kit.weights.convert.record import read_record
from kit.weights.digest import sha256_file

ExportPrecision = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[ExportPrecision, DType] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_TOKENIZER = "tokenizer.model"
_RECORD = "export.json"
VERSION = 1
"""Of the form in which exports are written: another one is another export."""

_KEPT = "nothing of it is kept, the export starts over"


@dataclass(frozen=True)
class Exported:
    """What an export wrote: sizes of the shards by name, and infinite or NaN elements in them."""

    files: dict[str, int]
    nonfinite_count: int


def export_upstream(
    directory: Path,
    output: Path,
    *,
    ranks: int = 1,
    precision: ExportPrecision = "fp32",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write ``mp_rank_XX_model_states.pt`` for each rank, as upstream's partition tool cuts them.

    Beside them: ``config.json`` in upstream's argument names, the tokenizer's model, and
    ``export.json``, by which a second call sees that nothing is left to do.

    Args:
        directory: a converted directory in fp32 or bf16.
        output: directory to make.
        ranks: of the tensor parallelism.
        precision: of the shards' tensors; rounded to nearest even.
        overwrite: replace whatever ``output`` is.
        progress: called as ``progress(done_bytes, total_bytes)`` of the directory's tensors.

    Raises:
        UsageError: the ranks do not divide the model, ``output`` exists, or the directory is in
            less than 16 bit.
        EnvironmentNotReady: there is no converted directory, the disk is full, or another export
            into ``output`` is running.
        IntegrityError: the directory is damaged.
    """
    entries = index_directory(directory)
    dimensions, tensors = upstream_tensors(entries)
    arguments = _arguments(_read_config(directory), dimensions)
    _require_divisible(arguments["num_attention_heads"], ranks)
    with exclusive(output, "writing"):
        require_outside(tuple({entry.path for entry in entries.values()}), output)
        made_of = _made_of(directory, entries.values(), arguments, ranks, precision)
        if made := _already_exported(output, made_of):
            return made
        if not overwrite:
            require_free(output, "this export")
        work = work_directory(output)
        remove(work)
        work.mkdir()
        paths = [work / f"mp_rank_{rank:02d}_model_states.pt" for rank in range(ranks)]
        dtype = _DTYPES[precision]
        need_bytes = sum(math.prod(t.shape) for t in tensors) * ITEM_BYTES[dtype]
        require_space(output.parent, need_bytes, "the export", _KEPT)
        with full_disk_explained(output.parent, _KEPT):
            nonfinite_count = export_shards(tensors, paths, dtype, progress=progress)
            text = json.dumps(arguments, indent=2) + "\n"
            write_durably(work / "config.json", text.encode())
            if (directory / _TOKENIZER).is_file():
                shutil.copyfile(directory / _TOKENIZER, work / _TOKENIZER)
            files = {path.name: path.stat().st_size for path in work.iterdir()}
            record = {"made_of": made_of, "nonfinite": nonfinite_count, "files": files}
            record["fingerprints"] = [index_checkpoint(path).fingerprint for path in paths]
            write_durably(work / _RECORD, json.dumps(record, indent=2).encode() + b"\n")
            publish(work, output)
        return Exported({path.name: files[path.name] for path in paths}, nonfinite_count)


def _require_divisible(heads: int, ranks: int) -> None:
    if heads % ranks:
        raise UsageError(
            f"{ranks} ranks do not divide {heads} attention heads",
            hint="choose a number that divides the heads",
        )


def _made_of(
    directory: Path,
    entries: Iterable[TensorEntry],
    arguments: Mapping[str, Any],
    ranks: int,
    precision: ExportPrecision,
) -> str:
    """A digest of all that an export's bytes follow from.

    The tensors by the conversion's record where there is one, else by names, sizes and times of
    the files that hold them.
    """
    record = read_record(directory)
    tokenizer = directory / _TOKENIZER
    tensors: object = record.tensors if record else None
    if record is None:
        stats = {path.name: path.stat() for path in {entry.path for entry in entries}}
        tensors = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    digest = sha256_file(tokenizer) if tokenizer.is_file() else None
    parts = [VERSION, tensors, arguments, digest, ranks, precision]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _already_exported(output: Path, made_of: str) -> Exported | None:
    """What ``output`` holds if it is this export, whole; by sizes and the shards' checksums."""
    try:
        record = read_object(output / _RECORD)
        sizes = {name: (output / name).stat().st_size for name in map(str, record["files"])}
        shards = sorted(name for name in sizes if name.endswith(".pt"))
        if record["made_of"] != made_of or sizes != record["files"]:
            return None
        if [index_checkpoint(output / s).fingerprint for s in shards] != record["fingerprints"]:
            return None
        return Exported({name: sizes[name] for name in shards}, int(record["nonfinite"]))
    except (OSError, ValueError, KeyError, TypeError, KitError):
        return None


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = read_object(directory / "config.json")
        rope_theta = config["rope_parameters"]["rope_theta"]
        return {**config, "rope_theta": rope_theta}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{directory / 'config.json'} is missing or damaged",
            hint="give a directory that `kit weights convert` made",
        ) from error


def _arguments(config: Mapping[str, Any], dimensions: Dimensions) -> dict[str, Any]:
    """The configuration by the names of upstream's command-line arguments."""
    return {
        "num_layers": dimensions.layers,
        "hidden_size": dimensions.hidden_size,
        "ffn_hidden_size": dimensions.ffn_size,
        "vocab_size": dimensions.vocab_size,
        "num_attention_heads": config["num_attention_heads"],
        "seq_length": config["max_position_embeddings"],
        "max_position_embeddings": config["max_position_embeddings"],
        "localsize": config["sliding_window"],
        "layernorm_epsilon": config["layer_norm_eps"],
        "rope_base": int(config["rope_theta"]),
    }


CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


@dataclass(frozen=True)
class PeftAdapter:
    """What was written."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]


def export_peft(
    source: Path, output: Path, *, alpha: float | None = None, overwrite: bool = False
) -> PeftAdapter:
    """Write a PEFT adapter directory for the converted model.

    Args:
        source: an adapter in upstream's format; see ``open_adapter``.
        output: directory to make.
        alpha: the adapter's alpha, where no ``lora_config.json`` tells it.
        overwrite: replace whatever ``output`` is.

    Raises:
        UsageError: alpha is not known, or ``output`` exists.
        EnvironmentNotReady: there is no adapter, or no space.
        IntegrityError: the adapter is damaged or unsafe (``UnsafePickle``).
    """
    adapter, alpha = open_adapter(source, alpha)
    modules = sorted({name.split(".")[-2] for name in adapter.factors})
    with exclusive(output, "writing"):
        require_outside(tuple(file.path for file in adapter.files), output)
        if not overwrite:
            require_free(output, "free")
        work = work_directory(output)
        conversion = Conversion(adapter.files, peft_mappings(adapter), _dtype(adapter))
        convert_tensors(conversion, work, max_shard_bytes=2**62)
        (work / "model.safetensors").rename(work / WEIGHTS_NAME)
        text = json.dumps(_config(adapter.rank, alpha, modules), indent=2) + "\n"
        write_durably(work / CONFIG_NAME, text.encode())
        (work / JOURNAL_NAME).unlink()
        publish(work, output)
    return PeftAdapter(adapter.rank, alpha, tuple(modules))


def peft_mappings(adapter: Adapter) -> tuple[TensorMapping, ...]:
    """Upstream's factors and the tensors of PEFT's file that are made of them."""
    parts: dict[Tensor, list[Part]] = {}
    for name, factors in adapter.factors.items():
        module = "base_model.model." + name.removesuffix(".weight")
        a_rows = range(factors.a.shape[0])
        parts.setdefault(factors.a, []).append(Part(f"{module}.lora_A.weight", a_rows))
        parts.setdefault(factors.b, []).append(Part(f"{module}.lora_B.weight", factors.b_rows))
    return tuple(TensorMapping(tensor, tuple(of)) for tensor, of in parts.items())


def _dtype(adapter: Adapter) -> OutputDType:
    """What holds all factors exactly."""
    dtypes = {tensor.dtype for f in adapter.factors.values() for tensor in (f.a, f.b)}
    return "bfloat16" if dtypes == {"bfloat16"} else "float32"


def _config(rank: int, alpha: float, modules: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": modules,
    }
