"""Directories that an older kit made get this kit's code; what a user changed stays and counts."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from kit.errors import EnvironmentNotReady, UsageError
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.record import read_record, write_record
from kit.weights.convert.support_files import (
    CODE_FILES,
    SPARK_SOURCE,
    TRANSFORMERS_VERSION,
    has_old_code,
    refresh,
)
from kit.weights.convert.verify import require_untampered


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    convert_checkpoint(source, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def old(converted: Path) -> Path:
    """As a kit made it whose code had fewer files, others, and named no transformers."""
    record = read_record(converted)
    assert record is not None
    config = json.loads((converted / "config.json").read_text())
    del config["transformers_version"]
    contents = {
        "config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "modeling_spark.py": "# older\n",
        "gone_spark.py": "# of the older kit only\n",
    }
    support = dict(record.support)
    for name, text in contents.items():
        (converted / name).write_text(text)
        support[name] = sha256(text.encode()).hexdigest()
    (converted / "cache_spark.py").unlink()
    del support["cache_spark.py"]
    write_record(converted, replace(record, support=support))
    return converted


def serve(directory: Path) -> None:
    require_untampered(directory, directory.parent / "state", lambda done, total: None)


def test_an_older_directory_becomes_what_is_made_today(
    old: Path, source: Path, tmp_path: Path
) -> None:
    serve(old)
    before = read_record(old)
    assert before is not None
    assert has_old_code(before)
    assert refresh(old) == ("cache_spark.py", "config.json", "modeling_spark.py")
    convert_checkpoint(source, tmp_path / "today")
    for path in (tmp_path / "today").iterdir():
        if path.name != "conversion.json":
            assert (old / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (old / "gone_spark.py").exists()
    record = read_record(old)
    assert record is not None
    assert not has_old_code(record)
    serve(old)
    assert refresh(old) == ()


def test_an_interrupted_refresh_is_healed_by_the_next(old: Path) -> None:
    (old / "modeling_spark.py").write_bytes((SPARK_SOURCE / "modeling_spark.py").read_bytes())
    refresh(old)
    serve(old)


def test_what_the_user_changed_is_left_alone(old: Path) -> None:
    (old / "chat_template.jinja").write_text("mine")
    (old / "config.json").write_text(json.dumps({"mine": True}))
    assert refresh(old) == ("cache_spark.py", "modeling_spark.py")
    assert (old / "chat_template.jinja").read_text() == "mine"
    assert json.loads((old / "config.json").read_text()) == {"mine": True}


def test_a_change_counts_once_it_is_accepted(converted: Path, source: Path) -> None:
    template = converted / "chat_template.jinja"
    template.write_text("mine")
    with pytest.raises(Exception, match=r"chat_template\.jinja was changed"):
        serve(converted)
    refresh(converted, accept=["chat_template.jinja"])
    serve(converted)
    assert refresh(converted) == ()
    convert_checkpoint(source, converted)
    assert template.read_text() == "mine"
    serve(converted)
    template.write_text("not mine")
    with pytest.raises(Exception, match=r"chat_template\.jinja was changed"):
        serve(converted)


@pytest.mark.parametrize(
    "name", [CODE_FILES[0], "model.safetensors", "../other", "conversion.json"]
)
def test_only_configuration_can_be_accepted(converted: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no file of configuration"):
        refresh(converted, accept=[name])


def test_a_directory_of_another_tool_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match=r"has no conversion\.json"):
        refresh(tmp_path)


def test_the_version_of_transformers_is_written(converted: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        content = json.loads((converted / name).read_text())
        assert content["transformers_version"] == TRANSFORMERS_VERSION
