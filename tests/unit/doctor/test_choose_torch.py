"""Which torch `make` installs on a GPU server, by what its driver tells."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import nvml_driver

REQUIREMENTS = Path(__file__).parents[3] / "requirements"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_driver.build(tmp_path_factory.mktemp("driver"))


def run(driver: Path, scenario: str | None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kit.doctor.choose_torch", str(REQUIREMENTS)],
        env=nvml_driver.environ(driver, scenario),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("scenario", "build"),
    [
        (None, "cuda"),  # driver 580, compute capability 8.9
        ("volta", "cuda12"),  # driver 570, 7.0: neither CUDA 13 nor its wheels' kernels
        ("no-driver", "cuda"),
    ],
)
def test_the_newest_that_runs_is_chosen(driver: Path, scenario: str | None, build: str) -> None:
    done = run(driver, scenario)
    assert (done.returncode, done.stdout) == (0, f"{build}\n"), done.stderr


def test_where_none_runs_it_says_why(driver: Path) -> None:
    done = run(driver, "old")
    assert done.returncode == 1
    assert "torch 2.10.0 needs driver 525.60.13, here is 515.105.01" in done.stderr
    assert "hint: install a newer driver" in done.stderr
