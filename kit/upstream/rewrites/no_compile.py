"""Nothing is compiled at start."""

from kit.upstream.rewrite import Definition, Rewrite, Text

_HELPERS = Text("from megatron.data import helpers", "from megatron.spark_kit import helpers")

REWRITE = Rewrite(
    name="no-compile",
    group="portability",
    why="every start, of generation too, runs make for a helper of training data, and nvcc for "
    "kernels that are switched off: both need a compiler, and a tree that can be written. numpy "
    "computes what the helper does",
    retire_when="upstream compiles only what a run uses",
    edits={
        "megatron/initialize.py": (
            Definition(
                "_compile_dependencies",
                """
                def _compile_dependencies():
                    # kit: the kernels are for a fused softmax
                    args = get_args()
                    first = is_rank_0()
                    if args.masked_softmax_fusion and get_accelerator().device_name() == 'cuda':
                        for turn in (True, False):  # one rank compiles, then the others load
                            if first == turn:
                                fused_kernels.load(args)
                            torch.distributed.barrier()
                """,
            ),
        ),
        "megatron/data/blendable_dataset.py": (_HELPERS,),
        "megatron/data/gpt_dataset.py": (_HELPERS,),
        "megatron/data/iFlytekSpark_sft_dataset.py": (
            Text("from megatron.data import helpers", "# kit: nothing of helpers is used"),
        ),
        "megatron/fused_kernels/__init__.py": (
            Text(
                'os.environ["TORCH_CUDA_ARCH_LIST"] = ""',
                'os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "")',
            ),
        ),
    },
    adds=("helpers.py",),
)
