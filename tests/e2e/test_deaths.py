"""Servers that die of a lack of memory, for real, and what `kit up` says of it."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit_process import HERE, Kit

from kit.memory.timeline import read_timeline

pytest.importorskip("torch", reason="needs the native extra")
pytestmark = pytest.mark.e2e

GROUP_BYTES = 300 << 20
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@pytest.fixture
def real_kit(kit: Kit, make_model) -> Kit:
    small = make_model(max_position_embeddings=512, sliding_window=128)
    return replace(kit, program=("-m", "kit"), environ=kit.environ | {"KIT_MODEL": str(small)})


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory; whoever is to be in it joins it."""
    version_1 = (V1 / "memory.limit_in_bytes").exists()
    folder = (V1 if version_1 else V2) / f"spark-kit-test-{os.getpid()}"
    limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        limit.write_text(str(GROUP_BYTES))
        yield folder
    except OSError as error:
        pytest.skip(f"memory cannot be limited by control groups here: {error}")
    finally:
        folder.rmdir()


def last_timeline(kit: Kit) -> Path:
    (path,) = (kit.home / "state/spark-kit/receipts").glob("*.jsonl")
    return path


def test_a_kill_at_the_limit_of_a_control_group(real_kit: Kit, group: Path):
    done = real_kit.up("--no-preflight", prefix=f"echo $$ > {group}/cgroup.procs;")
    assert done.returncode == 6, done.stderr
    assert re.search(
        r"error: the kernel killed the server \(exit code 137\) in phase [\w-]+: its control group "
        rf"reached its memory limit of 0.29 GiB \({group}\)",
        done.stderr,
    )
    assert "seen to hold" in done.stderr
    assert "planned" in done.stderr
    assert "hint: raise that limit" in done.stderr
    assert read_timeline(last_timeline(real_kit)).samples
    assert real_kit("status").returncode == 1


@pytest.mark.parametrize("limit_kib", [400_000, 800_000])
def test_the_limit_on_the_address_space(real_kit: Kit, limit_kib: int):
    done = real_kit.up("--no-preflight", prefix=f"ulimit -v {limit_kib};")
    assert done.returncode == 6, done.stderr
    limit = f"{limit_kib / (1 << 20):.2f} GiB"
    assert re.search(
        r"error: the server ended \(exit code \d+\) in phase starting, at the limit on its address "
        rf"space \(ulimit -v\), {limit}, of which it was seen to take [\d.]+ [GM]iB",
        done.stderr,
    )
    assert "hint: raise it and start again: ulimit -v unlimited" in done.stderr


@pytest.mark.parametrize("how", ["raised", "told"])
def test_a_full_gpu_simulated(kit: Kit, how: str):
    full = replace(kit, program=(str(HERE / "kit_with_full_gpu.py"),))
    done = full.up(FULL_GPU=how)
    assert done.returncode == 6, done.stderr
    assert re.search(
        r"error: the GPU's memory ran out in phase [\w-]+ \(exit code \d\), "
        r"0.27 GiB more was asked for with 98.1 MiB free",
        done.stderr,
    )
    assert "hint: kit doctor names who else holds some" in done.stderr
