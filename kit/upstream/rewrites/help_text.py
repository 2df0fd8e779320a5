"""`--help` works."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="help-text",
    group="portability",
    why="a bare percent sign makes --help raise, and from Python 3.14 on every start",
    retire_when="upstream escapes it",
    edits={
        "megatron/arguments.py": (Text("default 100%'", "default 100%%'"),),
    },
)
