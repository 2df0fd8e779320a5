"""Recordings of other families' real public code, as their hub lays the models out.

``KIT_GOLDEN_MODELS_DIR`` adds a folder of such recordings: FAMILY/SET/{model,recorded.json,
logits.safetensors}.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

BUNDLED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Recording:
    """One set. Everything is read from its files; nothing is assumed of its shapes."""

    folder: Path

    @cached_property
    def recorded(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "recorded.json").read_text(encoding="utf-8")))

    @cached_property
    def logits(self) -> dict[str, torch.Tensor]:
        """In fp32, by ``DTYPE.PROMPT`` and ``DTYPE.batch.ROW``."""
        found = load_file(self.folder / "logits.safetensors")
        return {name: tensor.float() for name, tensor in found.items()}

    def json(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "model" / name).read_text(encoding="utf-8")))

    def state(self) -> dict[str, torch.Tensor]:
        """The published tensors under their published names."""
        state: dict[str, torch.Tensor] = {}
        for shard in sorted((self.folder / "model").glob("pytorch_model-*.bin")):
            state |= torch.load(shard, weights_only=True)
        return state


def recordings(family: str) -> list[Recording]:
    """The bundled sets of a family, and those of KIT_GOLDEN_MODELS_DIR."""
    roots = [BUNDLED / family]
    if named := os.environ.get("KIT_GOLDEN_MODELS_DIR"):
        roots.append(Path(named) / family)
    found = [folder for root in roots if root.is_dir() for folder in sorted(root.iterdir())]
    return [Recording(folder) for folder in found]
