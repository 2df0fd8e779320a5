import re
from pathlib import Path

import pytest

from kit.doctor.gather import image, torch
from kit.memory.unavailable import Unavailable

REQUIREMENTS = Path(__file__).parents[4] / "requirements"
VERSION = """from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda}
git_version = 'cf30153c4c131c8164ee7798e5022d810682e2cb'
"""


@pytest.fixture
def package(tmp_path):
    def make(version: str, cuda: str, library: bytes | None = None) -> Path:
        (tmp_path / "version.py").write_text(VERSION.format(version=version, cuda=cuda))
        (tmp_path / "lib").mkdir()
        if library is not None:
            (tmp_path / "lib/libtorch_python.so").write_bytes(library)
        return tmp_path

    return make


def test_build_without_cuda(package):
    found = torch.read(package("2.13.0+cpu", "None"))
    assert (found.version, found.cuda, found.architectures) == ("2.13.0+cpu", None, ())


def test_architectures_that_are_compiled_in(package):
    library = b"\x7fELF..sm_70 is text\0 _sm_80\0\0sm_86 sm_90a compute_90\0more\0"
    found = torch.read(package("2.9.1+custom", "'12.8'", library))
    assert found.cuda == (12, 8)
    assert found.architectures == ("sm_86", "sm_90a", "compute_90")
    assert found.source.endswith("lib/libtorch_python.so")


def test_a_build_for_one_architecture(package):
    found = torch.read(package("2.13.0a0", "'13.0.1'", b"\0sm_89\0"))
    assert (found.cuda, found.architectures) == ((13, 0), ("sm_89",))


@pytest.mark.parametrize("library", [None, b"", b"nothing of the kind\0"])
def test_else_the_table_of_wheels(package, library):
    found = torch.read(package("2.10.0+cu128", "'12.8'", library))
    assert found.architectures == torch.WHEELS["2.10"]
    assert found.source == "the wheels of torch 2.10"


def test_a_release_that_the_table_does_not_know(package):
    found = torch.read(package("2.99.0", "'15.0'"))
    assert found.architectures == Unavailable("the architectures of torch 2.99.0 are not known")


def test_the_installed_build_is_what_torch_says():
    installed = pytest.importorskip("torch", reason="torch is not installed")
    found = torch.read(Path(installed.__file__).parent)
    assert found.version == installed.__version__
    says = installed.version.cuda
    assert found.cuda == (None if says is None else tuple(map(int, says.split(".")[:2])))
    if found.cuda is not None:
        assert list(found.architectures) == installed._C._cuda_getArchFlags().split()


def test_the_images_torch_is_what_its_requirements_pin():
    text = (REQUIREMENTS / "torch-cuda12.txt").read_text()
    assert re.search(r"^torch==(\S+)", text, re.MULTILINE)[1] == image.TORCH
    runtime = re.search(r"^nvidia-cuda-runtime-cu12==(\d+)\.(\d+)", text, re.MULTILINE)
    assert (int(runtime[1]), int(runtime[2])) == image.CUDA
