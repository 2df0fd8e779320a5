from pathlib import Path

import pytest

from kit.cli.serve import native_source, require_converted
from kit.errors import EnvironmentNotReady


def test_the_model_is_called_like_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "spark-13b"
    directory.mkdir()
    assert native_source(directory, None, None, None, "auto", "auto").name == "spark-13b"
    assert native_source(directory / ".", "mine", None, None, "auto", "auto").name == "mine"


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match=r"no config\.json"):
        require_converted(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    require_converted(tmp_path)
