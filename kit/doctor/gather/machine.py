"""Kernel, CPU, memory and its limits, Python, NVIDIA's driver and its GPUs."""

import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import Literal

from kit.doctor.facts import Facts, HostMemory, Interpreter, Machine, Version
from kit.doctor.request import Request
from kit.errors import KitError
from kit.memory.probes import nvml
from kit.memory.unavailable import Unavailable
from kit.runtime.packages import require_native_packages

ROOT = Path("/")
_NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""Vendor, and beginning of the class, in PCI's configuration space: GPUs with or without video."""
_MODULE = re.compile(r"Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")


def look(request: Request, facts: Facts) -> Machine:
    """This machine."""
    return observe(ROOT)


def observe(root: Path) -> Machine:
    """The machine; ``root`` is where proc/, sys/ and run/ are."""
    return Machine(
        kernel=platform.release(),
        arch=platform.machine(),
        libc=_libc(),
        cpus=os.cpu_count() or 1,
        cpu_flags=_cpu_flags(_text(root / "proc/cpuinfo")),
        wsl=wsl_version(platform.release()),
        container=_container(root),
        nvidia_cards=_nvidia_cards(root),
        nvidia_module=module_version(_text(root / "proc/driver/nvidia/version")),
        nouveau=(root / "sys/module/nouveau").exists(),
    )


def wsl_version(kernel: str) -> Literal[1, 2] | None:
    """Of a kernel release such as 5.15.153.1-microsoft-standard-WSL2 or 4.4.0-19041-Microsoft."""
    if "microsoft" not in kernel.lower():
        return None
    return 1 if kernel.startswith("4.4.") else 2


def module_version(text: str) -> str | None:
    """Of what /proc/driver/nvidia/version says, of the proprietary or of the open module."""
    found = _MODULE.search(text)
    return found[1] if found else None


def _libc() -> tuple[str, Version] | Unavailable:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        major, minor = (int(number) for number in version.split(".")[:2])
        return name, (major, minor)
    except (ValueError, OSError):
        return Unavailable("the C library is not the GNU one")


def _cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Line ``flags`` on x86, ``Features`` on Arm."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _container(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return _text(root / "run/systemd/container").strip() or None


def _nvidia_cards(root: Path) -> tuple[str, ...]:
    devices = sorted((root / "sys/bus/pci/devices").glob("*"))
    return tuple(
        device.name
        for device in devices
        if _text(device / "vendor").strip() == _NVIDIA
        and _text(device / "class").startswith(_DISPLAY)
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def look_at_interpreter(request: Request, facts: Facts) -> Interpreter:
    """This interpreter, which also runs the local server. Imports nothing."""
    return Interpreter(
        version=sys.version_info[:3],
        executable=sys.executable,
        virtual=sys.prefix != sys.base_prefix,
        lacking=_lacking(),
    )


def _lacking() -> KitError | None:
    try:
        require_native_packages()
    except KitError as error:
        return error
    return None


def look_at_nvidia(request: Request, facts: Facts) -> nvml.Nvidia | Unavailable:
    """What NVML tells."""
    return nvml.probe()


_SHM = "/dev/shm"  # noqa: S108  (asked for its size only)


def look_at_memory(request: Request, facts: Facts) -> HostMemory:
    """RAM, ``ulimit -l`` and /dev/shm; what is free of RAM is asked where the plan is made."""
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return HostMemory(
        total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        locked_bytes=None if locked == resource.RLIM_INFINITY else locked,
        shm_free_bytes=_shm_free_bytes(),
    )


def _shm_free_bytes() -> int | Unavailable:
    try:
        state = os.statvfs(_SHM)
    except OSError as error:
        return Unavailable(f"{_SHM}: {error.strerror}")
    return state.f_bavail * state.f_frsize
