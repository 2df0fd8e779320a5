"""How much context and how many sequences the native engine serves when nobody says."""

from kit.errors import UsageError
from kit.memory.plan import kv_positions
from kit.memory.shape import ModelShape
from kit.units import GIB

DEFAULT_CONTEXT = 4096
DEFAULT_KV_BYTES = 13 * GIB // 4
"""The KV cache's share by default: iFlytekSpark-13B in bf16 then stays within 30 GiB."""
MOST_SEQUENCES = 8


def serving_limits(
    shape: ModelShape, context: int | None = None, max_sequences: int | None = None
) -> tuple[int, int]:
    """Context and concurrent sequences to serve with: as asked for, else what fits the defaults.

    Raises:
        UsageError: more context than the model was made for, or none.
    """
    chosen = min(DEFAULT_CONTEXT, shape.max_context) if context is None else context
    if not 2 <= chosen <= shape.max_context:
        raise UsageError(
            f"a context of {chosen} tokens is not possible: the model was made for "
            f"2 to {shape.max_context}",
            hint=f"--context {min(DEFAULT_CONTEXT, shape.max_context)}",
        )
    if max_sequences is None:
        per_token = 2 * shape.layers * shape.hidden * shape.dtype_bytes
        per_sequence = per_token * kv_positions(shape, chosen)
        max_sequences = max(1, min(MOST_SEQUENCES, DEFAULT_KV_BYTES // per_sequence))
    elif max_sequences < 1:
        raise UsageError("at least one sequence must fit", hint="--max-sequences 1")
    return chosen, max_sequences
