"""What the vendored upstream takes, as it is and with its memory mended.

As it is it works on a whole prompt at once, rewritten on a chunk of it; for one sequence at a time,
with a KV cache of the whole context. What it wastes beyond that was read from its code and measured
on a CPU. The figures are those of all ranks together: weights, KV cache and heads are cut over them
(LayerNorms and some biases apart, which are too small to count), the rest each has for itself.
"""

from kit.errors import UsageError
from kit.memory.plan_line import LOADED, Basis, Phase, PlanLine, Pool, Serving
from kit.memory.plan_native import PREFILL_CHUNK, runtime_lines
from kit.units import MIB

DEEPSPEED_BYTES = 50 * MIB
"""What the process that computes takes beyond torch and transformers."""

LAUNCHER_BYTES = 16 * MIB
"""What DeepSpeed's launcher takes beyond torch; it runs where there are several ranks."""

_SERVED, _LOADING = (Phase.SERVE,), (Phase.LOAD,)
_MASK_BLOCK = 128
_QUERIES_AT_ONCE = 256
_FP32 = 4
_PIECE_BYTES = 16 * MIB


def upstream_lines(serving: Serving) -> list[PlanLine]:
    """All lines, empty ones among them.

    Raises:
        UsageError: several sequences, or integer weights.
    """
    _require_served(serving)
    mended = serving.engine == "megatron"
    prompt = _rewritten_prompt(serving) if mended else _stock_prompt(serving)
    lines = [
        _weights(serving),
        *_LOADING_LINES[serving.engine](serving),
        _kv_cache(serving),
        *prompt,
        *runtime_lines(serving),
        _processes(serving),
        _launcher(serving),
    ]
    lines.append(_reserve(serving, prompt))
    if serving.engine == "stock" and serving.device == "cuda":
        lines.append(_kept_in_pool(serving, lines))
    return lines


def _require_served(serving: Serving) -> None:
    if serving.max_sequences != 1:
        raise UsageError(
            "upstream's code generates one answer at a time, the others wait",
            hint="leave --max-sequences out, or plan for --engine native",
        )
    if serving.shape.integer_bytes:
        raise UsageError(
            f"upstream's code does not know {serving.shape.precision} weights",
            hint="choose --precision bf16 or fp32, or plan for --engine native",
        )


def _numbers(serving: Serving) -> int:
    return serving.shape.weights_bytes // serving.shape.dtype_bytes


def _weights(serving: Serving) -> PlanLine:
    size = _numbers(serving) * serving.dtype_bytes
    why = f"{_numbers(serving)} numbers of {serving.dtype_bytes} bytes"
    return PlanLine("weights", serving.pool, LOADED, size, Basis.COMPUTED, why)


def _whole_checkpoint(serving: Serving, pool: Pool, why: str) -> PlanLine:
    size = _numbers(serving) * _FP32
    return PlanLine("fp32 checkpoint", pool, _LOADING, size, Basis.COMPUTED, why)


def _load_streamed(serving: Serving) -> list[PlanLine]:
    why = "tensors pass in pieces of 16 MiB, cast on the way"
    size = serving.ranks * 2 * _PIECE_BYTES
    return [PlanLine("piece", Pool.HOST, _LOADING, size, Basis.COMPUTED, why)]


def _load_cpu_first(serving: Serving) -> list[PlanLine]:
    lines = [_whole_checkpoint(serving, Pool.HOST, "torch.load to the CPU, beside the model")]
    if serving.device == "cuda":
        size = _numbers(serving) * serving.dtype_bytes
        why = "built on the CPU, moved to the GPU afterwards"
        lines.append(PlanLine("weights on CPU", Pool.HOST, _LOADING, size, Basis.COMPUTED, why))
    return lines


def _load_stock(serving: Serving) -> list[PlanLine]:
    why = "torch.load to the same device, beside the model"
    lines = [_whole_checkpoint(serving, serving.pool, why)]
    if serving.device == "cuda":
        shape = serving.shape
        widest = max(shape.vocabulary, 2 * shape.intermediate, 3 * shape.hidden) * shape.hidden
        why = "the largest tensor on its way to the GPU"
        size = widest * _FP32  # over all ranks, which hold a part of it each
        lines.append(PlanLine("tensor", Pool.HOST, _LOADING, size, Basis.COMPUTED, why))
    return lines


_LOADING_LINES = {
    "megatron": _load_streamed,
    "cpu-first": _load_cpu_first,
    "stock": _load_stock,
}


def _kv_cache(serving: Serving) -> PlanLine:
    size = serving.kv_bytes_per_position * serving.context
    why = f"{serving.kv_bytes_per_position} B a token x {serving.context} positions, no window"
    return PlanLine("KV cache", serving.pool, _SERVED, size, Basis.COMPUTED, why)


def _rewritten_prompt(serving: Serving) -> list[PlanLine]:
    """Attention in tiles of 256 queries over their visible keys, scores of the last position."""
    shape, dtype_bytes = serving.shape, serving.dtype_bytes
    keys = serving.context
    if shape.window is not None:
        keys = min(keys, shape.window + _QUERIES_AT_ONCE + _MASK_BLOCK)
    tile = shape.attention_heads * _QUERIES_AT_ONCE * keys * (2 * _FP32 + dtype_bytes)
    tile += _FP32 * keys * shape.hidden
    why = f"fp32 scores and probabilities of {_QUERIES_AT_ONCE} queries over {keys} keys"
    return [
        _activations(serving, min(PREFILL_CHUNK, serving.context)),
        PlanLine("attention", serving.pool, _SERVED, tile, Basis.COMPUTED, why),
    ]


def _stock_prompt(serving: Serving) -> list[PlanLine]:
    shape, pool, tokens = serving.shape, serving.pool, serving.context
    heads, mask = shape.attention_heads, -(-tokens // _MASK_BLOCK) * _MASK_BLOCK

    def line(name: str, where: Pool, size: int, why: str) -> PlanLine:
        return PlanLine(name, where, _SERVED, size, Basis.COMPUTED, why)

    scores = 16 * heads * tokens**2 + 2 * _FP32 * tokens * shape.hidden
    return [
        _activations(serving, tokens),
        line("attention", pool, scores, f"16 B x {heads} heads x {tokens}², and fp32 q and k"),
        line("logits", pool, 6 * tokens * shape.vocabulary, "of all positions, twice"),
        line("masks", pool, mask**2 + 8 * tokens**2, "of all positions, twice"),
        line("masks on CPU", Pool.HOST, 3 * mask**2, "built there, three times"),
    ]


def _activations(serving: Serving, tokens: int) -> PlanLine:
    """All tokens of a pass in one layer: residual, norm, q, k, v, rotated; the MLP's widths.

    Every rank has the residual stream and its norm, and a part of the rest.
    """
    shape = serving.shape
    widths = (2 * serving.ranks + 6) * shape.hidden + 4 * shape.intermediate
    size = tokens * widths * serving.dtype_bytes
    why = f"{tokens} tokens of a prompt in one layer"
    return PlanLine("activations", serving.pool, _SERVED, size, Basis.COMPUTED, why)


def _processes(serving: Serving) -> PlanLine:
    ranks = serving.ranks
    size = ranks * (serving.build.resident_bytes + DEEPSPEED_BYTES)
    why = "it computes: Python, torch and DeepSpeed once more, beside the server"
    name = "upstream's process"
    if ranks > 1:
        name, why = f"{ranks} ranks", "they compute: Python, torch and DeepSpeed in each"
    return PlanLine(name, Pool.HOST, LOADED, size, Basis.MEASURED, why)


def _launcher(serving: Serving) -> PlanLine:
    size = serving.build.resident_bytes + LAUNCHER_BYTES if serving.ranks > 1 else 0
    why = "DeepSpeed's, which starts the ranks and loads torch itself"
    return PlanLine("launcher", Pool.HOST, LOADED, size, Basis.MEASURED, why)


def _reserve(serving: Serving, prompt: list[PlanLine]) -> PlanLine:
    held = sum(line.size_bytes for line in prompt if line.pool is serving.pool)
    if serving.device == "cuda":
        why = "fragmentation: 10 % of what a prompt takes, 64 MiB a rank at least"
        size = max(serving.ranks * 64 * MIB, held // 10)
        return PlanLine("reserve", Pool.DEVICE, _SERVED, size, Basis.ASSUMED, why)
    why = "fragmentation: 2/5 of what a prompt takes, 16 MiB a rank at least, as seen"
    size = max(serving.ranks * 16 * MIB, held * 2 // 5)
    return PlanLine("reserve", Pool.HOST, _SERVED, size, Basis.MEASURED, why)


def _kept_in_pool(serving: Serving, lines: list[PlanLine]) -> PlanLine:
    """What the freed checkpoint leaves in torch's pool, less what serving then takes from it."""
    freed = _numbers(serving) * _FP32
    taken = sum(
        line.size_bytes for line in lines if line.pool is Pool.DEVICE and line.phases == _SERVED
    )
    why = "of the freed checkpoint, which torch's pool does not give back"
    size = max(0, freed - taken)
    return PlanLine("pool", Pool.DEVICE, _SERVED, size, Basis.COMPUTED, why)
