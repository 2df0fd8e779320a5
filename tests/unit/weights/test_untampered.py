"""Converted weights are read whole before they are served the first time, and not again."""

import shutil
from pathlib import Path

import pytest

from kit.errors import IntegrityError
from kit.settings import bundled
from kit.weights.convert import convert_checkpoint
from kit.weights.record import RECORD_NAME
from kit.weights.untampered import SEEN_NAME, require_untampered


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "converted"
    convert_checkpoint(bundled("demo") / "mp_rank_00_model_states.pt", output)
    return output


@pytest.fixture
def converted(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "converted"))


def bytes_read(directory: Path, state_dir: Path) -> int:
    seen: list[int] = []
    require_untampered(directory, state_dir, lambda done, total: seen.append(done))
    return max(seen, default=0)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_read_once_until_a_file_changes(converted: Path, tmp_path: Path) -> None:
    size = (converted / "model.safetensors").stat().st_size
    assert bytes_read(converted, tmp_path / "state") >= size
    assert bytes_read(converted, tmp_path / "state") == 0
    (converted / "model.safetensors").touch()
    assert bytes_read(converted, tmp_path / "state") >= size


@pytest.mark.parametrize("offset", [-1, -100_000])
def test_one_bit_is_found(converted: Path, tmp_path: Path, offset: int) -> None:
    bytes_read(converted, tmp_path)
    weights = converted / "model.safetensors"
    flip(weights, weights.stat().st_size + offset)
    for _ in range(2):
        with pytest.raises(IntegrityError, match="has other bytes in"):
            bytes_read(converted, tmp_path)


def test_a_missing_file_is_named(converted: Path, tmp_path: Path) -> None:
    (converted / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"model.safetensors is missing"):
        bytes_read(converted, tmp_path)


def test_without_a_record_there_is_nothing_to_hold_it_against(
    converted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kit.serve")
    (converted / RECORD_NAME).unlink()
    assert bytes_read(converted, tmp_path) == 0
    assert "taken as they are" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_memory_is_as_good_as_none(converted: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / SEEN_NAME).write_text(text)
    assert bytes_read(converted, tmp_path) > 0
    assert bytes_read(converted, tmp_path) == 0


def test_a_state_folder_that_cannot_be_written(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert bytes_read(converted, tmp_path / "file") > 0
