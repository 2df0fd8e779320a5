"""What the kit takes of upstream's inference script."""

import argparse
from pathlib import Path

import torch
from deepspeed.accelerator import get_accelerator
from megatron import get_args
from megatron.model import Decaying


def add_text_generate_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of the script itself."""
    parser.add_argument("--repeat_penalty", type=float, default=1.2)
    return parser


def model_provider(pre_process: bool = True, post_process: bool = True) -> torch.nn.Module:
    """The model with this rank's shard."""
    args = get_args()
    assert not args.ds_inference
    shard = f"mp_rank_{torch.distributed.get_rank():02d}_model_states.pt"
    device = get_accelerator().current_device_name()
    path = Path(args.from_pretrained) / shard
    state = torch.load(path, map_location=device, weights_only=True)["module"]
    rows = state["language_model"]["embedding"]["word_embeddings"]["weight"]
    vocabulary = args.vocab_size + 1
    assert len(rows) * args.tensor_model_parallel_size == vocabulary
    rows = rows.bfloat16() if args.bf16 else rows.half() if args.fp16 else rows
    return Decaying(rows.to(get_accelerator().current_device_name()))
