"""What a conversion takes: a few buffers, and room on disk for source and output."""

from kit.checkpoint.buffers import ROOM_BYTES
from kit.checkpoint.convert import DEFAULT_CHUNK_BYTES, OUTPUT_BUFFERS
from kit.checkpoint.sweep import BUFFERS
from kit.memory.plan_line import LOADED, Basis, Phase, PlanLine, Pool
from kit.units import MIB

PROGRAM_BYTES = 56 * MIB
"""The kit's process with numpy, as seen for every precision on x86-64."""


def conversion_lines(source_bytes: int, output_bytes: int, what: str) -> tuple[PlanLine, ...]:
    """Lines of converting a checkpoint of ``source_bytes``.

    ``what`` says what the source is. Neither its size nor that of a tensor changes the memory.
    """
    converting = (Phase.CONVERT,)
    count = OUTPUT_BUFFERS + BUFFERS
    buffers_bytes = count * (DEFAULT_CHUNK_BYTES + ROOM_BYTES)
    each = (DEFAULT_CHUNK_BYTES + ROOM_BYTES) // MIB
    buffers = f"{count} of {each} MiB, whatever the size of a tensor"
    program = "the kit with numpy, as seen on x86-64"
    disk, computed = Pool.DISK, Basis.COMPUTED
    return (
        PlanLine("buffers", Pool.HOST, converting, buffers_bytes, computed, buffers),
        PlanLine("program", Pool.HOST, converting, PROGRAM_BYTES, Basis.MEASURED, program),
        PlanLine("checkpoint", disk, converting, source_bytes, computed, what),
        PlanLine(
            "converted copy",
            disk,
            (Phase.CONVERT, *LOADED),
            output_bytes,
            computed,
            "once complete, the checkpoint may go",
        ),
    )


def stored_line(size_bytes: int, why: str) -> PlanLine:
    """The line of weights that are on disk already."""
    return PlanLine("files", Pool.DISK, LOADED, size_bytes, Basis.COMPUTED, why)
