"""Predict the memory that serving a model takes, line by line, each with its basis."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from kit.memory.shape import ModelShape
from kit.memory.torch_build import TorchBuild
from kit.units import MIB

Device = Literal["cpu", "cuda"]

PREFILL_CHUNK = 512
"""Positions the native engine computes at once while it reads a prompt."""

CUDA_CONTEXT_BYTES = 600 * MIB
"""What a process with a CUDA context holds of a GPU outside torch's pool: kernels, workspaces."""


class Pool(StrEnum):
    """Which memory a line takes from."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


class Phase(StrEnum):
    """When a line is held."""

    CONVERT = "convert"
    LOAD = "load"
    SERVE = "serve"


class Basis(StrEnum):
    """How a line's figure was found."""

    COMPUTED = "computed"
    MEASURED = "measured"
    ASSUMED = "assumed"


@dataclass(frozen=True)
class PlanLine:
    """One thing that takes memory: how much, where, when, and how we know."""

    name: str
    pool: Pool
    phases: tuple[Phase, ...]
    size_bytes: int
    basis: Basis
    why: str


@dataclass(frozen=True)
class Plan:
    """Everything that serving takes, for one model, context, concurrency and device."""

    device: Device
    context: int
    max_sequences: int
    lines: tuple[PlanLine, ...]

    def phase_bytes(self, pool: Pool, phase: Phase) -> int:
        """What ``pool`` holds in ``phase``."""
        held = (line for line in self.lines if line.pool is pool and phase in line.phases)
        return sum(line.size_bytes for line in held)

    def peak_bytes(self, pool: Pool) -> int:
        """The most that ``pool`` holds in any phase."""
        return max(self.phase_bytes(pool, phase) for phase in Phase)


_HELD = (Phase.LOAD, Phase.SERVE)


def plan_serving(
    shape: ModelShape, *, context: int, max_sequences: int, device: Device, build: TorchBuild
) -> Plan:
    """Plan the native engine's memory.

    Args:
        shape: of the model directory; its dtype is that of weights, KV cache and activations.
        context: positions of one sequence, prompt and generated tokens together.
        max_sequences: sequences whose KV cache is held at once.
        device: where weights and cache live.
        build: of the torch that serves.
    """
    pool = Pool.DEVICE if device == "cuda" else Pool.HOST
    lines = [
        *_weights(shape, pool),
        _kv_cache(shape, pool, context, max_sequences),
        _activations(shape, pool, context, max_sequences),
        *_runtime(shape, device, build),
    ]
    lines += [_reserve(lines, each) for each in (Pool.DEVICE, Pool.HOST)]
    held = tuple(line for line in lines if line.size_bytes)
    return Plan(device, context, max_sequences, held)


def kv_positions(shape: ModelShape, context: int) -> int:
    """Positions the KV cache of one sequence holds: a ring of the window and one prefill chunk."""
    if shape.window is None:
        return context
    return min(context, shape.window + PREFILL_CHUNK)


def _weights(shape: ModelShape, pool: Pool) -> list[PlanLine]:
    why = "sum of the tensors in the safetensors headers"
    if pool is Pool.DEVICE:
        return [PlanLine("weights", pool, _HELD, shape.weights_bytes, Basis.COMPUTED, why)]
    mapped = shape.weights_bytes - shape.packed_bytes
    why += "; mapped from the files, which the kernel can drop and read again"
    copied = "4-bit integers, and scales with a zero each, laid out for the CPU in its own memory"
    copied_bytes = shape.packed_bytes + 2 * shape.packed_scales_bytes
    return [
        PlanLine("weights", pool, _HELD, mapped, Basis.COMPUTED, why),
        PlanLine("weights (packed)", pool, _HELD, copied_bytes, Basis.COMPUTED, copied),
    ]


def _kv_cache(shape: ModelShape, pool: Pool, context: int, max_sequences: int) -> PlanLine:
    per_token = 2 * shape.layers * shape.hidden * shape.dtype_bytes
    positions = kv_positions(shape, context)
    return PlanLine(
        "KV cache",
        pool,
        (Phase.SERVE,),
        per_token * positions * max_sequences,
        Basis.COMPUTED,
        f"{per_token} B per token x {positions} positions x {max_sequences} sequences",
    )


def _activations(shape: ModelShape, pool: Pool, context: int, max_sequences: int) -> PlanLine:
    """One prefill chunk: residual, norm, q, k, v, context; four MLP widths; mask; fp32 logits.

    To them comes a copy of the largest matrix, which the CPU's kernels lay out anew to multiply.
    """
    chunk = min(PREFILL_CHUNK, context)
    numbers = chunk * (6 * shape.hidden + 4 * shape.intermediate)
    numbers += shape.hidden * shape.intermediate
    mask_bytes = 4 * chunk * kv_positions(shape, context)
    logits_bytes = 8 * max_sequences * shape.vocabulary
    return PlanLine(
        "activations",
        pool,
        (Phase.SERVE,),
        numbers * shape.dtype_bytes + mask_bytes + logits_bytes,
        Basis.COMPUTED,
        f"a prefill chunk of {chunk} tokens in one layer, its largest matrix, mask, logits",
    )


def _runtime(shape: ModelShape, device: Device, build: TorchBuild) -> list[PlanLine]:
    if device == "cpu":
        why = f"Python, {build.name}, transformers and the server, as seen on x86-64"
        size = build.resident_bytes
        return [PlanLine("runtime", Pool.HOST, _HELD, size, Basis.MEASURED, why)]
    mapped = "pages of the weight files while they are copied to the GPU; the kernel can drop them"
    return [
        PlanLine(
            "CUDA context",
            Pool.DEVICE,
            _HELD,
            CUDA_CONTEXT_BYTES,
            Basis.ASSUMED,
            "kernels and workspaces",
        ),
        PlanLine(
            "runtime", Pool.HOST, _HELD, 3072 * MIB, Basis.ASSUMED, "Python with torch and CUDA"
        ),
        PlanLine(
            "weights (mapped)",
            Pool.HOST,
            (Phase.LOAD,),
            shape.weights_bytes,
            Basis.COMPUTED,
            mapped,
        ),
    ]


def _reserve(lines: list[PlanLine], pool: Pool) -> PlanLine:
    """Allocators round up and keep holes: 10 % of what is not the weights, 64 MiB at least."""
    others = [line for line in lines if line.pool is pool and not line.name.startswith("weights")]
    size = max(64 * MIB, sum(line.size_bytes for line in others) // 10) if others else 0
    why = "fragmentation: 10 % of all but the weights, 64 MiB at least"
    return PlanLine("reserve", pool, _HELD, size, Basis.ASSUMED, why)
