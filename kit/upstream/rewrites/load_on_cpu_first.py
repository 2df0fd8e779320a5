"""The published fix: initialise and load on the CPU, then move the model to the GPU."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="load-on-cpu-first",
    group="loading-cpu-first",
    why="weights are initialised on the GPU, and torch.load puts a second copy there, in fp32",
    retire_when="nobody compares with it any more: loading-stream takes less of everything",
    edits={
        "tools/run_iFlytekSpark_text_generation.py": (
            Text(
                "import json\n",
                "import json\nfrom megatron.spark_kit.cpu_first import free_memory, load_on_cpu\n",
            ),
            Text(
                "config = core_transformer_config_from_args(args)",
                "args.use_cpu_initialization = True\n"
                "    config = core_transformer_config_from_args(args)",
            ),
            Text("torch.load(ckpt_path, ", "load_on_cpu(ckpt_path, "),
            Text(
                "model.load_state_dict(state_dict)",
                "model.load_state_dict(state_dict)\n        del state_dict\n        free_memory()",
            ),
        ),
    },
    adds=("cpu_first.py",),
)
