"""Through the real bindings, with a stub of the driver's library: pid 4711 holds 3 GiB of GPU 0."""

import pytest

from kit.units import GIB
from tests import nvml_driver


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return nvml_driver.build(tmp_path_factory.mktemp("driver"))


def measured(driver, use, pids, scenario=None):
    code = f"""
from kit.memory.probes import nvml
from kit.proof.measure import DeviceUse
with nvml.kept_open():
    print(repr(({use}).measure({pids})))
"""
    return nvml_driver.run(driver, code, scenario).strip()


def test_by_process_where_the_driver_tells_it(driver):
    assert measured(driver, "DeviceUse()", (1, 4711)) == str(3 * GIB)
    assert measured(driver, "DeviceUse.before_start(['GPU-aaaa'])", (4711,)) == str(3 * GIB)


def test_where_it_lists_none_of_the_processes_what_the_gpus_hold_more_than_before(driver):
    before = {"GPU-aaaa": GIB // 4, "GPU-bbbb": 2 * GIB}
    assert measured(driver, f"DeviceUse({before})", (1,)) == str(3 * GIB // 4)
    assert measured(driver, "DeviceUse.before_start(['GPU-bbbb'])", (1,)) == "0"


def test_without_a_look_before_the_start_it_is_not_known(driver):
    assert "lists no process" in measured(driver, "DeviceUse()", (1,))
    assert "lists no process" in measured(driver, "DeviceUse.before_start(['GPU-none'])", (1,))
