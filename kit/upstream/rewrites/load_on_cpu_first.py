"""The published fix: initialise and load on the CPU, then move the model to the GPU."""

from kit.upstream.rewrite import Edit, Rewrite, Text


def _loading(first_import: str, indent: int) -> tuple[Edit, ...]:
    """The edits of a script that fills its model at ``indent``."""
    line = "\n" + " " * indent
    return (
        Text(
            first_import,
            f"{first_import}from megatron.spark_kit.cpu_first import free_memory, load_on_cpu\n",
        ),
        Text(
            "config = core_transformer_config_from_args(args)",
            "args.use_cpu_initialization = True\n"
            "    config = core_transformer_config_from_args(args)",
        ),
        Text("torch.load(ckpt_path, ", "load_on_cpu(ckpt_path, "),
        Text(
            "model.load_state_dict(state_dict)",
            f"model.load_state_dict(state_dict){line}del state_dict{line}free_memory()",
        ),
    )


_TRAINING = _loading("from functools import partial\n", indent=12)

REWRITE = Rewrite(
    name="load-on-cpu-first",
    group="loading-cpu-first",
    why="weights are initialised on the GPU, and torch.load puts a second copy there, in fp32",
    retire_when="nobody compares with it any more: loading-stream takes less of everything",
    edits={
        "tools/run_iFlytekSpark_text_generation.py": _loading("import json\n", indent=8),
        "pretrain_iFlytekSpark.py": _TRAINING,
        "sft_iFlytekSpark.py": _TRAINING,
        "sft_iFlytekSpark_lora_merge.py": _TRAINING,
    },
    adds=("cpu_first.py",),
)
