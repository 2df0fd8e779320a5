"""A stub of NVIDIA's driver library, compiled here, so that the real bindings run without a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "unit" / "memory" / "nvml_stub.c"


def build(folder: Path) -> Path:
    """``folder`` with libnvidia-ml.so.1 in it, as a dynamic linker looks for it."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", library, SOURCE], check=True)
    return folder


def environ(driver: Path, scenario: str | None) -> dict[str, str]:
    """The environment of a program that is to find the stub, playing ``scenario``."""
    chosen = {"STUB_SCENARIO": scenario} if scenario else {}
    hidden = ("CUDA_VISIBLE_DEVICES", "STUB_SCENARIO")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "LD_LIBRARY_PATH": str(driver), **chosen}


def run(driver: Path, code: str, scenario: str | None = None) -> str:
    """What the Python program ``code`` prints with the stub as its driver."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ(driver, scenario),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
