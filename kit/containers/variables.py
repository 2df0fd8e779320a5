"""What compose.yaml leaves open: a spec as the variables of that file."""

import os
import socket
from pathlib import Path

from kit.errors import UsageError
from kit.runtime.orphan import OWNER_VARIABLE
from kit.runtime.protocol import ServeSpec
from kit.units import GIB

GPU_SERVICE, CPU_SERVICE = "spark", "spark-cpu"
SERVICES = (GPU_SERVICE, CPU_SERVICE)
KEY_VARIABLE = "KIT_API_KEY"
_MEMORY_LIMIT_BYTES = 40 * GIB
"""As compose.yaml has it, where nobody promised less."""


def service_name(spec: ServeSpec) -> str:
    """The service of compose.yaml that serves ``spec``."""
    return GPU_SERVICE if spec.device == "cuda" else CPU_SERVICE


def variables(
    spec: ServeSpec,
    *,
    image: str,
    owner: str,
    api_key: str | None = None,
    api_key_file: Path | None = None,
) -> dict[str, str]:
    """Every variable of compose.yaml that ``spec`` decides.

    Args:
        image: name or identity of the image to run.
        owner: whose container it will be, see :func:`kit.runtime.orphan.owner_of`.
        api_key_file: what holds the key instead.

    Raises:
        UsageError: the host is no address of a network interface.
    """
    given = {
        "KIT_IMAGE": image,
        OWNER_VARIABLE: owner,
        "KIT_MODEL_DIR": str(spec.model_dir),
        "KIT_MODEL_NAME": spec.name,
        "KIT_HOST": published_address(spec.host),
        "KIT_PORT": str(spec.port),
        "KIT_ENGINE": spec.engine,
        "KIT_CONTEXT": str(spec.context),
        "KIT_MAX_SEQUENCES": str(spec.max_sequences),
        "KIT_MAX_RAM": _size(spec.max_ram_bytes),
        "KIT_MAX_VRAM": _size(spec.max_vram_bytes),
        "KIT_MEMORY_LIMIT": str(spec.max_ram_bytes or _MEMORY_LIMIT_BYTES),
        KEY_VARIABLE: "" if api_key_file else api_key or "",
        "KIT_API_KEY_FILE": str(api_key_file or os.devnull),
    }
    chosen = {"KIT_GPU": spec.gpu, "KIT_USER": spec.user}
    return given | {name: value for name, value in chosen.items() if value}


def published_address(host: str) -> str:
    """``host`` as Compose takes it: a number, IPv6 in brackets.

    Raises:
        UsageError: it is no address.
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", 0, type=socket.SOCK_STREAM)  # noqa: S104
    except socket.gaierror as error:
        raise UsageError(
            f"{host!r} is not an address of this machine", hint="--host 127.0.0.1"
        ) from error
    address = str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
    return f"[{address}]" if ":" in address else address


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes}B"
