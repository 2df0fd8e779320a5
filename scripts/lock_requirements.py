"""Write the hash-locked requirements/*.txt from pyproject.toml. Needs uv and a package index.

torch gets files of its own, because an index may offer its CPU build, its CUDA build or both:
requirements/torch-cuda.txt is written here, requirements/torch-cpu.txt is kept by hand (an index of
CPU builds publishes no hashes that this script could ask for).
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
TARGETS = {
    "cli.txt": [],
    "native.txt": ["native", "plot"],  # what `make` installs
    "image.txt": ["native", "megatron"],  # what the container images hold
    "dev.txt": ["native", "plot", "megatron", "dev"],
}
CUDA = re.compile(r"(torch|triton|cuda-\w+|nvidia-(?!ml-py)[\w-]+)==")
HEADER = "# Written by scripts/lock_requirements.py (make lock); do not edit.\n"


def resolve(extras: list[str]) -> list[str]:
    """One block of lines per package: the pin and its hashes."""
    command = ["uv", "pip", "compile", "pyproject.toml", "requirements/build.in"]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--quiet"]
    command += [argument for extra in extras for argument in ("--extra", extra)]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return re.split(r"\n(?=[a-z])", text.strip())


def write(name: str, blocks: list[str]) -> None:
    """Write one requirements file."""
    (REQUIREMENTS / name).write_text(HEADER + "\n".join(blocks) + "\n")
    print(f"{name}: {len(blocks)} packages", file=sys.stderr)


def main() -> None:
    """Resolve every target and write its file."""
    for name, extras in TARGETS.items():
        blocks = resolve(extras)
        write(name, [block for block in blocks if not CUDA.match(block)])
        if name == "native.txt":
            write("torch-cuda.txt", [block for block in blocks if CUDA.match(block)])


if __name__ == "__main__":
    main()
