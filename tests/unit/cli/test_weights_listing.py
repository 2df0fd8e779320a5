"""What `kit weights list` prints."""

import json
from pathlib import Path

import pytest

from kit.cli.weights.listing import list_
from kit.weights.convert.record import RECORD_NAME

CHAT = "spark-13b-chat-ms-bf16"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIT_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("KIT_WEIGHTS_CATALOGUE", raising=False)
    return tmp_path


def test_no_line_ends_in_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    list_()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "what", "size", "sources", "here"]
    assert any(line.startswith(CHAT) for line in lines)
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_damaged_record_is_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = data / f"{CHAT}-int8"
    directory.mkdir()
    (directory / RECORD_NAME).write_text("{")
    list_()
    assert "damaged" in capsys.readouterr().out
    list_(as_json=True)
    sets = {each["name"]: each for each in json.loads(capsys.readouterr().out)["weights"]}
    assert (sets[CHAT]["converted"], sets[CHAT]["damaged"]) == ([], [str(directory)])
