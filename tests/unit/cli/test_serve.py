from pathlib import Path

from kit.cli.serve import Serving, native_source


def test_the_model_is_called_like_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "spark-13b"
    directory.mkdir()
    assert native_source(directory, Serving()).name == "spark-13b"
    assert native_source(directory / ".", Serving(name="mine")).name == "mine"
