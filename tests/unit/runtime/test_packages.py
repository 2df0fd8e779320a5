import importlib.util
import re
from importlib.machinery import ModuleSpec

import pytest

from kit.containers.image import checkout
from kit.errors import EnvironmentNotReady
from kit.runtime.packages import (
    MEGATRON_PACKAGES,
    require_megatron_packages,
    require_native_packages,
)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name in ("torch", "transformers") else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(EnvironmentNotReady, match="not installed: torch, transformers") as caught:
        require_native_packages()
    assert "make setup" in caught.value.hint


def test_the_megatron_engine_needs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "deepspeed" else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    require_native_packages()
    with pytest.raises(
        EnvironmentNotReady, match=r"engine needs .* not installed: deepspeed$"
    ) as e:
        require_megatron_packages()
    assert "requirements/image.txt" in e.value.hint


def test_no_hint_names_a_package_that_nobody_published() -> None:
    """Until there is one, what works is said: make setup, pip install -r requirements/…"""
    root = checkout()
    assert root is not None
    pages = [*(root / "kit").rglob("*.py"), *(root / "docs").glob("*.md"), *root.glob("*.md")]
    wrong = re.compile(r"pip install[^\n]*spark-kit")
    assert [str(page) for page in pages if wrong.search(page.read_text(encoding="utf-8"))] == []


def test_requirements_that_a_hint_names_hold_every_package() -> None:
    root = checkout()
    assert root is not None
    listed = (root / "requirements" / "image.txt").read_text(encoding="utf-8")
    for package in MEGATRON_PACKAGES:
        assert re.search(rf"^{package}==", listed, re.MULTILINE), package
