"""What rewrites change, as a unified diff that `git apply` and `patch -p1` take."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from kit.upstream.render import Rendered


@dataclass(frozen=True)
class FileDiff:
    """One file's changes.

    Attributes:
        file: its path in the repository.
        rewrites: the rewrites that made them.
        added, removed: counts of lines.
        text: the unified diff.
    """

    file: str
    rewrites: tuple[str, ...]
    added: int
    removed: int
    text: str


def diff_files(pristine: Mapping[str, bytes], rendered: Rendered) -> list[FileDiff]:
    """The changed and added files, by path."""
    return [
        _diff(file, rewrites, pristine.get(file), rendered.content[file])
        for file, rewrites in rendered.manifest.changed.items()
    ]


def _diff(file: str, rewrites: tuple[str, ...], old: bytes | None, new: bytes) -> FileDiff:
    before = f"a/{file}" if old is not None else "/dev/null"
    lines = list(difflib.unified_diff(_lines(old or b""), _lines(new), before, f"b/{file}"))
    body = lines[2:]
    return FileDiff(
        file,
        rewrites,
        added=sum(line.startswith("+") for line in body),
        removed=sum(line.startswith("-") for line in body),
        text="".join(chain.from_iterable(map(_closed, lines))),
    )


def _lines(content: bytes) -> list[str]:
    """Lines with their ends. Only a line feed ends one, as in git."""
    *lines, last = content.decode().split("\n")
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def _closed(line: str) -> tuple[str, ...]:
    return (line,) if line.endswith("\n") else (line, "\n\\ No newline at end of file\n")
