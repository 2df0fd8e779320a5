"""Loading a converted directory: time, memory of the process, page cache; side by side.

Every run is a process of its own and counts from after its imports (and, on a GPU, after CUDA has
started). Cold runs begin with nothing of the files in the page cache:

    python scripts/make_checkpoint.py /data/random --gigabytes 2
    kit weights convert /data/random /data/random/bf16 --tokenizer demo/tokenizer
    python scripts/bench_load.py /data/random/bf16
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import kit.models.spark  # noqa: F401  (makes the Auto classes know Spark)
from kit.bench.fresh_process import Measured, measure, run_job
from kit.checkpoint.pages import Buffer, SourceReader
from kit.memory.probes.pagecache import evict
from kit.models.spark import SparkConfig, SparkForCausalLM
from kit.serve.native.loader import load_model
from kit.serve.native.staging import BUFFER_BYTES, Ring
from kit.units import MIB

Job = Callable[[Path, torch.device], object]


def files(directory: Path) -> list[Path]:
    """The safetensors files."""
    return sorted(directory.glob("*.safetensors"))


def by_kit(directory: Path, device: torch.device) -> torch.nn.Module:
    """What the native engine runs."""
    return load_model(directory, device, "auto", lambda phase, fraction: None)


def touched(directory: Path, device: torch.device) -> None:
    """The same, and all of it used."""
    touch(by_kit(directory, device))


def touched_without_read_ahead(directory: Path, device: torch.device) -> None:
    """The same, each page read by the fault that touches it."""
    with patch("kit.serve.native.loader.read_ahead"):
        touched(directory, device)


def by_ring(directory: Path, device: torch.device) -> None:
    """The ring that a GPU is loaded through, into one buffer that stands for the GPU."""
    target = torch.empty(BUFFER_BYTES, dtype=torch.uint8, device=device)
    with Ring(device) as ring:
        for path in files(directory):
            for piece in ring.pieces(path, 0, path.stat().st_size):
                target[: len(piece)].copy_(piece, non_blocking=True)


def touch(model: torch.nn.Module) -> None:
    """Use one element of every page, so that all of a mapped model is read."""
    for parameter in model.parameters():
        parameter.view(-1)[:: 4096 // parameter.itemsize].sum()


def by_state_dict(directory: Path, device: torch.device) -> None:
    """load_file, then load_state_dict into an empty model."""
    config = SparkConfig.from_pretrained(directory)
    torch.set_default_dtype(torch.bfloat16)
    model: torch.nn.Module = SparkForCausalLM(config)
    for path in files(directory):
        model.load_state_dict(load_file(path), strict=False)
    model.to(device)


def by_transformers(directory: Path, device: torch.device) -> None:
    """from_pretrained."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    model.to(device)


def read_files(directory: Path, device: torch.device) -> None:
    """The disk's own reading."""
    buffer = Buffer(BUFFER_BYTES)
    for path in files(directory):
        reader = SourceReader(path)
        for offset in range(0, path.stat().st_size, BUFFER_BYTES):
            reader.read(buffer.bytes, offset, BUFFER_BYTES)
        reader.close()


def copy_pinned(directory: Path, device: torch.device) -> None:
    """The bus's own copying: as many bytes from one pinned buffer."""
    source = torch.empty(BUFFER_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(BUFFER_BYTES, dtype=torch.uint8, device=device)
    for path in files(directory):
        for _ in range(-(-path.stat().st_size // BUFFER_BYTES)):
            target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)


CPU_JOBS: dict[str, Job] = {
    "disk: plain read, cold": read_files,
    "kit, cold, and every page touched": touched,
    "the same without read-ahead, cold": touched_without_read_ahead,
    "kit, warm": by_kit,
    "kit's ring for GPUs, filled and emptied, cold": by_ring,
    "from_pretrained, warm": by_transformers,
    "load_file and load_state_dict, warm": by_state_dict,
}
GPU_JOBS: dict[str, Job] = {
    "disk: plain read, cold": read_files,
    "bus: pinned copies": copy_pinned,
    "kit, cold": by_kit,
    "kit, warm": by_kit,
    "from_pretrained, cold": by_transformers,
}


def jobs(device: str) -> dict[str, Job]:
    """Those that the device takes."""
    return CPU_JOBS if device == "cpu" else GPU_JOBS


def run(name: str, directory: Path, device: str) -> Measured:
    """One job in a process of its own, with the files out of the page cache or in it."""
    for path in files(directory):
        if name.endswith("warm"):
            with path.open("rb") as file:
                while file.read(16 * MIB):
                    pass
        elif resident := evict(path):
            raise SystemExit(f"{resident} bytes of {path} stay in the page cache")
    command = [sys.executable, __file__, str(directory), "--device", device, "--job", name]
    return measure(command, directory)


def run_one(name: str, directory: Path, device: torch.device) -> None:
    """The measured process's side."""
    if device.type == "cuda":
        torch.zeros(1, device=device)

    def job() -> object:
        result = jobs(device.type)[name](directory, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    run_job(job)


def main() -> None:
    """Run everything in turn and print the table."""
    parser = argparse.ArgumentParser(description="Compare ways of loading a converted directory.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        run_one(options.job, options.directory, torch.device(options.device))
        return
    size = sum(path.stat().st_size for path in files(options.directory))
    names = list(jobs(options.device.partition(":")[0]))
    runs: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            runs[name].append(run(name, options.directory, options.device))
    print(f"| {size / 1e9:.2f} GB of bf16 | seconds median / best | MB/s best | memory |")
    print("|---|---|---|---|")
    for name in names:
        times = [m.seconds for m in runs[name]]
        growth = max(m.growth_bytes for m in runs[name])
        print(
            f"| {name} | {statistics.median(times):.2f} / {min(times):.2f} "
            f"| {size / min(times) / 1e6:.0f} | {growth / 1e6:.0f} MB |"
        )


if __name__ == "__main__":
    main()
