"""What weights are fetched for: the GPU that `kit up` would take."""

import pytest

from kit.memory.probes import nvml
from kit.memory.probes.nvml import Gpu
from kit.settings import Settings
from kit.units import GIB
from kit.weights.fetch.obtain import fitting_precision

SMALL = Gpu(0, "GPU-small", "12 GiB", 12 * GIB, 0, "580.65.06")
LARGE = Gpu(1, "GPU-large", "48 GiB", 48 * GIB, 0, "580.65.06")


@pytest.mark.parametrize(
    ("visible", "precision"),
    [(None, "int4"), ("0", "int4"), ("1", "bf16"), ("GPU-large,GPU-small", "bf16")],
)
def test_the_first_gpu_that_cuda_may_use_decides(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, precision: str
) -> None:
    monkeypatch.setattr(nvml, "gpus", lambda: (SMALL, LARGE))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert fitting_precision("spark-13b-chat", Settings.from_environ(), None) == precision
