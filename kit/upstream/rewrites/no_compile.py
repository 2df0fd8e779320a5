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
                    # kit: the helper serves training data only, the kernels a fused softmax only
                    args = get_args()
                    if args.data_path and is_rank_0():
                        from megatron.data.dataset_utils import compile_helper
                        compile_helper()
                    if not args.masked_softmax_fusion or get_accelerator().device_name() != 'cuda':
                        return
                    if is_rank_0():
                        fused_kernels.load(args)
                    torch.distributed.barrier()
                    if not is_rank_0():
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
