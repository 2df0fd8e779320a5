import os
from pathlib import Path

import pytest

from kit.cli.serve import native_source, require_converted, require_readable
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


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_told_from_one_that_is_not_there(
    tmp_path: Path,
) -> None:
    require_readable(tmp_path / "nowhere")
    tmp_path.chmod(0o000)
    with pytest.raises(EnvironmentNotReady, match=f"cannot be read by user {os.getuid()}"):
        require_readable(tmp_path)
    tmp_path.chmod(0o700)
    require_readable(tmp_path)
