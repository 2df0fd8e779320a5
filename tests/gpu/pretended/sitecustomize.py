"""Python imports this by itself at its start: with this folder on PYTHONPATH, every process of the
kit, ranks included, finds the card that PRETENDED_CARD describes; see pretended_card.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _AfterTorch(MetaPathFinder):
    """Puts the card in as soon as torch has been imported, and before anyone uses it."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Wrapped(spec.loader)
        return spec


class _Wrapped(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        import pretended_card

        pretended_card.install()


if "PRETENDED_CARD" in os.environ:
    sys.meta_path.insert(0, _AfterTorch())
