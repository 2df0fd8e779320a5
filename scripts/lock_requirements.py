"""Write the hash-locked requirements/*.txt from pyproject.toml. Needs uv and a package index.

torch gets files of its own, because an index may offer its CPU build, its CUDA build or both:
torch-cuda.txt is what `make` installs, torch-cuda12.txt what the `cuda` image holds (the last torch
for CUDA 12, which older drivers and older GPUs run); both are written here. torch-cpu.txt is kept
by hand (an index of CPU builds publishes no hashes that this script could ask for).
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
KIT = ["pyproject.toml", "requirements/build.in"]
# The images are Linux on x86-64. Without markers for others, any machine can fetch their packages.
IMAGE = "--python-platform=x86_64-manylinux_2_28"
TARGETS = {
    "cli.txt": KIT,
    "native.txt": [*KIT, "--extra=native", "--extra=plot"],  # what `make` installs
    "dev.txt": [*KIT, "--extra=native", "--extra=plot", "--extra=megatron", "--extra=dev"],
    "image.txt": ["pyproject.toml", "--extra=native", "--extra=megatron", IMAGE],
    "image-build.txt": ["requirements/image-build.in", "requirements/build.in", IMAGE],
    "giftless.txt": ["requirements/giftless.in"],
    "torch-cuda12.txt": ["requirements/torch-cuda12.in", "-c=requirements/image.txt", IMAGE],
}
CUDA = re.compile(r"(torch|triton|cuda-\w+|nvidia-(?!ml-py)[\w-]+)==")
# No part of the images: it needs a C compiler to run, which they have not, and takes 0.6 GB.
LEFT_OUT = "triton=="
HEADER = "# Written by scripts/lock_requirements.py (make lock); do not edit.\n"


def resolve(arguments: list[str]) -> list[str]:
    """One block of lines per package: the pin and its hashes."""
    command = ["uv", "pip", "compile", *arguments, "--python-version=3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--quiet"]
    if IMAGE not in arguments:
        command.append("--universal")
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return re.split(r"\n(?=[a-z])", text.strip())


def write(name: str, blocks: list[str]) -> None:
    """Write one requirements file."""
    (REQUIREMENTS / name).write_text(HEADER + "\n".join(blocks) + "\n")
    print(f"{name}: {len(blocks)} packages", file=sys.stderr)


def main() -> None:
    """Resolve every target and write its file."""
    for name, arguments in TARGETS.items():
        blocks = resolve(arguments)
        if IMAGE in arguments:
            blocks = [block for block in blocks if not block.startswith(LEFT_OUT)]
        cuda = [block for block in blocks if CUDA.match(block)]
        other = [block for block in blocks if not CUDA.match(block)]
        write(name, cuda if name.startswith("torch") else other)
        if name == "native.txt":
            write("torch-cuda.txt", cuda)


if __name__ == "__main__":
    main()
