"""Predict the memory that serving a model takes, line by line, each with its basis."""

from kit.memory.plan.line import Device, Engine, Plan, Serving
from kit.memory.plan.native import native_lines
from kit.memory.plan.shape import ModelShape
from kit.memory.plan.torch_build import TorchBuild
from kit.memory.plan.upstream import upstream_lines


def plan_serving(
    shape: ModelShape,
    *,
    context: int,
    max_sequences: int,
    device: Device,
    build: TorchBuild,
    engine: Engine = "native",
    dtype_bytes: int | None = None,
    ranks: int = 1,
) -> Plan:
    """Plan an engine's memory, from loading to full contexts in all sequences.

    For the arguments see ``Serving``; ``dtype_bytes`` None is as the weights are stored.

    Raises:
        UsageError: upstream was asked for several sequences, or for integer weights; the native
            engine for several ranks.
    """
    dtype_bytes = dtype_bytes or shape.dtype_bytes
    serving = Serving(shape, context, max_sequences, device, build, engine, dtype_bytes, ranks)
    lines = native_lines(serving) if engine == "native" else upstream_lines(serving)
    held = tuple(line for line in lines if line.size_bytes)
    return Plan(device, context, max_sequences, held, engine, ranks)
