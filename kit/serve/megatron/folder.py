"""A checkpoint in upstream's own format, as a folder: its shards, its shape, its tokenizer."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kit.checkpoint.model import read_model
from kit.errors import UsageError
from kit.memory.shape import ModelShape
from kit.weights.export import special_ids
from kit.weights.facts import ROPE_BASE, find_arguments, model_config
from kit.weights.locate import CHECKPOINT_NAME, find_checkpoint, find_tokenizer


@dataclass(frozen=True)
class UpstreamFolder:
    """What upstream must be told of a checkpoint.

    Attributes:
        shards: one per tensor-parallel rank.
        tokenizer_model: the SentencePiece model.
        config: the model's configuration in Hugging Face's words, see ``model_config``.
        parameters: how many numbers the weights are, over all shards.
    """

    shards: tuple[Path, ...]
    tokenizer_model: Path
    config: dict[str, Any]
    parameters: int

    @cached_property
    def end_token_id(self) -> int:
        """Of ``<end>``."""
        return special_ids(self.tokenizer_model, self.config["vocab_size"])["<end>"]

    def shape(self, dtype_bytes: int) -> ModelShape:
        """What its memory follows from, with weights of ``dtype_bytes`` per number."""
        return ModelShape(
            layers=self.config["num_hidden_layers"],
            hidden=self.config["hidden_size"],
            intermediate=self.config["intermediate_size"],
            vocabulary=self.config["vocab_size"],
            max_context=self.config["max_position_embeddings"],
            window=self.config["sliding_window"],
            dtype_bytes=dtype_bytes,
            weights_bytes=self.parameters * dtype_bytes,
        )


def read_folder(directory: Path, tokenizer: Path | None = None) -> UpstreamFolder:
    """Find the files and read the shapes; no tensor is read.

    Args:
        directory: holds the shards (or is one of them), as downloads and ``kit weights export``
            leave it. Facts that the tensors cannot tell come from a ``config.json`` near them
            (see ``find_arguments``), else they are the 13B's.
        tokenizer: see ``find_tokenizer``; None looks near the checkpoint.

    Raises:
        EnvironmentNotReady: checkpoint, a shard, or tokenizer are missing.
        IntegrityError: the checkpoint is damaged, unsafe, or no Spark model.
        UsageError: the directory is in another format, or its model is none that upstream runs.
    """
    _require_upstream_format(directory)
    shards = find_checkpoint(directory)
    if shards[0].name != CHECKPOINT_NAME:
        raise _other_format(shards[0])
    tokenizer_model = find_tokenizer(tokenizer, shards[0])
    model = read_model(shards)
    arguments = find_arguments(None, shards[0])
    config = model_config(model.dimensions, "bfloat16", arguments)
    if config["rope_theta"] != ROPE_BASE:
        raise UsageError(
            f"the model's rotary base is {config['rope_theta']:.0f}, upstream's is {ROPE_BASE:.0f}",
            hint="convert the checkpoint, and serve it with --engine native",
        )
    parameters = sum(math.prod(mapping.source.shape) for mapping in model.mappings)
    return UpstreamFolder(shards, tokenizer_model, config, parameters)


def _require_upstream_format(directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        raise _other_format(directory)


def _other_format(path: Path) -> UsageError:
    return UsageError(
        f"the megatron engine reads upstream's own checkpoints ({CHECKPOINT_NAME}); {path} is none",
        hint="serve a converted directory with --engine native, or write it as upstream's: "
        "kit weights export DIRECTORY OUTPUT",
    )
