import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from kit.memory.probes import nvml
from kit.memory.probes.nvml import Gpu, GpuProcess, NoDriver, Nvidia, visible
from kit.memory.unavailable import Unavailable
from kit.units import GIB, MIB
from tests import nvml_driver

PYTHON = GpuProcess(4711, "python3", 3 * GIB)
A = Gpu(0, "GPU-aaaa", "Stub 24", 24 * GIB, 1 * GIB, "580.65.06", (8, 9), (PYTHON,))
B = Gpu(1, "GPU-bbbb", "Stub 24", 24 * GIB, 2 * GIB, "580.65.06", (8, 9), ())
ONE = Gpu(0, "MIG-cccc", "Stub 80 MIG 3g.40gb", 40 * GIB, GIB // 4, "580.65.06", (8, 0), ())
TWO = Gpu(0, "MIG-dddd", "Stub 80 MIG 2g.20gb", 20 * GIB, GIB // 4, "580.65.06", (8, 0), ())
CUT = Gpu(0, "GPU-aaaa", "Stub 80", 80 * GIB, 1 * GIB, "580.65.06", (8, 0), (), (ONE, TWO))
UNTOLD = Unavailable("NVML does not tell (Not Supported)")


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


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(None, (ONE,)), ("0", (ONE,)), ("MIG-dddd", (TWO,)), ("GPU-aaaa", ()), ("MIG-e", ())],
)
def test_of_a_gpu_in_mig_mode_an_instance_is_visible(variable, expected):
    environ = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert visible((CUT,), environ) == expected


def test_a_gpu_in_mig_mode_without_instances_is_of_no_use():
    assert visible((replace(CUT, instances=()), B), {}) == (B,)


def test_free_bytes():
    assert B.free_bytes == 22 * GIB
    assert replace(B, used_bytes=UNTOLD).free_bytes == UNTOLD
    assert replace(B, total_bytes=UNTOLD).free_bytes == UNTOLD


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_there_is_a_reason():
    found = nvml.gpus()
    assert isinstance(found, NoDriver)
    assert found.cause in ("library", "bindings")
    assert found.reason.startswith(("no NVIDIA driver answers", "the Python package nvidia-ml-py"))
    assert isinstance(nvml.processes_bytes({1}), Unavailable)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return nvml_driver.build(tmp_path_factory.mktemp("driver"))


def ask(driver, expression, scenario=None):
    code = "import pickle; from kit.memory.probes import nvml; "
    code += f"print(pickle.dumps({expression}).hex())"
    return pickle.loads(bytes.fromhex(nvml_driver.run(driver, code, scenario)))  # noqa: S301


def test_two_gpus(driver):
    assert ask(driver, "nvml.probe()") == Nvidia("580.65.06", (13, 0), (A, B))
    assert ask(driver, "nvml.gpus()") == (A, B)


def test_memory_of_a_process(driver):
    assert ask(driver, "nvml.processes_bytes({4711, 1})") == 3 * GIB
    assert ask(driver, "nvml.processes_bytes_by_gpu({4711, 1})") == {0: 3 * GIB}


def test_process_that_is_not_listed(driver):
    found = ask(driver, "nvml.processes_bytes({1})")
    assert found == Unavailable("NVML lists no process of the service")


def test_hidden_figures(driver):
    reason = Unavailable("NVML does not tell the memory of single processes here")
    assert ask(driver, "nvml.processes_bytes({4711})", "hidden") == reason
    gpu, _ = ask(driver, "nvml.gpus()", "hidden")
    assert gpu.processes == (GpuProcess(4711, "python3", reason),)
    assert gpu.free_bytes == 23 * GIB


@pytest.mark.parametrize(
    ("scenario", "cause", "words"),
    [
        ("no-driver", "not loaded", "no NVIDIA driver answers (Driver Not Loaded)"),
        ("mismatch", "mismatch", "version mismatch"),
        ("lost", "lost", "NVML failed (GPU 0: GPU is lost)"),
        ("unknown", "lost", "NVML failed (GPU 0: Unknown Error)"),
    ],
)
def test_no_answer(driver, scenario, cause, words):
    found = ask(driver, "nvml.probe()", scenario)
    assert isinstance(found, NoDriver)
    assert found.cause == cause
    assert words in found.reason
    assert ask(driver, "nvml.gpus()", scenario) == found
    if cause != "lost":
        assert ask(driver, "nvml.processes_bytes({4711})", scenario) == found


def test_a_lost_gpu_does_not_hide_the_others(driver):
    found = ask(driver, "nvml.probe()", "one-lost")
    assert (found.gpus, found.lost) == ((A,), ("GPU 1: GPU is lost",))
    assert ask(driver, "nvml.processes_bytes({4711})", "one-lost") == 3 * GIB


def test_what_cannot_be_true_is_unknown(driver):
    gpu = ask(driver, "nvml.gpus()", "nonsense")[0]
    assert isinstance(gpu.total_bytes, Unavailable)
    assert isinstance(gpu.free_bytes, Unavailable)


def test_driver_without_a_gpu(driver):
    assert ask(driver, "nvml.probe()", "no-gpu") == Nvidia("580.65.06", (13, 0), ())


def test_mig(driver):
    assert ask(driver, "nvml.gpus()", "mig") == (CUT,)
    assert ask(driver, "nvml.gpus()", "mig-empty") == (replace(CUT, instances=()),)


def test_other_tenants_are_named_and_counted_once(driver):
    (gpu,) = ask(driver, "nvml.gpus()", "tenants")
    assert gpu.free_bytes == 5 * GIB // 2
    assert gpu.processes == (
        GpuProcess(4712, "ollama", 35 * GIB // 2),
        PYTHON,
        GpuProcess(4713, "Xorg", 512 * MIB),
    )


def test_what_is_not_told_is_unavailable_one_by_one(driver):
    found = ask(driver, "nvml.probe()", "silent")
    gpu = Gpu(0, "GPU-aaaa", "Stub 24", UNTOLD, UNTOLD, "580.65.06", UNTOLD, UNTOLD)
    assert found == Nvidia("580.65.06", UNTOLD, (gpu,))


def test_a_driver_with_an_older_interface(driver):
    found = ask(driver, "nvml.probe()", "old")
    assert (found.driver, found.cuda) == ("515.105.01", (11, 7))
    assert found.gpus[0].processes == Unavailable("this driver is too old to tell")
    assert isinstance(ask(driver, "nvml.processes_bytes({4711})", "old"), NoDriver)
