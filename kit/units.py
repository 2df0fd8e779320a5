"""Sizes: the one place where text becomes bytes and bytes become text."""

import re

from kit.errors import UsageError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_FACTORS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 1024**4,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def parse_size(text: str) -> int:
    """Bytes of a size such as ``"30GiB"`` or ``"24 GB"``.

    The unit is mandatory and exact: ``24G`` is refused, because 24 GB is 1.6 GiB less than 24 GiB.

    Raises:
        UsageError: not a number followed by B, KB, MB, GB, TB, KiB, MiB, GiB or TiB.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _FACTORS:
        raise UsageError(
            f"not a size: {text!r}",
            hint="write a number and a unit, such as 30GiB (1024-based) or 30GB (1000-based)",
        )
    return int(float(match[1]) * _FACTORS[match[2]])


def format_gib(size_bytes: int) -> str:
    """``size_bytes`` as text in GiB with two decimals, or in MiB below a tenth of a GiB."""
    if abs(size_bytes) < GIB // 10:
        return f"{size_bytes / MIB:.1f} MiB"
    return f"{size_bytes / GIB:.2f} GiB"
