"""Loading side by side: upstream as it is, with the published fix, with the kit's stream; native.

Each run is a process of its own, on a cold page cache, rounds are interleaved; memory is counted
from after the imports. Needs upstream (`kit upstream fetch`) and a checkpoint in its format:

    python scripts/make_checkpoint.py /data/random --gigabytes 1.2
    python scripts/bench_loaders.py /data/random --json loaders.json

At 13B: make_checkpoint.py --layers 40 makes 53 GB; the converted copy beside it takes 27 GB more.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import kit
from kit.errors import KitError
from kit.memory import nvml
from kit.memory.unavailable import Unavailable
from kit.serve.loading import LOADERS, LoadRun, Sources, compare_loaders, make_trees
from kit.serve.megatron.arguments import DType
from kit.settings import Settings, bundled
from kit.upstream.tree import pinned
from kit.weights.convert import convert_checkpoint
from kit.weights.record import Precision

PRECISIONS: dict[Precision, DType] = {"bf16": "bfloat16", "fp32": "float32"}
TOKENIZER = bundled("demo") / "tokenizer" / "tokenizer.model"
"""Conversion asks for one; loading does not use it."""


def table(runs: list[LoadRun], checkpoint_bytes: int, device: str) -> str:
    """The runs as Markdown: medians of time, peaks of memory."""
    on_gpu = device == "cuda"
    heads = ["loader", "seconds median / best", "host memory, private"]
    heads += ["GPU: live tensors", "GPU: torch's pool", "GPU: NVML"] if on_gpu else []
    heads += ["of the checkpoint"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for loader in LOADERS:
        mine = [run for run in runs if run.loader == loader]
        seconds = [run.seconds for run in mine]
        host = max(run.host_bytes for run in mine)
        cells = [loader, f"{statistics.median(seconds):.1f} / {min(seconds):.1f}", gb(host)]
        if on_gpu:
            allocated = max(run.device_allocated_bytes or 0 for run in mine)
            reserved = max(run.device_reserved_bytes or 0 for run in mine)
            cells += [gb(allocated), gb(reserved), used(mine)]
        ratio = (allocated if on_gpu else host) / checkpoint_bytes
        lines.append(f"| {' | '.join([*cells, f'{ratio:.3f}'])} |")
    return "\n".join(lines)


def used(runs: list[LoadRun]) -> str:
    """NVML's peak, or why there is none."""
    known = [run.device_used_bytes for run in runs if isinstance(run.device_used_bytes, int)]
    if known:
        return gb(max(known))
    return next(str(run.device_used_bytes) for run in runs)


def gb(size_bytes: int) -> str:
    """In units of 10^9 bytes."""
    return f"{size_bytes / 1e9:.2f} GB"


def convert(checkpoint: Path, output: Path, precision: Precision) -> float:
    """Convert for the native loader, unless it is done already; returns the seconds it took."""
    started = time.monotonic()
    convert_checkpoint(checkpoint, output, precision=precision, tokenizer=TOKENIZER)
    return time.monotonic() - started


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    found = nvml.gpus()
    gpus = [] if isinstance(found, Unavailable) else [asdict(gpu) for gpu in found]
    return {
        "device": device,
        "gpus": gpus if device == "cuda" else [],
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def receipt(
    runs: list[LoadRun],
    options: argparse.Namespace,
    digests: dict[str, str],
    device: str,
    convert_seconds: float,
) -> dict[str, Any]:
    """Everything that was measured, and what it was measured of."""
    return {
        "kind": "loaders",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kit": kit.__version__,
        "upstream_commit": pinned(options.settings).commit,
        "rewrites": digests,
        "machine": machine(device),
        "precision": options.precision,
        "checkpoint_bytes": size(options.checkpoint),
        "model": json.loads((options.checkpoint / "config.json").read_text()),
        "convert_seconds": convert_seconds,
        "runs": [asdict(run) for run in runs],
    }


def size(folder: Path) -> int:
    """Bytes of the checkpoint's files."""
    return sum(path.stat().st_size for path in folder.glob("*.pt"))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare ways of loading one checkpoint.")
    parser.add_argument("checkpoint", type=Path, help="a folder in upstream's format")
    parser.add_argument("--upstream", help="where to fetch upstream from, if it is not there yet")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--precision", choices=list(PRECISIONS), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a receipt there")
    options = parser.parse_args()
    options.settings = Settings.from_environ()
    return options


def main() -> None:
    """Prepare, measure, print the table."""
    options = parse()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.upstream:
        from kit.upstream.fetch import fetch

        fetch(options.settings, options.upstream, lambda line: print(line, file=sys.stderr))
    converted = options.checkpoint / f"converted-{options.precision}"
    seconds = convert(options.checkpoint, converted, options.precision)
    print(f"converted in {seconds:.1f} s, which the native engine needs once", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        trees, digests = make_trees(options.settings, Path(folder))
        runs = compare_loaders(
            Sources(options.checkpoint, converted, trees),
            device=device,
            dtype=PRECISIONS[options.precision],
            rounds=options.rounds,
            on_run=lambda run: print(f"{run.loader}: {run.seconds:.1f} s", file=sys.stderr),
        )
    print(table(runs, size(options.checkpoint), device))
    if options.json:
        content = receipt(runs, options, digests, device, seconds)
        options.json.write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")
