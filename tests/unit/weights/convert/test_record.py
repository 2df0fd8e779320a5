"""A conversion's record is there, or not, or damaged: three things."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.weights.convert.record import (
    RECORD_NAME,
    ConversionRecord,
    read_record,
    sound_record,
    write_record,
)
from tests.held_back import held_back, open_folder

RECORD = ConversionRecord("1", (), None, "bf16", {"t": "ab"}, {"f": 1}, {"s": "cd"}, {})


def test_there_and_not_there(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "none") is None
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == sound_record(tmp_path) == RECORD
    assert read_record(tmp_path / RECORD_NAME) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\0" * len(text),
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps(json.loads(text) | {"more": 1}),
        lambda text: json.dumps(json.loads(text) | {"lora": 1}),
        lambda text: json.dumps(json.loads(text) | {"sources": 1}),
        lambda text: json.dumps(json.loads(text) | {"precision": "int5"}),
        lambda text: json.dumps(json.loads(text) | {"tensors": []}),
        lambda text: json.dumps(json.loads(text) | {"files": {"f": "1"}}),
    ],
)
def test_damage_is_not_absence(tmp_path: Path, damage: Callable[[str], str]) -> None:
    whole: dict[str, Any] = asdict(RECORD)
    (tmp_path / RECORD_NAME).write_text(damage(json.dumps(whole)))
    with pytest.raises(IntegrityError, match=r"conversion\.json is damaged") as caught:
        read_record(tmp_path)
    assert f"kit weights convert CHECKPOINT {tmp_path} --overwrite" in caught.value.hint
    assert sound_record(tmp_path) is None


def test_what_cannot_be_read_is_not_absent() -> None:
    with open_folder() as folder:
        write_record(folder, RECORD)
        (folder / RECORD_NAME).chmod(0)
        with held_back():
            with pytest.raises(EnvironmentNotReady, match=r"conversion\.json cannot be read: Perm"):
                read_record(folder)
            assert sound_record(folder) is None
