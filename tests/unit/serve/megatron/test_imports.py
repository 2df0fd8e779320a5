"""A tree's source is what runs, whatever lies in its ``__pycache__``."""

import importlib.machinery
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

TAG = sys.implementation.cache_tag
SHOW = "import package.module, json; print(package.module.SAYS, json.loads('1'))"
FIND = "import importlib.util; importlib.util.find_spec('package.module')"
START = (
    "from kit.serve.megatron.imports import import_source_only as only\nfrom pathlib import Path"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package with compiled Python of its source's time and size that does something else."""
    root = tmp_path / "tree"
    module = root / "package" / "module.py"
    module.parent.mkdir(parents=True)
    (root / "package" / "__init__.py").write_text("")
    module.write_text("SAYS = 'forged'\n")
    os.utime(module, (1000, 1000))
    py_compile.compile(str(module), doraise=True)
    module.write_text("SAYS = 'source'\n")
    os.utime(module, (1000, 1000))
    return root


def run(tree: Path, program: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    program = f"import sys; sys.path.insert(0, {str(tree)!r})\n{program}\n{SHOW}"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_python_alone_believes_what_was_compiled(tree: Path) -> None:
    assert run(tree, "") == "forged 1"


def test_the_source_is_what_runs_and_nothing_is_left_behind(tree: Path, tmp_path: Path) -> None:
    assert run(tree, f"{START}\nonly(Path({str(tree)!r}))") == "source 1"
    link = tmp_path / "link"
    link.symlink_to(tree)
    assert run(link, f"{START}\nonly(Path({str(tree)!r}))") == "source 1"
    assert [path.name for path in tree.rglob("*.pyc")] == [f"module.{TAG}.pyc"]


def test_what_python_has_looked_up_before_is_looked_up_again(tree: Path) -> None:
    assert run(tree, f"{FIND}\n{START}\nonly(Path({str(tree)!r}))") == "source 1"


def test_what_is_compiled_beside_the_source_is_not_imported(tree: Path) -> None:
    """Python alone would take an extension module, even in place of a source file."""
    (suffix, *_) = importlib.machinery.EXTENSION_SUFFIXES
    for name in ("module", "helpers"):
        (tree / "package" / f"{name}{suffix}").write_bytes(b"no library")
    program = f"{START}\nonly(Path({str(tree)!r}))"
    assert run(tree, program) == "source 1"
    missing = (
        "try:\n    import package.helpers\nexcept ModuleNotFoundError as e:\n    print(e.name)"
    )
    assert run(tree, f"{program}\n{missing}") == "package.helpers\nsource 1"
