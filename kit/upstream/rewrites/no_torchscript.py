"""Small functions are plain Python."""

from kit.upstream.rewrite import Edit, Rewrite, Text


def _decorators(count: int) -> tuple[Edit, ...]:
    return (Text("@torch.jit.script\n", "", count),)


REWRITE = Rewrite(
    name="no-torchscript",
    group="portability",
    why="TorchScript is deprecated, and unsupported from Python 3.14 on; what it would fuse is "
    "not on the path of generation",
    retire_when="upstream drops torch.jit",
    edits={
        "megatron/core/fusions/fused_bias_gelu.py": _decorators(2),
        "megatron/core/transformer/utils.py": _decorators(2),
        "megatron/model/fused_bias_gelu.py": _decorators(2),
        "megatron/model/transformer.py": _decorators(2),
        "megatron/model/utils.py": _decorators(2),
    },
)
