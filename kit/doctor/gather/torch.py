"""The build of torch that is installed, read from its files: importing it takes seconds."""

import importlib.util
import mmap
import re
from pathlib import Path

from kit.doctor.facts import Facts, Torch, Version
from kit.doctor.request import Request
from kit.memory.unavailable import Unavailable

_VERSION = re.compile(r"^__version__ = '([^']+)'$", re.MULTILINE)
_CUDA = re.compile(r"^cuda(?:: [^=]+)? = '(\d+)\.(\d+)[^']*'$", re.MULTILINE)
_ARCHITECTURES = re.compile(rb"sm_\d+[af]?(?: (?:sm|compute)_\d+[af]?)*\0")

WHEELS: dict[str, tuple[str, ...]] = {
    "2.10": ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    "2.11": ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    "2.12": ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    "2.13": ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
}
"""Of the x86-64 wheels torch 2.10.0 (CUDA 12.8), 2.11.0, 2.12.1 and 2.13.0 (CUDA 13.0) as the
package index has them: read from their libtorch_python.so, as below. None of them carries PTX."""


def look(request: Request, facts: Facts) -> Torch:
    """The installed build.

    Raises:
        LookupError: none is installed.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise LookupError("torch is not installed")
    return read(Path(spec.origin).parent)


def read(folder: Path) -> Torch:
    """The build in a package's folder.

    ``torch.cuda.get_arch_list()`` returns a text that is compiled into libtorch_python.so
    (CUDA_ARCH_FLAGS); it is looked for there, else taken from the table of published wheels.
    """
    text = (folder / "version.py").read_text()
    found, cuda = _VERSION.search(text), _CUDA.search(text)
    version = found[1] if found else "unknown"
    if cuda is None:
        return Torch(version, None, (), str(folder / "version.py"))
    library = folder / "lib" / "libtorch_python.so"
    architectures = _compiled_in(library)
    if architectures:
        return Torch(version, _numbers(cuda), architectures, str(library))
    return Torch(version, _numbers(cuda), *published(version))


def published(version: str) -> tuple[tuple[str, ...] | Unavailable, str]:
    """Architectures of a published wheel, and where that is known from."""
    release = ".".join(version.split(".")[:2])
    unknown = Unavailable(f"the architectures of torch {version} are not known")
    return WHEELS.get(release, unknown), f"the wheels of torch {release}"


def _numbers(cuda: re.Match[str]) -> Version:
    return int(cuda[1]), int(cuda[2])


def _compiled_in(library: Path) -> tuple[str, ...]:
    try:
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            for found in _ARCHITECTURES.finditer(content):
                if content[found.start() - 1] == 0:  # a C string of its own
                    return tuple(found[0][:-1].decode().split())
            return ()
    except (OSError, ValueError):
        return ()
