import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from kit.cli.serve import native_source, require_converted, require_native_packages
from kit.errors import EnvironmentNotReady


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name in ("torch", "transformers") else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(EnvironmentNotReady, match="not installed: torch, transformers") as caught:
        require_native_packages()
    assert "pip install" in caught.value.hint


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
