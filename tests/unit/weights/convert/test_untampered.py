"""Converted weights are read whole before they are served the first time, and not again."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.settings import bundled
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.record import RECORD_NAME
from kit.weights.convert.verify import SEEN_NAME, require_untampered
from tests.held_back import held_back, open_folder


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


def test_what_another_tool_wrote_cannot_be_held_against_anything(
    converted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "kit.serve")
    (converted / RECORD_NAME).unlink()
    weights = converted / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    assert bytes_read(converted, tmp_path) == 0
    assert "taken as they are" in caplog.text


def test_a_record_that_is_gone_is_missed(converted: Path, tmp_path: Path) -> None:
    (converted / RECORD_NAME).unlink()
    with pytest.raises(IntegrityError, match=r"its conversion\.json is gone") as caught:
        bytes_read(converted, tmp_path)
    assert "--overwrite" in caught.value.hint


def test_a_record_that_was_there_before_is_missed(converted: Path, tmp_path: Path) -> None:
    """Directories of older kits do not say in their weights that they have one."""
    bytes_read(converted, tmp_path)
    (converted / RECORD_NAME).unlink()
    weights = converted / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"its conversion\.json is gone"):
        bytes_read(converted, tmp_path)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        "modeling_spark.py",
    ],
)
def test_every_file_is_held_against_the_record(
    converted: Path, tmp_path: Path, name: str, warm: bool
) -> None:
    if warm:
        bytes_read(converted, tmp_path)
    flip(converted / name, 0)
    with pytest.raises(IntegrityError, match=f"{name} was changed since") as caught:
        bytes_read(converted, tmp_path)
    assert "--accept" in caught.value.hint
    (converted / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        bytes_read(converted, tmp_path)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "name", ["model-2.safetensors", "adapter_config.json", "tokenizer.json", "more.py", "folder"]
)
def test_a_file_too_many_is_refused(converted: Path, tmp_path: Path, name: str, warm: bool) -> None:
    if warm:
        bytes_read(converted, tmp_path)
    (converted / name).mkdir() if name == "folder" else (converted / name).touch()
    with pytest.raises(IntegrityError, match=f"{name} is not of this conversion"):
        bytes_read(converted, tmp_path)


def test_texts_and_hidden_files_do_no_harm(converted: Path, tmp_path: Path) -> None:
    bytes_read(converted, tmp_path)
    for name in ("README.md", "LICENSE", ".gitattributes"):
        (converted / name).touch()
    assert bytes_read(converted, tmp_path) == 0


@pytest.mark.parametrize("text", ["", "{}", "half"])
def test_a_damaged_record_vouches_for_nothing(converted: Path, tmp_path: Path, text: str) -> None:
    bytes_read(converted, tmp_path)
    whole = (converted / RECORD_NAME).read_text()
    (converted / RECORD_NAME).write_text(whole[: len(whole) // 2] if text == "half" else text)
    with pytest.raises(IntegrityError, match=r"conversion\.json is damaged") as caught:
        bytes_read(converted, tmp_path)
    assert "--overwrite" in caught.value.hint


@pytest.mark.parametrize("file", ["model.safetensors", RECORD_NAME])
def test_a_file_that_cannot_be_read(converted: Path, file: str) -> None:
    with open_folder() as folder:
        copy = Path(shutil.copytree(converted, folder / "converted"))
        (copy / file).chmod(0)
        with held_back(), pytest.raises(EnvironmentNotReady, match=f"{file} cannot be read: Perm"):
            bytes_read(copy, folder)


def test_many_at_once_remember_without_spoiling(converted: Path, tmp_path: Path) -> None:
    states, problems = tmp_path / "states", []

    def read() -> None:
        for _ in range(5):
            require_untampered(converted, states, lambda done, total: None)
            (converted / "model.safetensors").touch()
            try:
                json.loads((states / SEEN_NAME).read_text())
            except (OSError, ValueError) as error:
                problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [path.name for path in states.iterdir()] == [SEEN_NAME]


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_memory_is_as_good_as_none(converted: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / SEEN_NAME).write_text(text)
    assert bytes_read(converted, tmp_path) > 0
    assert bytes_read(converted, tmp_path) == 0


def test_a_state_folder_that_cannot_be_written(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert bytes_read(converted, tmp_path / "file") > 0
