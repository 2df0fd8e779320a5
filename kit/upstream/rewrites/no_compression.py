"""DeepSpeed's compression is imported where it is used."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="no-compression",
    group="portability",
    why="deepspeed.compression is gone after 0.19.6, and imported even where nothing is trained",
    retire_when="upstream imports it where it compresses",
    edits={
        "megatron/training.py": (
            Text(
                "from deepspeed.compression.compress import init_compression, redundancy_clean",
                "# kit: deepspeed.compression is imported where it is used",
            ),
            Text(
                "model = [redundancy_clean(",
                "from deepspeed.compression.compress import redundancy_clean\n"
                "            model = [redundancy_clean(",
            ),
            Text(
                "model = [init_compression(",
                "from deepspeed.compression.compress import init_compression\n"
                "        model = [init_compression(",
            ),
        ),
    },
)
