"""Nothing is compiled when generation starts."""

from kit.upstream.rewrite import Definition, Rewrite, Text

REWRITE = Rewrite(
    name="no-compile",
    group="portability",
    why="every start runs make for a helper of training, and nvcc for kernels that are switched "
    "off: both need a compiler, and a package that can be written",
    retire_when="upstream compiles only what a run uses",
    edits={
        "megatron/initialize.py": (
            Definition(
                "_compile_dependencies",
                """
                def _compile_dependencies():
                    # kit: the helper is for training data, the kernels are for a fused softmax
                    args = get_args()
                    first = is_rank_0()
                    if args.data_path and first:
                        from megatron.data.dataset_utils import compile_helper
                        compile_helper()
                    if args.masked_softmax_fusion and get_accelerator().device_name() == 'cuda':
                        for turn in (True, False):  # one rank compiles, then the others load
                            if first == turn:
                                fused_kernels.load(args)
                            torch.distributed.barrier()
                """,
            ),
        ),
        "megatron/fused_kernels/__init__.py": (
            Text(
                'os.environ["TORCH_CUDA_ARCH_LIST"] = ""',
                'os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "")',
            ),
        ),
    },
)
