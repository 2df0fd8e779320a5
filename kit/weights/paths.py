"""Names of files that come from outside: from a bundle, a catalogue, a lock."""

from pathlib import PurePosixPath

from kit.errors import IntegrityError


def inner_path(name: str) -> str:
    """``name`` itself, if it can only mean a file below the folder that it is joined to.

    Raises:
        IntegrityError: it is absolute, leads outwards, or is written in an ambiguous way.
    """
    path = PurePosixPath(name)
    plain = path.as_posix() == name and not path.is_absolute() and name not in ("", ".")
    if not plain or ".." in path.parts or "\\" in name or "\0" in name:
        raise IntegrityError(
            f"the name {name!r} would lead out of its folder",
            hint="whoever made this file made it wrongly, or means harm: do not use it",
        )
    return name
