"""Reading a tar of the upstream repo, as git and forges make it, without unpacking it."""

import io
import lzma
import tarfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.upstream.files import LIMIT_BYTES, Found, belongs, left_by_use
from kit.weights.paths import inner_path

_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


def read_tarball(tar: Path | bytes, what: str, expected: Collection[str]) -> Found:
    """Read the expected files out of a tar, compressed or not, with or without a leading folder.

    Links in it are not followed: one in place of an expected file counts as extra.

    Raises:
        EnvironmentNotReady: it cannot be read.
        IntegrityError: it is damaged, or a name in it leads out of its folder.
    """
    try:
        with (
            io.BytesIO(tar) if isinstance(tar, bytes) else tar.open("rb") as file,
            tarfile.open(fileobj=file, mode="r:*") as archive,
        ):
            return _read(archive, expected)
    except _DAMAGED as error:
        raise IntegrityError(
            f"{what} is damaged or no tar", hint="get it again, as a .tar.gz"
        ) from error
    except OSError as error:
        raise EnvironmentNotReady(
            f"cannot read {what}: {error.strerror or error}", hint="check the file"
        ) from error


def _read(archive: tarfile.TarFile, expected: Collection[str]) -> Found:
    members = {
        inner_path(path.as_posix()): member
        for member in archive
        if not member.isdir() and (path := PurePosixPath(member.name)).parts
    }
    leading = _leading_folder(members, expected)
    content, extra = {}, []
    for full_name, member in members.items():
        name = full_name.removeprefix(leading)
        if not belongs(name, expected):
            continue
        if name in expected and member.isreg() and (data := archive.extractfile(member)):
            content[name] = data.read(LIMIT_BYTES + 1)
        elif not (member.isreg() and left_by_use(name)):
            extra.append(name)
    return Found(content, tuple(sorted(extra)))


def _leading_folder(names: Iterable[str], expected: Collection[str]) -> str:
    """The folder that forges put everything into, with its slash; empty where there is none."""
    paths = set(names)
    tops = {path.split("/")[0] for path in paths}
    return f"{tops.pop()}/" if len(tops) == 1 and not paths & set(expected) else ""
