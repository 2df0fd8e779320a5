"""``spark-kit.json`` in a rewritten tree: from what, by which rewrites, and with what outcome.

Format: JSON with sorted keys::

    {"changed": {"<file>": ["<rewrite>", …]}, "commit": …, "digest": …,
     "files": {"<file>": "<sha256>"}, "groups": […], "kit": "<version>", "repository": …,
     "rewrites": […], "version": 1}
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.errors import IntegrityError
from kit.records import read_object

MANIFEST_NAME = "spark-kit.json"
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a rewritten tree is.

    Attributes:
        kit: version of the kit that made it.
        repository, commit: upstream's, as pinned in the lock.
        digest: of the choice of rewrites, see ``kit.upstream.selection.rewrite_digest``.
        groups, rewrites: the names of the choice.
        changed: the files that are not upstream's, each with the rewrites that made it so.
        files: sha256 of every file, by path in the repository.
    """

    kit: str
    repository: str
    commit: str
    digest: str
    groups: tuple[str, ...]
    rewrites: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    files: Mapping[str, str]


def manifest_text(manifest: Manifest) -> str:
    """The content of the file; equal manifests give equal text."""
    return json.dumps({"version": _VERSION} | asdict(manifest), indent=2, sort_keys=True) + "\n"


def read_manifest(root: Path) -> Manifest | None:
    """The manifest of the tree at ``root``; None if there is none.

    Raises:
        IntegrityError: it is damaged, or of a newer version.
    """
    path = root / MANIFEST_NAME
    try:
        content = read_object(path)
        if content.pop("version") != _VERSION:
            raise ValueError("unknown version")
        manifest = Manifest(
            kit=str(content.pop("kit")),
            repository=str(content.pop("repository")),
            commit=str(content.pop("commit")),
            digest=str(content.pop("digest")),
            groups=tuple(content.pop("groups")),
            rewrites=tuple(content.pop("rewrites")),
            changed={file: tuple(names) for file, names in content.pop("changed").items()},
            files=dict(content.pop("files").items()),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} is damaged", hint="make the tree again: kit upstream render"
        ) from error
    return manifest
