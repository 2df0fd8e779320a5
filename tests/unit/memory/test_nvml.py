import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit.memory import nvml
from kit.memory.nvml import Gpu, visible
from kit.memory.unavailable import Unavailable
from kit.units import GIB

A = Gpu(0, "GPU-aaaa", "Stub 24", 24 * GIB, 1 * GIB, "580.65.06")
B = Gpu(1, "GPU-bbbb", "Stub 24", 24 * GIB, 2 * GIB, "580.65.06")


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, (A, B)),
        ("0", (A,)),
        ("1,0", (B, A)),
        ("GPU-b", (B,)),
        ("0,7,1", (A,)),
        ("", ()),
        ("-1", ()),
    ],
)
def test_visible(variable, expected):
    environ = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert visible((A, B), environ) == expected


def test_free_bytes():
    assert B.free_bytes == 22 * GIB


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_there_is_a_reason():
    found = nvml.gpus()
    assert isinstance(found, Unavailable)
    assert found.reason.startswith(("no NVIDIA driver answers", "the Python package nvidia-ml-py"))
    assert isinstance(nvml.processes_bytes({1}), Unavailable)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Folder of a stub driver library, so that the real bindings run."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("nvml_stub.c")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


def ask(driver, expression, **environ):
    code = (
        f"import json; from kit.memory import nvml; print(json.dumps({expression}, default=vars))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_gpus(driver):
    assert [Gpu(**gpu) for gpu in ask(driver, "nvml.gpus()")] == [A, B]


def test_memory_of_a_process(driver):
    assert ask(driver, "nvml.processes_bytes({4711, 1})") == 3 * GIB


def test_process_that_is_not_listed(driver):
    found = ask(driver, "nvml.processes_bytes({1})")
    assert found == {"reason": "NVML lists no process of the service"}


def test_driver_that_hides_figures(driver):
    found = ask(driver, "nvml.processes_bytes({4711})", STUB_NO_FIGURES="1")
    assert found == {"reason": "NVML does not tell the memory of single processes here"}


def test_driver_that_is_not_loaded(driver):
    found = ask(driver, "nvml.gpus()", STUB_NO_DRIVER="1")
    assert found["reason"].startswith("no NVIDIA driver answers")
