"""NVIDIA Container Toolkit: its programs, its configuration, and the CDI files it generates."""

import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kit.doctor.facts import CdiSpec, Facts, Toolkit
from kit.doctor.gather.commands import ran
from kit.doctor.request import Request

ROOT = Path("/")
SECONDS = 4.0
CONFIG = "etc/nvidia-container-runtime/config.toml"
CDI_FOLDERS = ("etc/cdi", "var/run/cdi")
_VERSION = re.compile(r"version (\d+\.\d+\.\d+\S*)")
_LIBRARY = re.compile(r"libcuda\.so\.(\d+\.\d+(?:\.\d+)?)")
_CONTROL_DEVICE = "dev/char/195:255"
"""Link to /dev/nvidiactl, by its device numbers (major 195 is NVIDIA's in Linux's devices.txt)."""


def look(request: Request, facts: Facts) -> Toolkit:
    """The toolkit on this machine."""
    return observe(request.environ, ROOT)


def observe(environ: Mapping[str, str], root: Path) -> Toolkit:
    """The toolkit; ``root`` is where etc/, var/ and dev/ are."""
    path = environ.get("PATH")
    settings = _settings(root / CONFIG)
    return Toolkit(
        version=_version(environ),
        hook=bool(
            shutil.which("nvidia-container-runtime-hook", path=path)
            or shutil.which("nvidia-container-toolkit", path=path)
        ),
        mode=str(settings.get("nvidia-container-runtime", {}).get("mode", "auto")),
        no_cgroups=bool(settings.get("nvidia-container-cli", {}).get("no-cgroups", False)),
        specs=tuple(_specs(root)),
        device_links=(root / _CONTROL_DEVICE).is_symlink(),
    )


def _version(environ: Mapping[str, str]) -> str | None:
    done = ran(["nvidia-ctk", "--version"], SECONDS, environ)
    if done is None:
        return None
    found = _VERSION.search(done.out)
    return found[1] if found else "unknown"


def _settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _specs(root: Path) -> Iterator[CdiSpec]:
    """CDI files that describe NVIDIA GPUs (https://github.com/cncf-tags/container-device-interface).

    YAML or JSON; what matters here, the library's version, reads the same in both.
    """
    for folder in CDI_FOLDERS:
        for path in sorted((root / folder).glob("*.*")):
            try:
                text = path.read_text(errors="replace")
            except OSError:
                continue
            if "nvidia.com/" in text:
                found = _LIBRARY.search(text)
                yield CdiSpec(path, found[1] if found else None)
