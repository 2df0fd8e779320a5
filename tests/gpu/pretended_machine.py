"""A machine with a pretended GPU: what a process needs in its environment to find it.

The driver's library is a stub in C behind NVIDIA's own bindings. torch is the one that is
installed, with the entry points of a CUDA build (``pretended/``) and the version file of one, so
that the doctor, the plan and the engines go the way that they go on a GPU server. Receipts say
``simulated``.
"""

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests import nvml_driver

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@dataclass(frozen=True)
class Card:
    """The pretended GPU's folder; see ``pretended/pretended_card``."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """Variables of every process that is to find it."""
        paths = (self.folder / "packages", HERE / "pretended", REPOSITORY)
        return {
            "PRETENDED_CARD": str(self.folder / "card"),
            "STUB_SCENARIO": "pretended",
            "LD_LIBRARY_PATH": str(self.folder),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PATH": os.pathsep.join((str(self.folder / "bin"), os.environ["PATH"])),
        }

    def lose(self) -> None:
        """It falls off the bus."""
        (self.folder / "card" / "lost").touch()


def put_in(folder: Path, gib: float) -> Card:
    """A card of ``gib`` GiB, whose files lie in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    nvml_driver.build(folder)
    (folder / "card").mkdir()
    (folder / "card" / "gib").write_text(str(gib))
    _cuda_build(folder / "packages" / "torch")
    (folder / "bin").mkdir()
    smi = folder / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: Simulated GPU'\n")
    smi.chmod(0o755)
    return Card(folder)


def _cuda_build(torch: Path) -> None:
    """The installed torch, with the version file and the library's name of a CUDA build."""
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    installed = Path(spec.origin).parent
    (torch / "lib").mkdir(parents=True)
    for path in installed.iterdir():
        if path.name not in ("lib", "version.py", "__pycache__"):
            (torch / path.name).symlink_to(path)
    for path in (installed / "lib").iterdir():
        (torch / "lib" / path.name).symlink_to(path)
    library = torch / "lib" / "libtorch_cuda.so"
    if not library.exists():
        library.touch()
    told = (installed / "version.py").read_text(encoding="utf-8")
    (torch / "version.py").write_text(
        told.replace("+cpu", "+cu130") + "\ncuda = '13.0'\n", encoding="utf-8"
    )


if __name__ == "__main__":
    for name, value in put_in(Path(sys.argv[1]), float(sys.argv[2])).environ.items():
        print(f"export {name}='{value}'")
