"""What the native server imports, and whether it is installed."""

import importlib.util

from kit.errors import EnvironmentNotReady

NATIVE_PACKAGES = (
    "fastapi", "prometheus_client", "pydantic", "safetensors", "sentencepiece", "torch",
    "transformers", "uvicorn",
)  # fmt: skip


def require_native_packages() -> None:
    """Return when everything that the native engine and the server import is installed.

    Looks into this interpreter, which is the one that runs the server. Imports nothing.

    Raises:
        EnvironmentNotReady: something is missing.
    """
    missing = [package for package in NATIVE_PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise EnvironmentNotReady(
            f"serving needs packages that are not installed: {', '.join(missing)}",
            hint="install them: pip install 'spark-kit[native]', or make setup in a checkout",
        )
