"""Every tensor is read from the file once, cast on its way, and put where it stays."""

from kit.upstream.rewrite import Edit, Rewrite, Text

_IMPORT = (
    "from megatron.spark_kit.streaming import empty_weights, open_weights\n"
    "from megatron.spark_kit.streaming import stream_weights\n"
)


def _loading(first_import: str, indent: int) -> tuple[Edit, ...]:
    """The edits of a script whose model is made at ``indent``."""
    return (
        Text(first_import, first_import + _IMPORT),
        Text(
            "model = iFlytekSparkModel(",
            f"with empty_weights(args, config):\n{' ' * (indent + 4)}model = iFlytekSparkModel(",
        ),
        Text("torch.load(ckpt_path, ", "open_weights(ckpt_path, "),
        Text("model.load_state_dict(state_dict)", "stream_weights(model, state_dict)"),
    )


_TRAINING = _loading("from functools import partial\n", indent=12)

REWRITE = Rewrite(
    name="load-in-a-stream",
    group="loading-stream",
    why="upstream fills all weights with random numbers, then holds the whole checkpoint in fp32 "
    "beside them: three times the memory of the bf16 weights, on the device. So do training and "
    "the merging of LoRA adapters",
    retire_when="upstream builds without weights and reads them one by one",
    edits={
        "tools/run_iFlytekSpark_text_generation.py": _loading("import json\n", indent=4),
        "pretrain_iFlytekSpark.py": _TRAINING,
        "sft_iFlytekSpark.py": _TRAINING,
        "sft_iFlytekSpark_lora_merge.py": _TRAINING,
        "megatron/model/transformer.py": (
            Text(
                "torch.linspace(0, self.drop_path_rate, config.num_layers)",
                "torch.linspace(0, self.drop_path_rate, config.num_layers, device='cpu')",
            ),
        ),
    },
    adds=("checkpoints.py", "streaming.py"),
)
