"""What the server and its engines import, and whether it is installed."""

import importlib.util
from collections.abc import Sequence

from kit.errors import EnvironmentNotReady

NATIVE_PACKAGES = (
    "fastapi", "prometheus_client", "pydantic", "safetensors", "sentencepiece", "torch",
    "transformers", "uvicorn",
)  # fmt: skip
MEGATRON_PACKAGES = ("deepspeed", "einops", "regex", "setuptools", "six")
"""Beyond those of the native engine: what upstream's own code imports."""

_NATIVE = "make setup"
_MEGATRON = "make setup && .venv/bin/pip install -r requirements/image.txt"


def require_native_packages() -> None:
    """Return when everything that the native engine and the server import is installed.

    Looks into this interpreter, which is the one that runs the server. Imports nothing.

    Raises:
        EnvironmentNotReady: something is missing.
    """
    _require(NATIVE_PACKAGES, "serving", _NATIVE)


def require_megatron_packages() -> None:
    """Return when what upstream's code imports is installed, too. Imports nothing.

    Raises:
        EnvironmentNotReady: something is missing.
    """
    _require(MEGATRON_PACKAGES, "the megatron engine", _MEGATRON)


def _require(packages: Sequence[str], who: str, command: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise EnvironmentNotReady(
            f"{who} needs packages that are not installed: {', '.join(missing)}",
            hint=f"install them in the kit's clone: {command}",
        )
