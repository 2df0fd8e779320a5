"""Golden folders: recordings of the real upstream code. KIT_GOLDEN_DIR adds to the bundled one."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.weights.convert.convert import convert_checkpoint

BUNDLED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Golden:
    """One golden folder. Everything is read from its files; nothing is assumed of its shapes."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config.json")

    @property
    def context(self) -> int:
        """The longest sequence: upstream's mask ends at the one, its positions at the other."""
        return min(int(self.config[key]) for key in ("seq_length", "max_position_embeddings"))

    def json(self, name: str) -> Any:
        """A JSON file; the test skips where this folder does not have it."""
        return json.loads(self.path(name).read_text())

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """A safetensors file; the test skips where this folder does not have it."""
        return load_file(self.path(name))

    def path(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            pytest.skip(f"{self.folder.name} has no {name}")
        return path


def golden_folders() -> list[Path]:
    """The bundled folder, and those KIT_GOLDEN_DIR names: one such folder, or a folder of them."""
    folders = sorted(BUNDLED.iterdir())
    if named := os.environ.get("KIT_GOLDEN_DIR"):
        root = Path(named)
        found = [root] if (root / "config.json").exists() else sorted(root.iterdir())
        folders += [folder for folder in found if (folder / "config.json").exists()]
    return folders


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        folders = golden_folders()
        ids = [f"{folder.parent.name}/{folder.name}" for folder in folders]
        goldens = [Golden(folder) for folder in folders]
        metafunc.parametrize("golden", goldens, ids=ids, scope="session")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Golden, str], Path]:
    """The folder's checkpoint, converted as a user would convert it."""
    done: dict[tuple[Path, str], Path] = {}

    def convert(golden: Golden, precision: str) -> Path:
        key = golden.folder, precision
        if key not in done:
            done[key] = tmp_path_factory.mktemp("converted") / precision
            convert_checkpoint(
                golden.path("ckpt"),
                done[key],
                precision=precision,
                tokenizer=golden.path("tokenizer"),
                config=golden.path("config.json"),
            )
        return done[key]

    return convert


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.golden)
