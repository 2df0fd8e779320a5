"""Parses the command line; expects DeepSpeed's process group."""

import argparse
import os
from collections.abc import Callable, Mapping

import torch

from megatron import set_args

_NAMED = (
    "tensor-model-parallel-size", "num-layers", "hidden-size", "ffn-hidden-size",
    "num-attention-heads", "seq-length", "max-position-embeddings", "max-tokens-to-oom",
    "localsize", "vocab-size", "make-vocab-size-divisible-by", "micro-batch-size",
)  # fmt: skip
_FLAGS = (
    "apply-gated-linear-unit", "gate-gelu", "no-position-embedding",
    "use-rotary-position-embeddings", "no-query-key-layer-scaling", "no-bias-gelu-fusion",
    "no-bias-dropout-fusion", "no-masked-softmax-fusion", "no-gradient-accumulation-fusion",
    "bf16", "fp16", "ds-inference",
)  # fmt: skip


def initialize_megatron(
    extra_args_provider: Callable[[argparse.ArgumentParser], argparse.ArgumentParser],
    args_defaults: Mapping[str, object],
) -> None:
    """Take sys.argv, and say as much about it as upstream does."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in _NAMED:
        parser.add_argument(f"--{name}", type=int)
    for name in _FLAGS:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--layernorm-epsilon", type=float)
    for name in ("mlp-type", "tokenizer-type", "distributed-backend", "from-pretrained"):
        parser.add_argument(f"--{name}")
    args = extra_args_provider(parser).parse_args()
    for name, value in args_defaults.items():
        setattr(args, name, value)
    assert args.ds_inference and torch.distributed.is_initialized()
    assert torch.distributed.get_world_size() == args.tensor_model_parallel_size
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    set_args(args)
    for name, value in vars(args).items():
        print(f"  {name} {'.' * (40 - len(name))} {value}")
