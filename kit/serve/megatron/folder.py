"""A checkpoint in upstream's format: shards, shape, tokenizer, and what upstream is told of it."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.model import read_model
from kit.errors import UsageError
from kit.memory.plan.shape import ModelShape
from kit.weights.convert.facts import ROPE_BASE, find_arguments, model_config
from kit.weights.convert.locate import CHECKPOINT_NAME, find_checkpoint, find_tokenizer
from kit.weights.convert.support_files import special_ids


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


DType = Literal["float32", "bfloat16", "float16"]
DTYPE_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_PRECISION_FLAGS: dict[DType, tuple[str, ...]] = {
    "float32": (),
    "bfloat16": ("--bf16",),
    "float16": ("--fp16",),
}
_MASK_BLOCK = 128
"""Upstream's window mask is cut into blocks of so many keys, which must divide --seq-length."""

_ARCHITECTURE = (
    "--apply-gated-linear-unit",
    "--gate-gelu",
    "--no-position-embedding",
    "--use-rotary-position-embeddings",
    "--mlp-type=standard",
    "--no-query-key-layer-scaling",
)
_NO_FUSED_KERNELS = (
    "--no-bias-gelu-fusion",
    "--no-bias-dropout-fusion",
    "--no-masked-softmax-fusion",
    "--no-gradient-accumulation-fusion",
)
_BY_DEEPSPEED = "--ds-inference"
"""Makes upstream take DeepSpeed's process group, instead of making one."""


def upstream_arguments(
    folder: UpstreamFolder, *, context: int, dtype: DType, device: str
) -> tuple[str, ...]:
    """The arguments of upstream's ``tools/run_iFlytekSpark_text_generation.py``.

    Those of its own launch script, with the checkpoint's shapes. The kit brings the tokenizer, so
    that upstream's needs only the vocabulary's size (its NullTokenizer adds one for the end).

    Args:
        folder: the checkpoint; as many ranks as it has shards.
        context: positions of the longest sequence. Also lifts upstream's own limit
            (``--max-tokens-to-oom``, 12000 by default) to it.
        dtype: of the weights while they serve.
        device: "cpu" or "cuda".
    """
    config = folder.config
    length = -(-context // _MASK_BLOCK) * _MASK_BLOCK
    window = config["sliding_window"]
    named: dict[str, object] = {
        "tensor-model-parallel-size": len(folder.shards),
        "num-layers": config["num_hidden_layers"],
        "hidden-size": config["hidden_size"],
        "ffn-hidden-size": config["intermediate_size"],
        "num-attention-heads": config["num_attention_heads"],
        "layernorm-epsilon": config["layer_norm_eps"],
        "seq-length": length,
        "max-position-embeddings": length,
        "max-tokens-to-oom": length,
        **({} if window is None else {"localsize": window}),
        "tokenizer-type": "NullTokenizer",
        "vocab-size": config["vocab_size"] - 1,
        "make-vocab-size-divisible-by": 1,
        "micro-batch-size": 1,
        "distributed-backend": "nccl" if device == "cuda" else "gloo",
        "from-pretrained": folder.shards[0].parent,
    }
    options = [f"--{name}={value}" for name, value in named.items()]
    flags = (*_ARCHITECTURE, *_NO_FUSED_KERNELS, *_PRECISION_FLAGS[dtype], _BY_DEEPSPEED)
    return (*options, *flags)
