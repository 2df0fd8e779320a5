"""`--verify`: a converted directory held against the checkpoint it was made of."""

from pathlib import Path
from typing import Literal

from kit.checkpoint.compare import compare
from kit.checkpoint.model import read_model
from kit.checkpoint.sweep import Progress
from kit.commands import command
from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.locate import find_checkpoint
from kit.weights.record import Precision, read_record


def require_provable(precision: Precision, lora: Path | None) -> None:
    """Raise UsageError where a converted tensor is more than its source in another float type."""
    if precision not in ("bf16", "fp32") or lora is not None:
        raise UsageError(
            "--verify compares bf16 and fp32 conversions without an adapter",
            hint="leave out --verify; `kit weights verify OUTPUT` holds any conversion against "
            "the sums that were taken while it was written",
        )


def prove_conversion(source: Path, output: Path, progress: Progress | None = None) -> int:
    """Compare every tensor of ``output`` with ``source``, bit for bit, after rounding.

    Args:
        source: as for ``convert_checkpoint``.
        output: the converted directory.
        progress: called as ``progress(done_bytes, total_bytes)`` of the source.

    Returns:
        How many tensors were compared and found equal.

    Raises:
        UsageError: ``output`` is in less than 16 bits, or an adapter was merged into it.
        EnvironmentNotReady: there is no conversion at ``output``.
        IntegrityError: a tensor differs, or a file is damaged.
    """
    record = read_record(output)
    if record is None:
        raise EnvironmentNotReady(
            f"{output} holds no conversion", hint=command("kit weights convert", source, output)
        )
    require_provable(record.precision, output if record.lora else None)
    model = read_model(find_checkpoint(source))
    dtype: Literal["bfloat16", "float32"] = "bfloat16" if record.precision == "bf16" else "float32"
    return compare(model.files, model.mappings, output, dtype, progress=progress)
