"""Whatever device DeepSpeed's accelerator names, the CPU included."""

from kit.upstream.rewrite import Definition, Edit, Rewrite, Text

_IMPORT = Text(
    "import torch\n",
    "import torch\nfrom megatron.spark_kit.device import current_device, synchronize\n",
)


def _named(count: int) -> Edit:
    return Text("torch.cuda.current_device()", "current_device()", count)


_MAP_LOCATION = Text('f"cuda:{torch.cuda.current_device()}"', "current_device()")

REWRITE = Rewrite(
    name="any-device",
    group="portability",
    why="generation names CUDA in some thirty places, although DeepSpeed knows the device",
    retire_when="upstream asks DeepSpeed's accelerator everywhere",
    edits={
        "megatron/core/tensor_parallel/layers.py": (
            Text(
                "from torch.cuda.amp import custom_fwd, custom_bwd",
                "from megatron.spark_kit.device import custom_fwd, custom_bwd",
            ),
        ),
        "megatron/core/tensor_parallel/mappings.py": (_IMPORT, _named(2)),
        "megatron/core/tensor_parallel/utils.py": (_IMPORT, _named(2)),
        "megatron/core/utils.py": (_IMPORT, _named(1)),
        "megatron/text_generation/api.py": (_IMPORT, _named(1)),
        "megatron/text_generation/communication.py": (
            _IMPORT,
            _named(5),
            Text("torch.cuda.synchronize()", "synchronize()", 2),
            Definition(
                "_is_cuda",
                """
                def _is_cuda(tensor):
                    assert tensor is not None
                """,
            ),
        ),
        "megatron/text_generation/forward_step.py": (_IMPORT, _named(2)),
        "megatron/text_generation/generation.py": (_IMPORT, _named(9)),
        "megatron/text_generation/sampling.py": (
            Text("logits.type() == 'torch.cuda.FloatTensor'", "logits.dtype == torch.float32"),
        ),
        "megatron/text_generation/tokenization.py": (
            _IMPORT,
            Text(
                "torch.cuda.LongTensor(prompts_tokens)",
                "torch.tensor(prompts_tokens, dtype=torch.int64, device=current_device())",
            ),
            Text(
                "torch.cuda.LongTensor(prompts_length)",
                "torch.tensor(prompts_length, dtype=torch.int64, device=current_device())",
            ),
        ),
        "tools/run_iFlytekSpark_text_generation.py": (_IMPORT, _MAP_LOCATION),
        "pretrain_iFlytekSpark.py": (_IMPORT, _MAP_LOCATION),
        "sft_iFlytekSpark.py": (_IMPORT, _MAP_LOCATION),
        "sft_iFlytekSpark_lora_merge.py": (
            _IMPORT,
            Text('f"cuda:{torch.cuda.current_device()}"', "current_device()", 2),
        ),
        "megatron/arguments.py": (
            Text(
                "'--distributed-backend', default='nccl'",
                "'--distributed-backend', default=(\n"
                "                           deepspeed.accelerator.get_accelerator()"
                ".communication_backend_name())",
            ),
        ),
        "megatron/data/blendable_dataset.py": (
            Text(
                "torch.cuda.LongTensor([cache_success])",
                "torch.tensor([cache_success], dtype=torch.int64, device=current_device())",
            ),
            _IMPORT,
        ),
        "megatron/timers.py": (
            _IMPORT,
            Text("get_accelerator().current_device()", "current_device()"),
        ),
        "megatron/initialize.py": (
            Text("device='cuda'", "device=get_accelerator().device_name()", 5),
        ),
    },
    adds=("device.py",),
)
