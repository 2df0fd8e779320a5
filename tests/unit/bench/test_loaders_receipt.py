import json
from dataclasses import replace

import pytest

from kit.bench.loaders import Comparison, LoadRun, table, write_picture, write_receipt
from kit.memory.unavailable import Unavailable

GB = 10**9


def run(loader, seconds, host, device=None):
    used = None if device is None else device + GB // 2
    return LoadRun(loader, seconds, seconds, GB, host, device, device, device, used)


@pytest.fixture
def found(tmp_path):
    (tmp_path / "mp_rank_00_model_states.pt").write_bytes(bytes(1000))
    runs = [
        run("stock", 10.0, 1500),
        run("cpu-first", 9.0, 1500),
        run("stream", 4.0, 600),
        run("native", 1.0, 10),
        run("stock", 12.0, 1400),
        run("cpu-first", 9.0, 1500),
        run("stream", 6.0, 550),
        run("native", 3.0, 10),
    ]
    return Comparison(runs, tmp_path, "cpu", "bf16", "c0ffee", {"stock": "d1", "stream": "d2"}, 7.0)


def test_table_on_the_cpu(found):
    assert table(found).splitlines() == [
        "| loader | seconds median / best | host memory, private | of the checkpoint |",
        "|---|---|---|---|",
        "| stock | 11.0 / 10.0 | 0.00 GB | 1.500 |",
        "| cpu-first | 9.0 / 9.0 | 0.00 GB | 1.500 |",
        "| stream | 5.0 / 4.0 | 0.00 GB | 0.600 |",
        "| native | 2.0 / 1.0 | 0.00 GB | 0.010 |",
    ]


def test_table_on_a_gpu_says_what_nvml_does_not(found):
    runs = [
        replace(each, device_allocated_bytes=2 * GB, device_reserved_bytes=3 * GB)
        for each in found.runs
    ]
    runs = [replace(each, device_used_bytes=Unavailable("hidden")) for each in runs]
    runs[0] = replace(runs[0], device_used_bytes=4 * GB)
    lines = table(replace(found, runs=runs, device="cuda")).splitlines()
    assert "| 2.00 GB | 3.00 GB | 4.00 GB |" in lines[2]
    assert "hidden" in lines[3]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_picture(found, tmp_path, device):
    write_picture(replace(found, device=device), tmp_path / "loaders.png")
    assert (tmp_path / "loaders.png").read_bytes().startswith(b"\x89PNG")


def test_receipt(found, tmp_path):
    write_receipt(found, tmp_path / "loaders.json")
    content = json.loads((tmp_path / "loaders.json").read_text())
    assert content["upstream_commit"] == "c0ffee"
    assert content["checkpoint_bytes"] == 1000
    assert [each["loader"] for each in content["runs"]][:4] == [
        "stock",
        "cpu-first",
        "stream",
        "native",
    ]
    assert content["machine"]["device"] == "cpu"
