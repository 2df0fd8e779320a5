import sys
from pathlib import Path

import pytest

from kit.bench.fresh_process import folder_cached_bytes, measure
from kit.errors import KitError
from kit.units import MIB

JOB = """
import mmap, time
from kit.bench.fresh_process import run_job
def job():
    print("what a library has to say")
    {work}
run_job(job, lambda: {{"answer": 42}})
"""
HOLD = """
    held = {memory}
    for offset in range(0, len(held), 4096): held[offset] = 1
    time.sleep(0.3)
"""


def run(folder: Path, work: str) -> object:
    return measure([sys.executable, "-c", JOB.format(work=work)], folder)


@pytest.mark.parametrize("memory", ["bytearray(64 << 20)", "mmap.mmap(-1, 64 << 20)"])
def test_growth_is_private_and_shared_memory(tmp_path: Path, memory: str) -> None:
    measured = run(tmp_path, HOLD.format(memory=memory))
    assert 60 * MIB < measured.growth_bytes < 80 * MIB
    assert measured.facts == {"answer": 42}
    assert measured.device_bytes is None


def test_page_cache_of_the_folder_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    path.parent.mkdir()
    work = f"open({str(path)!r}, 'wb').write(bytes(8 << 20)); time.sleep(0.3)"
    measured = run(tmp_path, work)
    assert measured.cached_bytes == folder_cached_bytes(tmp_path)
    assert measured.cached_bytes in (0, 8 * MIB)  # a file system in memory may not tell


def test_a_job_that_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KitError, match="the measured process failed"):
        run(tmp_path, "raise SystemExit('it broke')")
    assert "it broke" in capfd.readouterr().err
