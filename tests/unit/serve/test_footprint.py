"""On the stub of the driver, which names no process of this machine."""

import pytest

from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.units import GIB
from tests import nvml_driver

CODE = """
from types import SimpleNamespace
from kit.serve.budget import measured_peaks

class Engine:
    def __init__(self, pool): self.pool = pool
    def stats(self): return SimpleNamespace(device_peak_reserved_bytes=self.pool)

for pool in (27 << 30, None):
    peaks = measured_peaks(SimpleNamespace(engine=Engine(pool)))
    print(peaks.device_peak_bytes, peaks.device_by, peaks.host_peak_bytes > 0)
"""


def test_where_the_driver_names_no_process_the_context_counts_as_well(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    driver = nvml_driver.build(tmp_path_factory.mktemp("driver"))
    with_pool, without = nvml_driver.run(driver, CODE).splitlines()
    assert with_pool == f"{27 * GIB + CUDA_CONTEXT_BYTES} torch True"
    assert "lists no process" in without
