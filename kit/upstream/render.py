"""The rewritten tree: made from pristine files in memory, written whole, shown as a diff."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import kit
from kit.errors import UsageError
from kit.files import exclusive
from kit.lock import Lock
from kit.upstream.files import (
    MANIFEST_NAME,
    Manifest,
    difference,
    manifest_text,
    read_folder,
    write_tree,
)
from kit.upstream.rewrite import ADDED_PREFIX, Rewrite, added_files, apply_rewrites
from kit.upstream.selection import rewrite_digest

MEGATRON = "deepspeed-megatron"
"""The folder of the repository that the rewrites work in."""

_SCRIPTS = {".py", ".sh"}
_FIRST_LINES = re.compile(r"(?:#!.*\n)?(?:#.*coding[:=].*\n)?")


@dataclass(frozen=True)
class Rendered:
    """A rewritten tree, in memory.

    Attributes:
        content: every file by path in the repository.
    """

    content: Mapping[str, bytes]
    manifest: Manifest


def render(pristine: Mapping[str, bytes], rewrites: Iterable[Rewrite], lock: Lock) -> Rendered:
    """Apply ``rewrites`` to upstream's files, given by path in the repository.

    Raises:
        IntegrityError: a rewrite does not fit; it names the rewrite, the file and the counts.
        ValueError: the rewrites contradict each other.
    """
    chosen = tuple(rewrites)
    changed = changed_files(chosen)
    inside = {
        file.removeprefix(f"{MEGATRON}/"): content
        for file, content in pristine.items()
        if file.startswith(f"{MEGATRON}/")
    }
    result = {f"{MEGATRON}/{file}": new for file, new in apply_rewrites(chosen, inside).items()}
    noted = {
        file: _with_notice(file, new, changed[file]) if file in pristine else new
        for file, new in result.items()
    }
    content = dict(sorted({**pristine, **noted}.items()))
    manifest = Manifest(
        kit=kit.__version__,
        repository=lock.repository,
        commit=lock.commit,
        digest=rewrite_digest(chosen),
        groups=tuple(dict.fromkeys(rewrite.group for rewrite in chosen)),
        rewrites=tuple(rewrite.name for rewrite in chosen),
        changed=changed,
        files={file: hashlib.sha256(data).hexdigest() for file, data in content.items()},
    )
    return Rendered(content, manifest)


def changed_files(rewrites: Iterable[Rewrite]) -> dict[str, tuple[str, ...]]:
    """Which files are changed or added, by path in the repository, and by which rewrites."""
    changed: dict[str, list[str]] = {}
    for rewrite in rewrites:
        added = (f"{ADDED_PREFIX}/{name}" for name in added_files([rewrite]))
        for file in (*rewrite.edits, *added):
            changed.setdefault(f"{MEGATRON}/{file}", []).append(rewrite.name)
    return {file: tuple(names) for file, names in sorted(changed.items())}


def write_rendered(rendered: Rendered, output: Path) -> bool:
    """Put a rewritten tree at ``output``, whole or not at all. False: it was there already.

    Raises:
        UsageError: something else is there.
        EnvironmentNotReady: it cannot be written, or another process is doing so.
    """
    text = manifest_text(rendered.manifest).encode()
    if _is_there(rendered, output, text):
        return False
    with exclusive(output, "writing"):
        _require_ours(output)
        write_tree(output, {**rendered.content, MANIFEST_NAME: text})
    return True


def _is_there(rendered: Rendered, output: Path, manifest: bytes) -> bool:
    try:
        if (output / MANIFEST_NAME).read_bytes() != manifest:
            return False
    except OSError:
        return False
    expected = rendered.manifest.files
    return not difference(read_folder(output, expected), expected)


def _require_ours(output: Path) -> None:
    free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not free and not (output / MANIFEST_NAME).is_file():
        raise UsageError(
            f"{output} exists and is not a rewritten tree", hint="choose another --output"
        )


def _with_notice(file: str, content: bytes, rewrites: Iterable[str]) -> bytes:
    """Say in the file itself that it was changed, as upstream's licence asks (Apache-2.0, 4b)."""
    if PurePosixPath(file).suffix not in _SCRIPTS:
        return content
    text = content.decode()
    place = _FIRST_LINES.match(text)
    at = place.end() if place else 0
    return f"{text[:at]}# Changed by spark-kit: {', '.join(rewrites)}.\n{text[at:]}".encode()


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
