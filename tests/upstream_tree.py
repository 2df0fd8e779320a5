"""A stand-in for the upstream repo: our own small files, at upstream's paths, in a git repository.

It is made from the kit's rewrites. In each file that a rewrite edits stands what that rewrite looks
for - its texts as strings, its definitions as empty ones - so every rewrite fits, whichever are
there, and the files are Python before and after. It proves how a tree is fetched, verified,
rewritten and put into an image; what the rewrites do to the real code is proven with the real repo
(KIT_UPSTREAM_DIR).

kit.lock does not fit it, so it brings a lock of its own, which is the kit's in everything but
upstream. It is named with ``--lock`` or ``KIT_UPSTREAM_LOCK``, in a running service as well; in the
context of an image build it takes the place of ``kit.lock``. For that, from the checkout::

    python -m tests.upstream_tree DIR    # writes DIR/repository (a clone) and DIR/kit.lock
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kit.lock import Lock, read_lock, write_lock
from kit.settings import bundled
from kit.upstream.git import pin
from kit.upstream.render import MEGATRON
from kit.upstream.rewrite import Definition, Edit, Rewrite, Text, find_drift
from kit.upstream.selection import all_rewrites

OWN = {
    "LICENSE": "A stand-in: no licence is needed.\n",
    "LICENSE_MODEL.md": "A stand-in: there is no model.\n",
    "README.md": "This is outside of what the kit takes.\n",
    f"{MEGATRON}/megatron/__init__.py": '"""A stand-in."""\n',
    f"{MEGATRON}/megatron/text_generation/__init__.py": "",
    f"{MEGATRON}/tools/stand_in.py": 'print("a stand-in")\n',
}
_GIT = ("git", "-c", "user.name=stand-in", "-c", "user.email=stand-in@example.org")
_ENVIRON = os.environ | {
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
    "GIT_CONFIG_GLOBAL": os.devnull,
}
_QUOTES = ("'''", '"""')


@dataclass(frozen=True)
class StandIn:
    """Where it lies: a clone, and the lock file that pins its commit."""

    repository: Path
    commit: str
    lock_path: Path

    @property
    def lock(self) -> Lock:
        return read_lock(self.lock_path)


def make_stand_in(folder: Path, rewrites: Iterable[Rewrite] | None = None) -> StandIn:
    """Write the repository and its lock into ``folder``. The same rewrites give the same commit."""
    repository = folder / "repository"
    for name, content in stand_in_files(rewrites).items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(repository, "init", "--quiet", "--initial-branch=master")
    commit = commit_all(repository)
    lock = pin(read_lock(bundled("kit.lock")), str(repository), commit)
    write_lock(folder / "kit.lock", replace(lock, repository="https://example.org/stand-in"))
    return StandIn(repository, commit, folder / "kit.lock")


def stand_in_files(rewrites: Iterable[Rewrite] | None = None) -> dict[str, str]:
    """The stand-in's files by path in the repository."""
    chosen = tuple(all_rewrites() if rewrites is None else rewrites)
    paths = sorted({path for rewrite in chosen for path in rewrite.edits})
    made = {
        path: _file(path, [edit for each in chosen for edit in each.edits.get(path, ())])
        for path in paths
    }
    content = {path: text.encode() for path, text in made.items()}
    assert not [str(drift) for rewrite in chosen for drift in find_drift(rewrite, content)]
    return OWN | {f"{MEGATRON}/{path}": text for path, text in made.items()}


def git(repository: Path, *arguments: str) -> str:
    """Run git in ``repository``."""
    command = [*_GIT, "-C", str(repository), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_ENVIRON)
    return done.stdout.strip()


def commit_all(repository: Path) -> str:
    """Commit everything that is there; the commit's name."""
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=stand-in")
    return git(repository, "rev-parse", "HEAD")


def _file(path: str, edits: list[Edit]) -> str:
    """A file in which every edit fits."""
    if not path.endswith(".py"):
        return _with_texts("", edits, "{}\n")
    names = {edit.name for edit in edits if isinstance(edit, Definition)}
    used = "".join(f"{edit.find}{edit.replace}" for edit in edits if isinstance(edit, Text))
    quotes = next(each for each in _QUOTES if each not in used)
    return _with_texts("".join(_definitions(names, "")), edits, f"r{quotes}\n{{}}\n{quotes}\n")


def _definitions(names: set[str], indent: str) -> list[str]:
    """Empty definitions of qualified names; what has others inside is a class."""
    lines = []
    for name in sorted({name.split(".")[0] for name in names}):
        inside = {each.removeprefix(f"{name}.") for each in names if each.startswith(f"{name}.")}
        is_class = inside or name[:1].isupper()
        lines.append(f"{indent}class {name}:\n" if is_class else f"{indent}def {name}():\n")
        lines.append(f'{indent}    """A stand-in."""\n')
        lines += _definitions(inside, f"{indent}    ")
    return lines


def _with_texts(text: str, edits: list[Edit], block: str) -> str:
    """Add the texts that edits look for, as often as each must be found; long ones hold others."""
    finds = {edit.find: edit.count for edit in edits if isinstance(edit, Text)}
    for find in sorted(finds, key=len, reverse=True):
        text += block.format(find) * (finds[find] - text.count(find))
    return text


if __name__ == "__main__":
    made = make_stand_in(Path(sys.argv[1]))
    print(f"{made.repository} holds {made.commit}, {made.lock_path} pins it")
