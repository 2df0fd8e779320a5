"""What the native engine takes: its KV cache is a ring, its prompts are read in chunks."""

from kit.errors import UsageError
from kit.memory.plan.allocator import pinned_bytes, rounded_bytes
from kit.memory.plan.line import LOADED, Basis, Phase, PlanLine, Pool, Serving
from kit.memory.plan.shape import ModelShape
from kit.units import MIB

PREFILL_CHUNK = 512
"""Positions the native engine computes at once while it reads a prompt."""

CUDA_CONTEXT_BYTES = 600 * MIB
"""What a process with a CUDA context holds of a GPU outside torch's pool: kernels, workspaces."""

CUDA_HOST_BYTES = 2048 * MIB
"""What CUDA takes of the host beyond torch's libraries: the driver's part and loaded kernels."""

CUBLAS_BYTES = 64 * MIB
"""What cuBLAS and cuBLASLt keep as workspaces in torch's pool, at most; it depends on the GPU."""

RING_BYTES = 4 * pinned_bytes(16 * MIB)
"""The pinned buffers through which a GPU is loaded; see ``kit.serve.native.staging``."""

PROGRAMS_BYTES = 32 * MIB
"""What oneDNN and torch's attention compile for 16 bits on a CPU, and keep, for the shapes that
``kit.serve.shapes`` leaves; as seen with AMX, where programs are largest, whatever the model."""

_DEQUANTISED_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows of a matrix of integers that are floats at a time; see ``kit.serve.native.quantised``."""
_SERVED = (Phase.SERVE,)


def native_lines(serving: Serving) -> list[PlanLine]:
    """All lines, empty ones among them.

    Raises:
        UsageError: several ranks.
    """
    if serving.ranks != 1:
        raise UsageError(
            "the native engine runs on one GPU",
            hint="plan for --engine megatron, whose ranks share a model",
        )
    activations = _activations(serving)
    return [
        *_weights(serving),
        _kv_cache(serving),
        activations,
        *runtime_lines(serving),
        cublas_line(serving),
        _ring(serving),
        _programs(serving),
        _reserve(serving, activations),
    ]


def kv_positions(shape: ModelShape, context: int) -> int:
    """Positions the KV cache of one sequence holds: a ring of the window and one prefill chunk."""
    if shape.window is None:
        return context
    return min(context, shape.window + PREFILL_CHUNK)


def runtime_lines(serving: Serving) -> list[PlanLine]:
    """What the server takes before there is a model, and CUDA in each process that computes."""
    build, ranks = serving.build, serving.ranks
    why = f"Python, {build.name}, transformers, the server, as seen on x86-64"
    lines = [
        PlanLine("runtime", Pool.HOST, LOADED, build.resident_bytes, Basis.MEASURED, why),
    ]
    if serving.device == "cuda":
        context = "kernels and the driver's part, outside torch's pool"
        host = "the driver's part and loaded kernels"
        assumed = Basis.ASSUMED
        lines += [
            PlanLine(
                "CUDA context", Pool.DEVICE, LOADED, ranks * CUDA_CONTEXT_BYTES, assumed, context
            ),
            PlanLine("CUDA on the host", Pool.HOST, LOADED, ranks * CUDA_HOST_BYTES, assumed, host),
        ]
    return lines


def cublas_line(serving: Serving) -> PlanLine:
    """cuBLAS's workspaces, in each process that computes on a GPU."""
    size = serving.ranks * CUBLAS_BYTES if serving.device == "cuda" else 0
    why = "its workspaces in torch's pool, at most"
    return PlanLine("cuBLAS", Pool.DEVICE, _SERVED, size, Basis.ASSUMED, why)


def _weights(serving: Serving) -> list[PlanLine]:
    shape = serving.shape
    if serving.dtype_bytes != shape.dtype_bytes:
        return _cast_weights(serving)
    why = "sum of the tensors"
    if serving.device == "cuda":
        rounding = "to segments of torch's pool, of 2 MiB and more"
        size = shape.rounding_bytes
        return [
            PlanLine("weights", Pool.DEVICE, LOADED, shape.weights_bytes, Basis.COMPUTED, why),
            PlanLine("weights' rounding", Pool.DEVICE, LOADED, size, Basis.COMPUTED, rounding),
        ]
    mapped_bytes = shape.weights_bytes - shape.packed_bytes
    mapped = f"{why}, mapped: the kernel can drop and reread them"
    copied_bytes = shape.packed_bytes + 2 * shape.packed_scales_bytes
    copied = "4-bit integers, and their scales with a zero each, laid out anew for the CPU"
    return [
        PlanLine("weights", Pool.HOST, LOADED, mapped_bytes, Basis.COMPUTED, mapped),
        PlanLine("weights (packed)", Pool.HOST, LOADED, copied_bytes, Basis.COMPUTED, copied),
    ]


def _cast_weights(serving: Serving) -> list[PlanLine]:
    """Floats get another type tensor by tensor while the file they come from is mapped."""
    shape = serving.shape
    stored_bytes = shape.weights_bytes - shape.integer_bytes
    cast_bytes = stored_bytes // shape.dtype_bytes * serving.dtype_bytes + shape.integer_bytes
    why = f"numbers of {serving.dtype_bytes} bytes, cast from {shape.dtype_bytes}"
    lines = [PlanLine("weights", serving.pool, LOADED, cast_bytes, Basis.COMPUTED, why)]
    if serving.device == "cpu":
        mapped = "the largest file, mapped while its tensors are cast"
        size = min(shape.largest_file_bytes or stored_bytes, stored_bytes)
        lines.append(
            PlanLine("weights (stored)", Pool.HOST, (Phase.LOAD,), size, Basis.COMPUTED, mapped)
        )
    return lines


def _kv_cache(serving: Serving) -> PlanLine:
    shape, sequences = serving.shape, serving.max_sequences
    per_token = serving.kv_bytes_per_position
    positions = kv_positions(shape, serving.context)
    size = per_token * positions * sequences
    if serving.device == "cuda":
        tensors = 2 * shape.layers
        size = tensors * rounded_bytes(size // tensors)
    ring = " (window and a chunk)" if positions < serving.context else ""
    why = f"{per_token} B x {positions} positions{ring} x {sequences}"
    return PlanLine("KV cache", serving.pool, _SERVED, size, Basis.COMPUTED, why)


def _activations(serving: Serving) -> PlanLine:
    """The largest tensors that live together while one chunk of a prompt is read.

    Residual stream, norm, q, k, v and three MLP widths; the mask as truth values and as numbers;
    keys and values once more, as a CPU's kernel for 16 bits packs them; the floats of a block of
    integer weights; fp32 scores, penalised scores, counts and sampling's own.
    """
    shape, dtype_bytes = serving.shape, serving.dtype_bytes
    chunk = min(PREFILL_CHUNK, serving.context)
    positions = kv_positions(shape, serving.context)
    size = chunk * (5 * shape.hidden + 3 * shape.intermediate) * dtype_bytes
    size += chunk * positions * (2 + dtype_bytes)
    if serving.device == "cpu" and dtype_bytes == 2:
        size += 2 * positions * shape.hidden * dtype_bytes
    size += _dequantised_bytes(serving)
    size += 20 * serving.max_sequences * shape.vocabulary
    why = f"{chunk} tokens of a prompt in one layer, mask, scores"
    return PlanLine("activations", serving.pool, _SERVED, size, Basis.COMPUTED, why)


def _dequantised_bytes(serving: Serving) -> int:
    """A block of rows of the widest matrix: floats, and of 4 bits also whole bytes."""
    shape = serving.shape
    is_int4 = shape.precision == "int4"
    if not shape.integer_bytes or (is_int4 and serving.device == "cpu"):
        return 0
    item_bytes = serving.dtype_bytes + is_int4
    width = max(shape.hidden, shape.intermediate)
    return _DEQUANTISED_ROWS[serving.device] * width * item_bytes


def _ring(serving: Serving) -> PlanLine:
    size = RING_BYTES if serving.device == "cuda" else 0
    why = "pinned buffers that the weights pass through"
    return PlanLine("loading ring", Pool.HOST, LOADED, size, Basis.COMPUTED, why)


def _programs(serving: Serving) -> PlanLine:
    size = PROGRAMS_BYTES if serving.device == "cpu" and serving.dtype_bytes == 2 else 0
    why = "kernels for a handful of lengths, as seen"
    return PlanLine("compiled programs", Pool.HOST, _SERVED, size, Basis.MEASURED, why)


def _reserve(serving: Serving, activations: PlanLine) -> PlanLine:
    """What the allocator holds beyond the tensors that live: holes, and blocks of other sizes."""
    if serving.device == "cuda":
        size = activations.size_bytes
        why = "fragmentation: the activations once more"
        return PlanLine("reserve", Pool.DEVICE, _SERVED, size, Basis.ASSUMED, why)
    size = max(16 * MIB, activations.size_bytes * 3 // 4)
    why = "fragmentation: 3/4 of the activations, 16 MiB at least, as seen"
    return PlanLine("reserve", Pool.HOST, _SERVED, size, Basis.MEASURED, why)
