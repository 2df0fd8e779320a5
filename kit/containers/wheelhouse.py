"""The wheelhouse: every Python package that an image is built from, in a folder.

With it an image is built without a package index: on a server without a network, or from an index
that only this machine reaches. Everything is checked against the hashes of ``requirements``.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kit.containers.image import Target, pinned_base
from kit.errors import EnvironmentNotReady, KitError, UsageError

PYTHONS = ("3.11", "3.12")
_GLIBC_MINORS = range(28, 4, -1)
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in _GLIBC_MINORS),
    "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64",
)  # fmt: skip
_PYTHON_TAG = re.compile(r"python:(3\.\d+)")


def fill(target: Target, python: str, root: Path, say: Callable[[str], None]) -> Path:
    """Fetch what the image ``target`` needs into the checkout's ``wheelhouse``; returns that.

    What is there already is not fetched again. Where there is no CPU build of torch to be had, the
    CUDA build is taken, which runs on a CPU too; the image's build does the same.

    Args:
        python: of the base image, such as ``3.12``.
        say: called with each line of progress.

    Raises:
        UsageError: ``python`` is not one that the images run on.
        KitError: something cannot be fetched, or is not what its hash says.
    """
    if python not in PYTHONS:
        raise UsageError(f"no image runs on Python {python}", hint=f"{' or '.join(PYTHONS)}")
    folder = root / "wheelhouse"
    folder.mkdir(exist_ok=True)
    requirements = root / "requirements"
    with tempfile.TemporaryDirectory(prefix="spark-kit-") as scratch:
        pip = _pip_of_the_build(Path(scratch), requirements, say)
        download = (*pip, "download", "--dest", str(folder), "--no-deps", "--no-build-isolation")
        download += ("--python-version", python, "--implementation", "cp")
        download += tuple(word for name in _PLATFORMS for word in ("--platform", name))
        say(f"fetching the packages of the image for Python {python}")
        _require(download, requirements / "image-build.txt", requirements / "image.txt")
        say(f"fetching torch ({target})")
        if target == "cpu" and not _succeeds(download, requirements / "torch-cpu.txt"):
            say("no CPU build of torch here: fetching the CUDA build (about 3 GB), which runs on")
            say("the CPU too")
            target = "cuda"
        if target == "cuda":
            _require(download, requirements / "torch-cuda12.txt")
    return folder


def default_python(dockerfile: Path, base_image: str | None) -> str:
    """The Python of a base image, by its name: ``python:3.12-…`` has 3.12.

    Raises:
        UsageError: the name does not tell.
    """
    name = base_image or pinned_base(dockerfile)
    if found := _PYTHON_TAG.search(name):
        return found[1]
    raise UsageError(
        f"which Python is in {name} cannot be told from its name",
        hint="say it with --python, or make wheelhouse IMAGE_PYTHON=3.12",
    )


def _pip_of_the_build(
    scratch: Path, requirements: Path, say: Callable[[str], None]
) -> tuple[str, ...]:
    """The pip that builds the images, with what it needs to look into packages of source."""
    say("setting up the pip that builds the images")
    if subprocess.run((sys.executable, "-m", "venv", scratch / "build"), check=False).returncode:
        raise EnvironmentNotReady(
            "no virtual environment can be made with this Python",
            hint="install its venv module (Debian: python3-venv)",
        )
    pip = (str(scratch / "build/bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet")
    _require((*pip, "install"), requirements / "image-build.txt")
    return pip


def _require(command: Sequence[str], *files: Path) -> None:
    if not _succeeds(command, *files):
        raise KitError(
            f"pip could not fetch what {' and '.join(file.name for file in files)} lists",
            hint="read what pip printed above; an index is named with PIP_INDEX_URL, a folder of "
            "packages with PIP_FIND_LINKS",
        )


def _succeeds(command: Sequence[str], *files: Path) -> bool:
    options = [word for file in files for word in ("--requirement", str(file))]
    return subprocess.run((*command, "--require-hashes", *options), check=False).returncode == 0
