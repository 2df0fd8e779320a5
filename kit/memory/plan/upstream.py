"""What the vendored upstream takes, as it is and with its memory mended.

As it is it works on a whole prompt at once, rewritten on a chunk of it; for one sequence at a time,
with a KV cache of the whole context. What it wastes beyond that was read from its code, and is
checked against a run of it without data (``kit.proof.simulate``); the figures of a CPU were
measured. They are those of all ranks together: weights, KV cache and heads are cut over them
(LayerNorms and some biases apart, which are too small to count), the rest each has for itself.
"""

from kit.errors import UsageError
from kit.memory.plan.allocator import Allocator
from kit.memory.plan.line import LOADED, Basis, Phase, PlanLine, Pool, Serving
from kit.memory.plan.native import PREFILL_CHUNK, cublas_line, runtime_lines
from kit.memory.plan.shape import ModelShape
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
        cublas_line(serving),
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
    shape = serving.shape
    keys = _tile_keys(serving, serving.context)
    tile = sum(_tile_bytes(serving, keys)[:3])
    why = f"fp32 scores and probabilities of {_QUERIES_AT_ONCE} queries over {keys} keys"
    chunk = min(PREFILL_CHUNK, serving.context)
    widths = 7 * shape.hidden + 2 * serving.ranks * shape.hidden
    return [
        _activations(serving, chunk, widths),
        PlanLine("attention", serving.pool, _SERVED, tile, Basis.COMPUTED, why),
    ]


def _tile_keys(serving: Serving, position: int) -> int:
    """Keys that the tile of queries before ``position`` looks at."""
    window = serving.shape.window
    return position if window is None else min(position, window + _QUERIES_AT_ONCE + _MASK_BLOCK)


def _tile_bytes(serving: Serving, keys: int) -> tuple[int, int, int, int]:
    """Tensors of a tile: scores, softmax, probabilities, and before them the keys in fp32."""
    shape = serving.shape
    numbers = shape.attention_heads * _QUERIES_AT_ONCE * keys
    single = serving.dtype_bytes == _FP32
    probabilities = 0 if single else numbers * serving.dtype_bytes
    keys_bytes = 0 if single else _FP32 * keys * shape.hidden
    return _FP32 * numbers, _FP32 * numbers, probabilities, keys_bytes


def _tiles_reserved_bytes(serving: Serving) -> int:
    """What torch's pool grows to while tile after tile looks at more keys than the one before.

    In segments of their own each would stay, too short for the next, once a longer one comes: 2 GiB
    at 4096 tokens, 10 at 8192. So the ranks run with segments that grow.
    """
    pool = Allocator(expandable=True)
    for position in range(_QUERIES_AT_ONCE, serving.context + 1, _QUERIES_AT_ONCE):
        keys = _tile_keys(serving, position)
        scores, softmax, probabilities, single_keys = _tile_bytes(serving, keys)
        early = pool.allocate(max(single_keys, 1))
        held = [pool.allocate(scores)]
        pool.release(early)
        held += [pool.allocate(size) for size in (softmax, probabilities) if size]
        for block in held:
            pool.release(block)
    return pool.reserved_bytes


def _stock_prompt(serving: Serving) -> list[PlanLine]:
    """A whole prompt at once: the attention of a layer, or all its positions' scores if larger."""
    shape, pool, tokens = serving.shape, serving.pool, serving.context
    heads, mask = shape.attention_heads, -(-tokens // _MASK_BLOCK) * _MASK_BLOCK

    def line(name: str, where: Pool, size: int, why: str) -> PlanLine:
        return PlanLine(name, where, _SERVED, size, Basis.COMPUTED, why)

    pair = _pair_bytes(serving)
    single = 0 if serving.dtype_bytes == _FP32 else 2 * _FP32 * tokens * shape.hidden
    attention = pair * heads * tokens**2 + single
    logits = (serving.dtype_bytes + _FP32) * tokens * shape.vocabulary
    widths = (2 * serving.ranks + 5) * shape.hidden
    return [
        _activations(serving, tokens, widths),
        line("attention", pool, attention, f"{pair} B x {heads} heads x {tokens}², fp32 q and k"),
        line("logits", pool, max(0, logits - attention), "of all positions, beyond the attention"),
        line("masks", pool, mask**2, "of all positions"),
        line("masks on CPU", Pool.HOST, 3 * mask**2, "built there, three times"),
    ]


def _pair_bytes(serving: Serving) -> int:
    """Of each query, key and head: products twice, masked, softmax and probabilities."""
    return 12 if serving.dtype_bytes == _FP32 else 3 * _FP32 + 2 * serving.dtype_bytes


def _activations(serving: Serving, tokens: int, attention_widths: int) -> PlanLine:
    """All tokens of a pass in one layer, in its attention or its MLP, whichever takes more."""
    shape = serving.shape
    mlp_widths = (2 * serving.ranks + 2) * shape.hidden + 4 * shape.intermediate
    size = tokens * max(attention_widths, mlp_widths) * serving.dtype_bytes
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
    if serving.device == "cpu":
        why = "fragmentation: 2/5 of what a prompt takes, 16 MiB a rank at least, as seen"
        size = max(serving.ranks * 16 * MIB, held * 2 // 5)
        return PlanLine("reserve", Pool.HOST, _SERVED, size, Basis.MEASURED, why)
    if serving.engine == "megatron":
        why = "holes that tiles of growing length leave, 64 MiB a rank at least"
        [tile] = [line.size_bytes for line in prompt if line.name == "attention"]
        kept = _tiles_reserved_bytes(serving) - tile
    else:
        why = "fragmentation: 3/4 of a layer's probabilities, 64 MiB a rank at least"
        kept = 3 * serving.dtype_bytes * serving.shape.attention_heads * serving.context**2 // 4
    size = max(serving.ranks * 64 * MIB, kept)
    return PlanLine("reserve", Pool.DEVICE, _SERVED, size, Basis.COMPUTED, why)


def _kept_in_pool(serving: Serving, lines: list[PlanLine]) -> PlanLine:
    """What the freed checkpoint leaves in torch's pool, less what serving then takes from it.

    Every tensor's segment stays by itself, so that only smaller tensors go there.
    """
    freed = _numbers(serving) * _FP32
    served = {
        line.name: line.size_bytes
        for line in lines
        if line.pool is Pool.DEVICE and line.phases == _SERVED and line.name != "cuBLAS"
    }
    shape = serving.shape
    segments = [_FP32 * shape.hidden * rows for rows in _layer_rows(shape)]
    taken = sum(served.values())
    if _FP32 * shape.attention_heads * serving.context**2 > max(segments):
        cached = served["KV cache"] // (2 * shape.layers)
        fitting = min(1.0, sum(segment // cached for segment in segments) / 2)
        taken = int(fitting * served["KV cache"]) + served["activations"]
        taken += served["reserve"] if fitting == 1.0 else 0
    why = "of the freed checkpoint, which torch's pool does not give back"
    size = max(0, freed - taken)
    return PlanLine("pool", Pool.DEVICE, _SERVED, size, Basis.COMPUTED, why)


def _layer_rows(shape: ModelShape) -> tuple[int, ...]:
    """Of a layer's matrices in a checkpoint, as wide as the hidden size or turned."""
    return 3 * shape.hidden, shape.hidden, 2 * shape.intermediate, shape.intermediate
