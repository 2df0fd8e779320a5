from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady
from kit.memory.plan.line import Pool
from kit.memory.probes import proc
from kit.memory.probes.nvml import Gpu
from kit.memory.room import require_room
from kit.units import GIB
from kit.weights.catalogue import read_catalogue
from kit.weights.preflight import (
    choose_precision,
    converted_bytes,
    disk_needs,
    memory_needs,
    serving_plan,
)

CHAT = read_catalogue().weights["spark-13b-chat"]
TOKENIZER = read_catalogue().weights["spark-13b-tokenizer"]


def gpu(total_bytes: int) -> Gpu:
    return Gpu(0, "GPU-1", "Tiny GPU", total_bytes, 0, "580")


@pytest.fixture(autouse=True)
def much_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: 64 * GIB)


def test_download_and_conversion_are_summed_per_disk(tmp_path: Path) -> None:
    places = [(tmp_path / "a" / "b", 5 * GIB, "to download"), (tmp_path, GIB, "for the conversion")]
    [need] = disk_needs(places)
    assert need.need_bytes == 6 * GIB
    assert str(tmp_path) in need.what
    assert "5.00 GiB to download + 1.00 GiB for the conversion" in need.what
    shm = Path("/dev/shm")
    if shm.is_dir() and shm.stat().st_dev != tmp_path.stat().st_dev:
        assert len(disk_needs([*places, (shm, 1, "x")])) == 2


def test_too_little_disk_says_need_and_have(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match=r"not enough disk .*: 1048576\.00 GiB needed, "):
        require_room(disk_needs([(tmp_path, 1 << 50, "to download")]), "or not")


def test_the_plan_of_the_13b() -> None:
    assert converted_bytes(CHAT, "bf16") == 26_625_085_440
    assert converted_bytes(TOKENIZER, "bf16") is None
    plan = serving_plan(CHAT, "bf16", on_gpu=True)
    assert plan is not None
    assert 26_625_085_440 < plan.peak_bytes(Pool.DEVICE) < 31 * GIB
    smaller = serving_plan(CHAT, "int4", on_gpu=True)
    assert smaller is not None
    assert smaller.peak_bytes(Pool.DEVICE) < 16 * GIB


def check(total_bytes: int | None, named_bytes: int | None, precision: str = "bf16") -> object:
    found = gpu(total_bytes) if total_bytes is not None else None
    return require_room(
        memory_needs(CHAT, precision, gpu=found, gpu_memory_bytes=named_bytes), "or not"
    )  # type: ignore[arg-type]


def test_a_gpu_that_is_too_small() -> None:
    with pytest.raises(
        EnvironmentNotReady, match=r"VRAM on Tiny GPU: .* 24\.00 GiB there"
    ) as caught:
        check(24 * GIB, None)
    assert "--precision" in caught.value.hint
    assert check(24 * GIB, None, "int8") == ()
    assert check(40 * GIB, None) == ()


@pytest.mark.parametrize(
    ("card", "named", "chosen"),
    [
        (None, None, "bf16"),
        (40, None, "bf16"),
        (24, None, "int8"),
        (12, None, "int4"),
        (4, None, "int4"),
        (None, 24, "int8"),
        (40, 12, "int4"),
    ],
)
def test_the_most_bits_that_fit_are_chosen(
    card: int | None, named: int | None, chosen: str
) -> None:
    found = gpu(card * GIB) if card else None
    named_bytes = named * GIB if named else None
    assert choose_precision(CHAT, gpu=found, gpu_memory_bytes=named_bytes) == chosen
    assert choose_precision(TOKENIZER, gpu=found, gpu_memory_bytes=named_bytes) == "bf16"


def test_a_gpu_of_another_machine() -> None:
    assert check(None, 40 * GIB) == ()
    assert check(8 * GIB, 40 * GIB) == ()
    with pytest.raises(EnvironmentNotReady, match="--gpu-memory"):
        check(40 * GIB, 24 * GIB)


def test_without_a_gpu_little_ram_is_only_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(None, None) == ()
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: 4 * GIB)
    warnings = check(None, None)
    assert isinstance(warnings, tuple)
    assert "RAM to serve this model on the CPU" in warnings[0]
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: GIB // 10)
    with pytest.raises(EnvironmentNotReady, match="RAM for this command"):
        check(None, None)


def test_on_a_gpu_host_ram_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "available_ram_bytes", lambda: GIB)
    with pytest.raises(EnvironmentNotReady, match="RAM to serve this model"):
        check(40 * GIB, None)


def test_a_tokenizer_needs_no_plan() -> None:
    assert len(memory_needs(TOKENIZER, "bf16", gpu=gpu(1), gpu_memory_bytes=1)) == 1
