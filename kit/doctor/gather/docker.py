"""The Docker engine, as it describes itself, and Compose."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.containers.compose import ComposeProgram, find_compose
from kit.containers.docker import Engine
from kit.doctor.facts import Docker, Facts, NoDocker
from kit.doctor.request import Request
from kit.errors import KitError
from kit.runtime.protocol import docker_engine_found


def look(request: Request, facts: Facts) -> Docker | NoDocker:
    """Ask the engine that `kit up` would use."""
    environ = request.environ
    if not docker_engine_found(environ):
        return NoDocker("there is no Docker engine", None)
    try:
        info = Engine(environ).info()
    except KitError as error:
        return NoDocker(error.message, error.hint)
    return describe(info, environ, shutil.which("docker", path=environ.get("PATH")))


def describe(info: Mapping[str, Any], environ: Mapping[str, str], command: str | None) -> Docker:
    """The engine's own words (`docker info`) as facts; ``command`` is the docker program."""
    root = str(info.get("DockerRootDir", ""))
    security = [str(option) for option in info.get("SecurityOptions") or ()]
    program = str(Path(command).resolve()) if command else ""
    return Docker(
        version=str(info["ServerVersion"]),
        cgroup_driver=str(info.get("CgroupDriver", "")),
        root=Path(root),
        rootless=any("name=rootless" in option for option in security),
        snap=program.startswith("/snap/") or root.startswith("/var/snap/"),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        registries=_registries(info),
        remote=environ.get("DOCKER_HOST", "unix:").partition(":")[0] != "unix",
        containerd=_stored_by_containerd(info),
        cdi_folders=tuple(Path(folder) for folder in info.get("CDISpecDirs") or ()),
    )


def _stored_by_containerd(info: Mapping[str, Any]) -> bool:
    """As it is by default from Docker 29 on."""
    told = {str(key): str(value) for key, value in info.get("DriverStatus") or ()}
    return told.get("driver-type", "").startswith("io.containerd.snapshotter")


def _registries(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Mirrors, which the engine asks first; then its default registry."""
    configured = info.get("RegistryConfig") or {}
    mirrors = [str(mirror) for mirror in configured.get("Mirrors") or ()]
    default = str(info.get("IndexServerAddress") or "")
    return (*mirrors, *([default] if default else []))


def look_at_compose(request: Request, facts: Facts) -> ComposeProgram:
    """The program that `kit up` would call.

    Raises:
        EnvironmentNotReady: there is none that the kit can use.
    """
    return find_compose(request.environ)
