"""apex is not needed."""

from kit.upstream.rewrite import Rewrite, Text

_MODULE = "megatron.spark_kit.without_apex"
_APPLIER = "apex.multi_tensor_apply import multi_tensor_applier"

REWRITE = Rewrite(
    name="no-apex",
    group="portability",
    why="apex is imported without a guard, even on the CPU, and has to be compiled with nvcc",
    retire_when="upstream imports apex only where it is installed",
    edits={
        "megatron/optimizer/__init__.py": (
            Text("from apex.optimizers import FusedAdam", f"from {_MODULE} import FusedAdam"),
            Text("from apex.optimizers import FusedSGD", f"from {_MODULE} import FusedSGD"),
        ),
        "megatron/optimizer/distrib_optimizer.py": (
            Text("from apex.optimizers import FusedAdam", f"from {_MODULE} import FusedAdam"),
        ),
        "megatron/optimizer/clip_grads.py": (
            Text(f"from {_APPLIER}", f"from {_MODULE} import multi_tensor_applier"),
            Text("import amp_C", f"from {_MODULE} import amp_C"),
        ),
        "megatron/optimizer/optimizer.py": (
            Text(f"from {_APPLIER}", f"from {_MODULE} import multi_tensor_applier"),
            Text("import amp_C", f"from {_MODULE} import amp_C"),
        ),
        "megatron/utils.py": (
            Text(f"from {_APPLIER}", f"from {_MODULE} import multi_tensor_applier"),
            Text("import amp_C", f"from {_MODULE} import amp_C"),
        ),
    },
    adds=("without_apex.py",),
)
