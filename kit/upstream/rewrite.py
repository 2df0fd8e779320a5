"""A rewrite: one strict, named fix of the pinned upstream tree, and how it is applied.

Every edit is located in the pristine text, never in the text another edit has made. It must match
exactly as often as it says, and no two edits may overlap. All files are made in memory; whoever
writes them does so only when every edit of every rewrite fits.
"""

import ast
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kit.errors import IntegrityError

Group = Literal["portability", "loading-cpu-first", "loading-stream", "memory-serving"]

ADDED_DIR = Path(__file__).parent / "added"
ADDED_PREFIX = "megatron/spark_kit"
"""Where the kit's own files lie in the rewritten tree."""

Span = tuple[int, int, str]
"""Start and end of a stretch of a file's text, in characters, and what stands there instead."""

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Text:
    """Replace an exact text.

    Attributes:
        find: the text to look for, line breaks included; as short as it can be.
        replace: what stands there instead, at every match.
        count: how often ``find`` must be there.
    """

    find: str
    replace: str
    count: int = 1

    def __post_init__(self) -> None:
        if not self.find or self.count < 1:
            raise ValueError("a text to find, at least once, is needed")

    def __str__(self) -> str:
        return repr(textwrap.shorten(self.find, 60, placeholder=" …"))

    def matches(self, text: str) -> list[Span]:
        """Where it is in ``text``."""
        found = re.finditer(re.escape(self.find), text)
        return [(match.start(), match.end(), self.replace) for match in found]


@dataclass(frozen=True)
class Definition:
    """Replace the whole source of a function, method or class, its decorators included.

    Attributes:
        name: the qualified name, such as ``CoreAttention.forward``. It must be there once.
        replace: our source, dedented; it gets the indentation of what it replaces.
    """

    name: str
    replace: str
    count: int = 1

    def __str__(self) -> str:
        return f"definition {self.name}"

    def matches(self, text: str) -> list[Span]:
        """Where it is in ``text``, which must be Python; nowhere if it is not."""
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return []
        lines = text.split("\n")
        starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
        spans = []
        for node in _definitions(tree, self.name):
            first = min(each.lineno for each in (node, *node.decorator_list)) - 1
            last = (node.end_lineno or node.lineno) - 1
            line = lines[first]
            indent = line[: len(line) - len(line.lstrip())]
            source = textwrap.indent(textwrap.dedent(self.replace).strip("\n"), indent)
            spans.append((starts[first], starts[last] + len(lines[last]), source))
        return spans


Edit = Text | Definition


@dataclass(frozen=True)
class Rewrite:
    """A named set of edits that belong together.

    Attributes:
        name: its name, in words joined by hyphens.
        group: what it is for; groups are selected together.
        why: what goes wrong without it.
        retire_when: what must be true for it to be dropped.
        edits: by file, relative to upstream's ``deepspeed-megatron`` folder.
        adds: files of ``kit/upstream/added`` that the edits call; they are put into
            ``megatron/spark_kit``.
    """

    name: str
    group: Group
    why: str
    retire_when: str
    edits: Mapping[str, tuple[Edit, ...]]
    adds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drift:
    """An edit that does not fit the tree. ``found`` is None where the file itself is missing."""

    rewrite: str
    file: str
    edit: str
    expected: int
    found: int | None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.rewrite}: {self.file} is missing"
        times = f"expected {self.expected} times, found {self.found}"
        return f"{self.rewrite}: {self.file}: {self.edit} {times}"


def find_drift(rewrite: Rewrite, pristine: Mapping[str, bytes]) -> list[Drift]:
    """The edits of ``rewrite`` that do not fit ``pristine`` (file content by path)."""
    drift = []
    for file, edits in rewrite.edits.items():
        text = pristine[file].decode(errors="replace") if file in pristine else None
        for edit in edits:
            found = None if text is None else len(edit.matches(text))
            if found != edit.count:
                drift.append(Drift(rewrite.name, file, str(edit), edit.count, found))
    return drift


def apply_rewrites(rewrites: Iterable[Rewrite], pristine: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that ``rewrites`` change or add, with their new content.

    Args:
        pristine: upstream's files by path relative to ``deepspeed-megatron``.

    Raises:
        IntegrityError: an edit does not match its count; every such edit is named.
        ValueError: rewrites contradict each other: edits overlap, the result is no Python, or an
            added file is there already.
    """
    chosen = tuple(rewrites)
    if drift := [drift for rewrite in chosen for drift in find_drift(rewrite, pristine)]:
        raise IntegrityError(
            "the upstream tree does not fit: " + "; ".join(map(str, drift)),
            hint="this is not the pinned commit: kit upstream fetch gets it; "
            "for a newer one, kit/upstream/rewrites has to follow",
        )
    files = sorted({file for rewrite in chosen for file in rewrite.edits})
    changed = {file: _edited(file, pristine[file].decode(), chosen).encode() for file in files}
    added = {f"{ADDED_PREFIX}/{name}": read_added(name) for name in added_files(chosen)}
    if already := added.keys() & pristine.keys():
        raise ValueError(f"{min(already)} is there already")
    return changed | added


def added_files(rewrites: Iterable[Rewrite]) -> list[str]:
    """The files of ``kit/upstream/added`` to add; a package needs its ``__init__.py``."""
    names = {name for rewrite in rewrites for name in rewrite.adds}
    return sorted(names | {"__init__.py"}) if names else []


def read_added(name: str) -> bytes:
    """The content of a file of ``kit/upstream/added``."""
    return (ADDED_DIR / name).read_bytes()


def _edited(file: str, text: str, rewrites: tuple[Rewrite, ...]) -> str:
    placed = sorted(
        (*span, rewrite.name)
        for rewrite in rewrites
        for edit in rewrite.edits.get(file, ())
        for span in edit.matches(text)
    )
    for (_, end, _, one), (start, _, _, other) in itertools.pairwise(placed):
        if start < end:
            raise ValueError(f"{file}: edits of {one} and {other} overlap at character {start}")
    pieces, position = [], 0
    for start, end, replacement, _ in placed:
        pieces += [text[position:start], replacement]
        position = end
    result = "".join(pieces) + text[position:]
    if file.endswith(".py"):
        _require_python(file, result, sorted({name for *_, name in placed}))
    return result


def _require_python(file: str, text: str, names: list[str]) -> None:
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{file} is no Python after {', '.join(names)}: {error}") from error


def _definitions(
    tree: ast.AST, name: str, prefix: str = ""
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Every definition of that qualified name, also inside ``if`` and ``try``."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, _DEFINITIONS):
            yield from _definitions(node, name, prefix)
            continue
        if prefix + node.name == name:
            yield node
        yield from _definitions(node, name, f"{prefix}{node.name}.")
