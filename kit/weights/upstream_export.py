"""Back to upstream: a converted directory as checkpoint files that upstream's code loads."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.disk import full_disk_explained, require_space
from kit.checkpoint.journal import write_durably
from kit.checkpoint.layout import Dimensions
from kit.checkpoint.safetensors_index import index_directory
from kit.checkpoint.shard_export import export_shards, upstream_tensors
from kit.checkpoint.sweep import Progress
from kit.checkpoint.torchfile import ITEM_BYTES, DType
from kit.errors import IntegrityError, UsageError
from kit.records import read_object
from kit.weights.exclusive import exclusive
from kit.weights.output import publish, remove, require_free, require_outside, work_directory

ExportPrecision = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[ExportPrecision, DType] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_TOKENIZER = "tokenizer.model"
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

    Beside them: ``config.json`` in upstream's argument names, and the tokenizer's model.

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
    if arguments["num_attention_heads"] % ranks:
        raise UsageError(
            f"{ranks} ranks do not divide {arguments['num_attention_heads']} attention heads",
            hint="choose a number that divides the heads",
        )
    with exclusive(output, "writing"):
        require_outside(tuple({entry.path for entry in entries.values()}), output)
        if not overwrite:
            require_free(output, "free")
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
        publish(work, output)
        return Exported({p.name: (output / p.name).stat().st_size for p in paths}, nonfinite_count)


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
