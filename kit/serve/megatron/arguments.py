"""Upstream's command line for a checkpoint: what its inference script is given by its launcher."""

from typing import Literal

from kit.serve.megatron.folder import UpstreamFolder

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
