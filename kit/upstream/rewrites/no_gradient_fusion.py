"""A model for generation needs no fused gradients."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="no-gradient-fusion",
    group="portability",
    why="the fusion is on by default, and without an extension of apex the first layer raises; "
    "the code that would use it is switched off",
    retire_when="upstream turns the fusion off where the extension is missing",
    edits={
        "megatron/core/tensor_parallel/layers.py": (
            Text(
                "if config.gradient_accumulation_fusion and not _grad_accum_fusion_available:",
                "config.gradient_accumulation_fusion &= _grad_accum_fusion_available\n"
                "        if False:  # kit: no error",
            ),
        ),
    },
)
