"""A backslash in a text is written as one."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="escape-sequences",
    group="portability",
    why="unknown escape sequences warn at every start from Python 3.12 on (where nothing compiled "
    "can be kept, as in a read-only image), and are to become errors",
    retire_when="upstream writes no unknown escape sequences",
    edits={
        "megatron/arguments.py": (Text("8 300000 \\ '", "8 300000 \\\\ '"),),
        "megatron/core/tensor_parallel/cross_entropy.py": (Text("* \\sum_", "* \\\\sum_", 4),),
    },
)
