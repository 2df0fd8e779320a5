"""Conversion side by side with today's ways and with the disk itself: time, memory, page cache.

Every run is a process of its own; every round runs the disk's plain reading and writing and every
way once, the file evicted before each. Ratios compare what was run in the same rounds:

    python scripts/bench_convert.py /data/bench --gigabytes 1 2 4 --rounds 5

``of disk`` is (input/R + output/W)/time, with R and W the disk's best plain reading and writing of
just these bytes (the faster of buffered and O_DIRECT), best run against best run. Where
KIT_UPSTREAM_DIR names a clone of upstream at the pinned commit, upstream's own path is among the
ways: what its code does at every start, where the kit converts once.
"""

import argparse
import atexit
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kit.bench.fresh_process import Measured, measure, run_job
from kit.memory.probes.pagecache import evict
from kit.settings import bundled
from kit.units import MIB

if TYPE_CHECKING:
    from kit.bench.loaders import Loader

PIECE_BYTES = 16 * MIB
CHECKPOINT = "mp_rank_00_model_states.pt"
Runs = dict[str, list[Measured]]


def read_plainly(source: Path, direct: bool) -> None:
    """Read a file from front to back into one buffer."""
    fd = os.open(source, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    buffer = piece()
    for offset in range(0, source.stat().st_size, PIECE_BYTES):
        os.preadv(fd, [buffer], offset)
        os.posix_fadvise(fd, offset, PIECE_BYTES, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def piece() -> memoryview:
    """Memory for reading and writing, in huge pages: O_DIRECT is fastest with these."""
    memory = mmap.mmap(-1, PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def write_plainly(target: Path, nbytes: int, direct: bool) -> None:
    """Write as many bytes to a new file and bring them to disk."""
    target.parent.mkdir()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | (os.O_DIRECT if direct else 0), 0o644)
    buffer = piece()
    buffer[:] = os.urandom(PIECE_BYTES)
    for offset in range(0, nbytes, PIECE_BYTES):
        os.pwrite(fd, buffer[: min(PIECE_BYTES, -(-(nbytes - offset) // 4096) * 4096)], offset)
        os.posix_fadvise(fd, offset, PIECE_BYTES, os.POSIX_FADV_DONTNEED)
    os.fsync(fd)
    os.close(fd)


def convert_by_kit(source: Path, output: Path) -> Callable[[], object]:
    """What ``kit weights convert`` runs."""
    from kit.weights.convert.convert import convert_checkpoint

    return lambda: convert_checkpoint(source, output, tokenizer=bundled("demo") / "tokenizer")


def convert_by_torch(source: Path, output: Path, how: str) -> Callable[[], object]:
    """The checkpoint as a state dict of the model, cast; then safetensors by one of three ways."""
    import torch
    from safetensors.torch import save_file

    from kit.checkpoint.model import read_model
    from kit.models.spark import SparkConfig, SparkForCausalLM

    def tensors(mapped: bool) -> dict[str, torch.Tensor]:
        model = torch.load(source, mmap=mapped)["module"]["language_model"]
        upstream = {f"encoder.{name}": tensor for name, tensor in model["encoder"].items()}
        upstream["embedding.word_embeddings.weight"] = model["embedding"]["word_embeddings"][
            "weight"
        ]
        return {
            part.name: upstream[mapping.source.name][
                part.rows.start : part.rows.stop : part.rows.step
            ]
            .to(torch.bfloat16)
            .contiguous()
            for mapping in read_model([source]).mappings
            for part in mapping.parts
        }

    def save_pretrained() -> None:
        dimensions = read_model([source]).dimensions
        with torch.device("meta"):
            model = SparkForCausalLM(
                SparkConfig(
                    hidden_size=dimensions.hidden_size,
                    num_hidden_layers=dimensions.layers,
                    intermediate_size=dimensions.ffn_size,
                    vocab_size=dimensions.vocab_size,
                    num_attention_heads=dimensions.hidden_size // 128,
                )
            )
        model.load_state_dict(tensors(mapped=False), strict=False, assign=True)
        model.tie_weights()
        model.save_pretrained(output)

    def job() -> None:
        output.mkdir()
        if how == "save_pretrained":
            save_pretrained()
        else:
            target = output / "model.safetensors"
            save_file(tensors(mapped=how == "mapped"), target, {"format": "pt"})
        for path in output.glob("*.safetensors"):
            with path.open("rb") as file:
                os.fsync(file.fileno())

    return job


JOBS: dict[str, Callable[[Path, Path], Callable[[], object]]] = {
    "read": lambda source, _: lambda: read_plainly(source, direct=False),
    "read, O_DIRECT": lambda source, _: lambda: read_plainly(source, direct=True),
    "write": lambda s, out: lambda: write_plainly(out / "x", s.stat().st_size // 2, direct=False),
    "write, O_DIRECT": lambda s, out: (
        lambda: write_plainly(out / "x", s.stat().st_size // 2, direct=True)
    ),
    "kit weights convert": convert_by_kit,
    "torch.load, save_pretrained": lambda s, out: convert_by_torch(s, out, "save_pretrained"),
    "torch.load, save_file": lambda s, out: convert_by_torch(s, out, "loaded"),
    "torch.load(mmap=True), save_file": lambda s, out: convert_by_torch(s, out, "mapped"),
}
READS, WRITES = ("read", "read, O_DIRECT"), ("write", "write, O_DIRECT")
OURS, TODAY = "kit weights convert", "torch.load, save_file"
UPSTREAM = "upstream: random weights, torch.load, load_state_dict"
CLONE = os.environ.get("KIT_UPSTREAM_DIR")


@cache
def upstream_trees() -> "dict[Loader, Path]":
    """The clone with the rewrites of each loader, in a folder that stays as long as this process.

    "stock" is upstream's own loading, made to run on any device.
    """
    from kit.bench.loaders import make_trees
    from kit.settings import Settings
    from kit.upstream.source import fetch

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    settings = Settings(data_dir=folder, state_dir=folder)
    fetch(settings, CLONE, lambda line: print(line, file=sys.stderr))
    return make_trees(settings, folder / "trees")[0]


def run_upstream(source: Path) -> Measured:
    """Upstream's own code builds its model in bf16 and loads the checkpoint. Nothing is written."""
    from kit.bench.loaders import Sources, measure_load

    sources = Sources(source.parent, bundled("demo") / "tokenizer", upstream_trees())
    return measure_load(sources, "stock", device="cpu", dtype="bfloat16")


def run(name: str, source: Path) -> Measured:
    """One job, everything cold; the output is removed."""
    if name == UPSTREAM:
        return run_upstream(source)
    output = source.parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    if resident := evict(source):
        raise SystemExit(f"{resident} bytes of {source} stay in the page cache")
    command = [sys.executable, __file__, str(source.parent), "--job", name]
    measured = measure(command, source.parent)
    shutil.rmtree(output, ignore_errors=True)
    return measured


def rounds(source: Path, count: int, names: list[str]) -> Runs:
    """Every job once a round, in an order that moves on from round to round."""
    runs: Runs = {name: [] for name in names}
    for number in range(count):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            measured = run(name, source)
            runs[name].append(measured)
            print(
                f"round {number + 1} {name}: {measured.seconds:.2f} s, "
                f"cpu {measured.cpu_seconds:.2f} s, others' {measured.other_cpu_seconds:.2f} s, "
                f"steal {measured.steal_seconds:.2f} s",
                file=sys.stderr,
                flush=True,
            )
    return runs


def disk_seconds(runs: Runs, pick: Callable[[list[float]], float]) -> float:
    """What the disk itself takes to read the input and write the output."""
    return sum(
        min(pick([m.seconds for m in runs[name]]) for name in names) for names in (READS, WRITES)
    )


def table(runs: Runs, input_bytes: int) -> str:
    """The figures as a Markdown table, with the ratios that are claimed."""
    lines = [
        f"| {input_bytes / 1e9:.2f} GB of fp32 | seconds median / best | MB/s best "
        "| of disk median / best | memory | page cache | CPU s/GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, measured in runs.items():
        times = [m.seconds for m in measured]
        middle, best = statistics.median(times), min(times)
        size = input_bytes // 2 if name in WRITES else input_bytes
        ratio = f"{disk_seconds(runs, statistics.median) / middle:.2f} / " + (
            f"{disk_seconds(runs, min) / best:.2f}"
        )
        lines.append(
            f"| {name} | {middle:.2f} / {best:.2f} | {size / best / 1e6:.0f} "
            f"| {'' if name in READS + WRITES else ratio} "
            f"| {max(m.growth_bytes for m in measured) / 1e6:.0f} MB "
            f"| {max(m.cached_bytes for m in measured) / 1e6:.0f} MB "
            f"| {statistics.median(m.cpu_seconds for m in measured) / size * 1e9:.2f} |"
        )
    if OURS in runs and TODAY in runs:
        ours, today = ([m.seconds for m in runs[name]] for name in (OURS, TODAY))
        lines.append(
            f"\n{OURS} against {TODAY}: {statistics.median(today) / statistics.median(ours):.1f} "
            f"times as fast in the median, {min(today) / min(ours):.1f} times best to best."
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description="Compare ways of converting a checkpoint.")
    parser.add_argument("folder", type=Path, help="on the disk to measure; files are made there")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[2.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*JOBS, UPSTREAM], default=[*JOBS, UPSTREAM])
    parser.add_argument("--json", type=Path, help="write every run's figures there")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        run_job(JOBS[options.job](options.folder / CHECKPOINT, options.folder / "out"))
        return
    names = [*READS, *WRITES, *(n for n in options.only if n not in READS + WRITES)]
    if UPSTREAM in names and not CLONE:
        names.remove(UPSTREAM)
        print("upstream's own path is left out: KIT_UPSTREAM_DIR names no clone", file=sys.stderr)
    results = {}
    for size in options.gigabytes:
        folder = options.folder / f"{size:g}GB"
        make = Path(__file__).with_name("make_checkpoint.py")
        if not (folder / CHECKPOINT).is_file():
            subprocess.run([sys.executable, make, folder, "--gigabytes", str(size)], check=True)
        runs = rounds(folder / CHECKPOINT, options.rounds, names)
        print(table(runs, (folder / CHECKPOINT).stat().st_size), flush=True)
        results[f"{size:g}"] = {name: [asdict(m) for m in runs[name]] for name in names}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
