"""Filling the wheelhouse, from a folder of packages that stands for an index."""

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from kit.containers.image import checkout
from kit.containers.wheelhouse import default_python, fill
from kit.errors import KitError, UsageError

TORCH_CPU = "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl"
TORCH_CUDA = "torch-2.10.0-cp312-cp312-manylinux_2_28_x86_64.whl"
FOR_THE_BUILD = "tool-1.0-py3-none-any.whl"
FOR_THE_IMAGE = "numpy-2.4.6-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that pip looks into."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path, index: Path) -> Path:
    """A checkout whose requirements are four small wheels, all of them in the index."""
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    for name, wheel in {
        "image-build.txt": FOR_THE_BUILD,
        "image.txt": FOR_THE_IMAGE,
        "torch-cpu.txt": TORCH_CPU,
        "torch-cuda12.txt": TORCH_CUDA,
    }.items():
        sha256 = make_wheel(index / wheel)
        package, version = wheel.split("-")[:2]
        (requirements / name).write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
    return tmp_path


def make_wheel(path: Path) -> str:
    """Write a wheel that holds nothing; returns its sha256."""
    package, version, *tags = path.name.removesuffix(".whl").split("-")
    info = f"{package}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {'-'.join(tags)}\n",
    }
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_holds_what_the_image_needs_for_another_python(root: Path) -> None:
    said: list[str] = []
    folder = fill("cpu", "3.12", root, said.append)
    assert folder == root / "wheelhouse"
    assert names(folder) == {FOR_THE_BUILD, FOR_THE_IMAGE, TORCH_CPU}
    assert said[-1] == "fetching torch (cpu)"


def test_without_a_cpu_build_of_torch_the_cuda_build_is_taken_and_said(
    root: Path, index: Path
) -> None:
    (index / TORCH_CPU).unlink()
    said: list[str] = []
    assert TORCH_CUDA in names(fill("cpu", "3.12", root, said.append))
    assert any("no CPU build of torch" in line for line in said)


def test_what_is_not_as_its_hash_says_is_refused(root: Path, index: Path) -> None:
    with zipfile.ZipFile(index / FOR_THE_IMAGE, "a") as archive:
        archive.writestr("numpy/added.py", "")
    with pytest.raises(KitError, match=r"image\.txt"):
        fill("cpu", "3.12", root, lambda line: None)


def test_a_python_that_no_image_runs_on_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match=r"3\.9"):
        fill("cpu", "3.9", root, lambda line: None)


def test_the_python_of_a_base_is_in_its_name() -> None:
    dockerfile = checkout() / "docker/Dockerfile"
    assert default_python(dockerfile, None) == "3.12"
    assert default_python(dockerfile, "mirror.example.org/library/python:3.11-slim") == "3.11"
    with pytest.raises(UsageError, match="mine/base"):
        default_python(dockerfile, "mine/base")
