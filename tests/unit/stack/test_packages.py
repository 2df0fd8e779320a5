import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from kit.errors import EnvironmentNotReady
from kit.stack.packages import require_megatron_packages, require_native_packages


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name in ("torch", "transformers") else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(EnvironmentNotReady, match="not installed: torch, transformers") as caught:
        require_native_packages()
    assert "pip install" in caught.value.hint


def test_the_megatron_engine_needs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "deepspeed" else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    require_native_packages()
    with pytest.raises(
        EnvironmentNotReady, match=r"engine needs .* not installed: deepspeed$"
    ) as e:
        require_megatron_packages()
    assert "spark-kit[native,megatron]" in e.value.hint
