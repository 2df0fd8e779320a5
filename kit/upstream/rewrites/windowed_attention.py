"""Attention over the visible keys only, some queries at a time; no mask is ever built whole."""

from kit.upstream.rewrite import Definition, Rewrite, Text

REWRITE = Rewrite(
    name="windowed-attention",
    group="memory-serving",
    why="every call builds a mask of seq-length², 1 GiB at 32768 tokens and three times that on "
    "the host, and scores of prompt² five times over, two of them buffers that stay",
    retire_when="upstream computes its block window without a mask",
    edits={
        "megatron/text_generation/generation.py": (
            Text(
                "import torch.nn.functional as F\n",
                "import torch.nn.functional as F\n"
                "from megatron.spark_kit.attention import BlockMask\n",
            ),
            Definition(
                "_build_attention_mask_and_position_ids",
                """
                def _build_attention_mask_and_position_ids(tokens):
                    positions = torch.arange(tokens.size(1), device=tokens.device)
                    mask = BlockMask(get_args().localsize, tokens.device)
                    return mask, positions.unsqueeze(0).expand_as(tokens)
                """,
            ),
        ),
        "megatron/model/transformer.py": (
            Text(
                "import torch.nn.functional as F\n",
                "import torch.nn.functional as F\n"
                "from megatron.spark_kit.attention import attend\n",
            ),
            Definition(
                "CoreAttention.forward",
                """
                def forward(self, query_layer, key_layer, value_layer, attention_mask):
                    def dropout(probabilities):  # kit: every rank drops others
                        tracker = tensor_parallel.get_cuda_rng_tracker()
                        with nullcontext() if self.sequence_parallel else tracker.fork():
                            return self.attention_dropout(probabilities)

                    return attend(
                        query_layer, key_layer, value_layer, attention_mask,
                        divisor=self.norm_factor / (self.scale_mask_softmax.scale or 1.0),
                        dropout=dropout if self.training else None,
                    )
                """,
            ),
        ),
    },
    adds=("attention.py",),
)
