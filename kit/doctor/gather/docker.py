"""The Docker engine, as the docker command describes it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kit.doctor.facts import Docker, Version
from kit.doctor.gather.commands import Ran, ran
from kit.memory.unavailable import Unavailable

SECONDS = 4.0
Cause = Literal["absent", "silent", "no permission", "failed"]


@dataclass(frozen=True)
class NoDocker(Unavailable):
    """No engine answers. ``cause`` says why, as far as the remedy depends on it."""

    cause: Cause


def look(environ: Mapping[str, str]) -> Docker | NoDocker:
    """Ask the engine that the docker command talks to: DOCKER_HOST, or its current context."""
    try:
        done = ran(["docker", "info", "--format", "{{json .}}"], SECONDS, environ)
    except TimeoutError as error:
        return NoDocker(str(error), "silent")
    if done is None:
        return NoDocker("the docker command is not installed", "absent")
    try:
        info = json.loads(done.out)
    except ValueError:
        info = {}
    if not info.get("ServerVersion"):
        return _no_engine(done, info)
    return describe(info, environ, shutil.which("docker") or "docker")


def describe(info: Mapping[str, Any], environ: Mapping[str, str], command: str) -> Docker:
    """What `docker info` says, as facts; ``command`` is the docker program that said it."""
    root = str(info.get("DockerRootDir", ""))
    security = [str(option) for option in info.get("SecurityOptions") or ()]
    in_snap = str(Path(command).resolve()).startswith("/snap/") or root.startswith("/var/snap/")
    return Docker(
        version=str(info["ServerVersion"]),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        root=Path(root),
        rootless=any("name=rootless" in option for option in security),
        snap=in_snap,
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        registries=_registries(info),
        remote=environ.get("DOCKER_HOST", "unix:").partition(":")[0] != "unix",
        cdi_folders=tuple(Path(folder) for folder in info.get("CDISpecDirs") or ()),
    )


def numbers(version: str) -> Version | None:
    """Major and minor of a version such as ``20.10.24+dfsg1``; None: it has none."""
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return int(parts[0]), int(parts[1])


def _registries(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Mirrors, which the engine asks first; then its default registry."""
    configured = info.get("RegistryConfig") or {}
    mirrors = [str(mirror) for mirror in configured.get("Mirrors") or ()]
    default = str(info.get("IndexServerAddress") or "")
    return (*mirrors, *([default] if default else []))


def _no_engine(done: Ran, info: Mapping[str, Any]) -> NoDocker:
    errors = [str(error) for error in info.get("ServerErrors") or ()]
    text = errors[0] if errors else done.last_error
    if "permission denied" in text.lower():
        return NoDocker(text, "no permission")
    if "cannot connect" in text.lower() or "is the docker daemon running" in text.lower():
        return NoDocker(text, "silent")
    return NoDocker(text, "failed")
