"""Names of files that come from outside: from a bundle, a catalogue, a lock, a record."""

from pathlib import PurePosixPath

from kit.errors import IntegrityError

_MOST_BYTES, _MOST_PART_BYTES = 1000, 200
"""File systems take names of 255 bytes; ours get a prefix and a suffix while they arrive."""


def inner_path(name: str) -> str:
    """``name`` itself, if it can only mean a file below the folder that it is joined to.

    Raises:
        IntegrityError: it is absolute, leads outwards, is written in an ambiguous way, or no file
            system would take it.
    """
    path = PurePosixPath(name)
    plain = path.as_posix() == name and not path.is_absolute() and name not in ("", ".")
    if not plain or ".." in path.parts or "\\" in name or "\0" in name:
        raise IntegrityError(
            f"the name {name[:200]!r} would lead out of its folder",
            hint="whoever made this file made it wrongly, or means harm: do not use it",
        )
    longest = max(len(part.encode(errors="replace")) for part in path.parts)
    whole = len(name.encode(errors="replace"))
    if not name.isprintable() or longest > _MOST_PART_BYTES or whole > _MOST_BYTES:
        raise IntegrityError(
            f"the name {name[:200]!r} is too long, or holds control characters",
            hint="rename the file where it comes from",
        )
    return name
