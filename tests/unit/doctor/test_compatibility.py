import pytest

from kit.doctor.checks.torch import driver_floor, is_older, runs_on


@pytest.mark.parametrize(
    ("driver", "cuda", "older"),
    [
        ("525.60.13", (12, 8), False),
        ("525.60.11", (12, 8), True),
        ("515.105.01", (12, 0), True),
        ("580.65.06", (13, 0), False),
        ("575.51.03", (13, 0), True),
        ("1000.1", (13, 0), False),
        ("470.42.01", (11, 7), False),
    ],
)
def test_drivers(driver, cuda, older):
    floor = driver_floor(cuda)
    assert floor is not None
    assert is_older(driver, floor) is older


def test_a_cuda_to_come():
    assert driver_floor((14, 0)) is None


WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 0), WHEEL, "sm_80"),
        ((8, 9), WHEEL, "sm_86"),  # binary code runs on later minor versions
        ((12, 1), WHEEL, "sm_120"),
        ((7, 0), WHEEL, None),  # V100
        ((6, 1), WHEEL, None),
        ((11, 0), WHEEL, None),  # no binary code runs on another major version
        ((11, 0), (*WHEEL, "compute_90"), "compute_90"),  # PTX does, if it is older
        ((8, 9), (*WHEEL, "compute_80"), "sm_86"),
        ((7, 0), (*WHEEL, "compute_80"), None),
        ((9, 0), ("sm_90a",), "sm_90a"),
        ((9, 1), ("sm_90a",), None),
        ((9, 0), ("nonsense",), None),
        ((9, 0), (), None),
    ],
)
def test_architectures(capability, architectures, expected):
    assert runs_on(capability, architectures) == expected
