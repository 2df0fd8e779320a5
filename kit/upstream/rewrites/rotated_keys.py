"""Keys are rotated once, before they enter the cache."""

from kit.upstream.rewrite import Rewrite, Text

REWRITE = Rewrite(
    name="rotated-keys",
    group="memory-serving",
    why="the cache holds keys as they were before rotation, so that every step rotates all of "
    "them again, in every layer: 215 GB of traffic for a token at 32768. And a prompt can be read "
    "at once only",
    retire_when="upstream caches rotated keys",
    edits={
        "megatron/model/transformer.py": (
            Text(
                "# Copy key and values.",
                "if rotary_pos_emb is not None:\n"
                "                new_emb = rotary_pos_emb[1][sequence_start:sequence_end]\n"
                "                key_layer = apply_rotary_pos_emb(key_layer, new_emb)",
            ),
            Text(
                "q_pos_emb[sequence_end - 1 : sequence_end]",
                "q_pos_emb[sequence_start:sequence_end]",
            ),
            Text(
                "key_layer = apply_rotary_pos_emb(key_layer, k_pos_emb)",
                "if not inference_params:\n"
                "                key_layer = apply_rotary_pos_emb(key_layer, k_pos_emb)",
            ),
        ),
    },
)
