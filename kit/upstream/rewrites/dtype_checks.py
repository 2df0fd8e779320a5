"""Tensors are told apart by their dtype."""

from kit.upstream.rewrite import Definition, Rewrite, Text

REWRITE = Rewrite(
    name="dtype-checks",
    group="portability",
    why="DeepSpeed's tensor types are functions since 0.14, and isinstance() with a function "
    "raises in the first forward pass on a GPU",
    retire_when="upstream compares dtypes",
    edits={
        "megatron/model/module.py": (
            Text("_FLOAT_TYPES = (torch.FloatTensor, get_accelerator().FloatTensor)", ""),
            Text("_HALF_TYPES = (torch.HalfTensor, get_accelerator().HalfTensor)", ""),
            Text("_BF16_TYPES = (torch.BFloat16Tensor, get_accelerator().BFloat16Tensor)", ""),
            Definition(
                "fp32_to_float16",
                """
                def fp32_to_float16(val, float16_convertor):
                    def convert(value):
                        single = torch.is_tensor(value) and value.dtype == torch.float32
                        return float16_convertor(value) if single else value
                    return conversion_helper(val, convert)
                """,
            ),
            Definition(
                "float16_to_fp32",
                """
                def float16_to_fp32(val):
                    def convert(value):
                        half = torch.is_tensor(value) and value.dtype in (
                            torch.float16, torch.bfloat16
                        )
                        return value.float() if half else value
                    return conversion_helper(val, convert)
                """,
            ),
        ),
    },
)
