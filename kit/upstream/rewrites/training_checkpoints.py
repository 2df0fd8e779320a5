"""A checkpoint that a training has left is read, and nothing in it is executed."""

from kit.upstream.rewrite import Rewrite, Text

_IMPORT = Text(
    "import torch\n",
    "import sys\nimport torch\n"
    "sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir, os.pardir))\n"
    "from megatron.spark_kit.checkpoints import load_tensors\n",
)
"""For a tool that imports nothing of megatron, and knows not where it lies."""

REWRITE = Rewrite(
    name="training-checkpoints",
    group="portability",
    why="torch.load refuses since 2.6 what a training saves beside its weights, so that upstream "
    "cannot merge its own LoRA adapters and shards, and before that it executed it; and the "
    "adapter's file went to the GPU whole",
    retire_when="upstream saves weights alone",
    edits={
        "megatron/model/iFlytekSpark_model.py": (
            Text(
                "import torch\n",
                "import torch\nfrom megatron.spark_kit.checkpoints import load_tensors\n",
            ),
            Text("torch.load(ckpt_path)", "load_tensors(ckpt_path)"),
        ),
        "tools/weight_convert/ds_merge_ckpts.py": (
            _IMPORT,
            Text("torch.load(path, map_location='cpu')", "load_tensors(path)"),
            Text("torch.load(ckpt_paths[0], map_location='cpu')", "load_tensors(ckpt_paths[0])"),
        ),
        "tools/weight_convert/ds_partition_ckpts.py": (
            _IMPORT,
            Text("torch.load(args.src_ckpt, map_location='cpu')", "load_tensors(args.src_ckpt)"),
        ),
    },
    adds=("checkpoints.py",),
)
