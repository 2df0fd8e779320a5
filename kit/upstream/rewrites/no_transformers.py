"""Generation does not import transformers."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="no-transformers",
    group="portability",
    why="a second of start-up, and a dependency, for one empty base class",
    retire_when="upstream drops the base class",
    edits={
        "megatron/text_generation/generation.py": (
            Text("from transformers import LogitsProcessor", "LogitsProcessor = object"),
        ),
    },
)
