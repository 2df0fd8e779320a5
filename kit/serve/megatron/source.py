"""A checkpoint in upstream's format as a model to serve, by the megatron engine."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kit.commands import command
from kit.errors import UsageError
from kit.serve.defaults import GenerationDefaults
from kit.serve.engine import Engine
from kit.serve.megatron.folder import UpstreamFolder, read_folder
from kit.serve.model import ModelSource
from kit.serve.tokenizer import Tokenizer, load_tokenizer
from kit.weights.convert.support_files import write_support_files

if TYPE_CHECKING:
    from kit.serve.native.loader import DTypeName


def megatron_source(
    directory: Path,
    tree: Path,
    *,
    name: str | None = None,
    device: str = "auto",
    dtype: "DTypeName" = "auto",
    context: int | None = None,
    max_sequences: int | None = None,
    tensor_parallel: int | None = None,
    max_vram_bytes: int | None = None,
) -> ModelSource:
    """The model of a checkpoint. Its shapes are read at once, nothing heavy is imported.

    Args:
        directory: see :func:`kit.serve.megatron.folder.read_folder`.
        tree: the rewritten upstream tree.
        name: what clients call the model; None: the directory's name.
        device, dtype, context, max_vram_bytes: see :class:`MegatronEngine`.
        max_sequences: 1 is what there is.
        tensor_parallel: ranks; None: as many as the checkpoint has shards.

    Raises:
        UsageError: there are more or fewer shards than ranks, or more sequences are wanted.
        KitError: the checkpoint cannot be read.
    """
    if max_sequences not in (None, 1):
        raise UsageError(
            "the megatron engine generates one answer at a time, the others wait",
            hint="leave --max-sequences out, or serve a converted directory with --engine native",
        )
    folder = read_folder(directory)
    require_shards(folder, tensor_parallel)

    def build_engine() -> Engine:
        from kit.serve.megatron.engine import MegatronEngine

        return MegatronEngine(
            folder, tree, device=device, dtype=dtype, context=context, max_vram_bytes=max_vram_bytes
        )

    return ModelSource(
        name=name or (directory if directory.is_dir() else directory.parent).resolve().name,
        engine_name="megatron",
        build_engine=build_engine,
        load_tokenizer=lambda: _tokenizer(folder),
        read_defaults=GenerationDefaults,
    )


def require_shards(folder: UpstreamFolder, ranks: int | None) -> None:
    """Return when the checkpoint has a shard for each of ``ranks``; None: however many it has.

    Raises:
        UsageError: it has more, or fewer.
    """
    shards = len(folder.shards)
    if ranks not in (None, shards):
        where = folder.shards[0].parent
        raise UsageError(
            f"{where} holds {shards} shard{'s' * (shards != 1)}, not one for each of {ranks} ranks",
            hint="cut it anew: "
            + command("kit weights convert", where, "CONVERTED", "--precision", "fp32")
            + f" && kit weights export CONVERTED OUTPUT --tp {ranks}",
        )


def _tokenizer(folder: UpstreamFolder) -> Tokenizer:
    """The kit's tokenizer, as a converted directory would hold it."""
    with tempfile.TemporaryDirectory() as converted:
        write_support_files(Path(converted), folder.config, folder.tokenizer_model)
        return load_tokenizer(Path(converted))
