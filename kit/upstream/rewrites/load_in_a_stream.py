"""Every tensor is read from the file once, cast on its way, and put where it stays."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="load-in-a-stream",
    group="loading-stream",
    why="upstream fills all weights with random numbers, then holds the whole checkpoint in fp32 "
    "beside them: three times the memory of the bf16 weights, on the device",
    retire_when="upstream builds without weights and reads them one by one",
    edits={
        "tools/run_iFlytekSpark_text_generation.py": (
            Text(
                "import json\n",
                "import json\n"
                "from megatron.spark_kit.streaming import empty_weights, open_weights\n"
                "from megatron.spark_kit.streaming import stream_weights\n",
            ),
            Text(
                "model = iFlytekSparkModel(",
                "with empty_weights(args, config):\n        model = iFlytekSparkModel(",
            ),
            Text("torch.load(ckpt_path, ", "open_weights(ckpt_path, "),
            Text("model.load_state_dict(state_dict)", "stream_weights(model, state_dict)"),
        ),
        "megatron/model/transformer.py": (
            Text(
                "torch.linspace(0, self.drop_path_rate, config.num_layers)",
                "torch.linspace(0, self.drop_path_rate, config.num_layers, device='cpu')",
            ),
        ),
    },
    adds=("streaming.py",),
)
