"""Loading the same checkpoint in different ways, side by side: time and memory of each.

Upstream's stock loading, the published fix, the kit's stream (all of them upstream's code, with
different rewrites), and the native engine's loading of the converted directory. Every run is a
process of its own with nothing of the files in the page cache, and rounds are interleaved.
"""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

import kit
from kit.bench.fresh_process import Measured, measure
from kit.errors import EnvironmentNotReady
from kit.memory.probes import nvml
from kit.memory.probes.pagecache import evict
from kit.memory.unavailable import Unavailable
from kit.serve.megatron.folder import DType, read_folder, upstream_arguments
from kit.serve.megatron.launch import environment
from kit.settings import Settings
from kit.upstream.render import MEGATRON, render, write_rendered
from kit.upstream.selection import rewrite_digest, select
from kit.upstream.tree import pinned, read_pristine
from kit.weights.convert.record import Precision

Loader = Literal["stock", "cpu-first", "stream", "native"]
LOADERS: dict[Loader, tuple[str, ...]] = {
    "stock": ("portability",),
    "cpu-first": ("portability", "loading-cpu-first"),
    "stream": ("portability", "loading-stream"),
    "native": (),
}
"""The groups of rewrites that each loader is; the native one is the kit's own code."""
_CONTEXT = 2048
"""Nothing is generated; upstream wants to know."""


@dataclass(frozen=True)
class LoadRun:
    """What one load took, in bytes and seconds.

    Attributes:
        weights_bytes: of the loaded model.
        host_bytes: peak of private host memory (anonymous and shared) over the prepared process;
            on the CPU the weights are in it unless they are mapped.
        device_allocated_bytes, device_reserved_bytes: peaks of torch's live tensors and of its
            pool; None on the CPU.
        device_kept_bytes: the pool afterwards.
        device_used_bytes: peak of what NVML counts for the process, its CUDA context included.
    """

    loader: Loader
    seconds: float
    cpu_seconds: float
    weights_bytes: int
    host_bytes: int
    device_allocated_bytes: int | None
    device_reserved_bytes: int | None
    device_kept_bytes: int | None
    device_used_bytes: int | Unavailable | None


@dataclass(frozen=True)
class Job:
    """What one process is to load.

    Attributes:
        directory: a converted directory, for the native loader.
        tree: the rewritten upstream tree; None for the native loader.
        arguments: upstream's command line, which names the checkpoint.
        device: "cpu" or "cuda".
        dtype: of the native loader's weights.
    """

    directory: str
    tree: str | None
    arguments: tuple[str, ...]
    device: str
    dtype: DType

    def json(self) -> str:
        """As the process's argument."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Sources:
    """What is loaded.

    Attributes:
        checkpoint: a folder in upstream's format, of one shard.
        converted: the same checkpoint, converted in the precision that is loaded.
        trees: the rewritten upstream tree of each loader but the native.
    """

    checkpoint: Path
    converted: Path
    trees: Mapping[Loader, Path]


def make_trees(settings: Settings, folder: Path) -> tuple[dict[Loader, Path], dict[Loader, str]]:
    """Render upstream for each loader below ``folder``; the trees, and their rewrites' digests.

    Raises:
        EnvironmentNotReady: `kit upstream fetch` comes first.
        IntegrityError: the pristine tree has drifted.
    """
    pristine, lock = read_pristine(settings), pinned(settings)
    trees: dict[Loader, Path] = {}
    digests: dict[Loader, str] = {}
    for loader, groups in LOADERS.items():
        if groups:
            rewrites = select(groups)
            write_rendered(render(pristine, rewrites, lock), folder / loader)
            trees[loader], digests[loader] = folder / loader / MEGATRON, rewrite_digest(rewrites)
    return trees, digests


def compare_loaders(
    sources: Sources,
    *,
    device: str,
    dtype: DType,
    rounds: int,
    on_run: Callable[[LoadRun], None] = lambda run: None,
) -> list[LoadRun]:
    """Load with every loader in turn, ``rounds`` times.

    Raises:
        EnvironmentNotReady: files of the checkpoint stay in the page cache.
        KitError: a load failed; its messages are on stderr.
    """
    runs: list[LoadRun] = []
    for _ in range(rounds):
        for loader in LOADERS:
            runs.append(load_once(sources, loader, device=device, dtype=dtype))
            on_run(runs[-1])
    return runs


def load_once(sources: Sources, loader: Loader, *, device: str, dtype: DType) -> LoadRun:
    """One load in a process of its own, on a cold page cache.

    Raises:
        EnvironmentNotReady: files of the checkpoint stay in the page cache.
        KitError: it failed; its messages are on stderr.
    """
    return load_run(loader, measure_load(sources, loader, device=device, dtype=dtype))


def measure_load(sources: Sources, loader: Loader, *, device: str, dtype: DType) -> Measured:
    """The same, as it was measured. Raises what ``load_once`` raises."""
    tree = sources.trees.get(loader)
    arguments: tuple[str, ...] = ()
    if tree is not None:
        folder = read_folder(sources.checkpoint, sources.converted)
        arguments = upstream_arguments(folder, context=_CONTEXT, dtype=dtype, device=device)
    files = sources.converted if tree is None else sources.checkpoint
    _drop_cached(files)
    job = Job(str(sources.converted), None if tree is None else str(tree), arguments, device, dtype)
    return measure(
        [sys.executable, "-m", "kit.bench.load_once", job.json()],
        files,
        environ=environment(1, device, os.environ),
        watch_device=device == "cuda",
    )


def load_run(loader: Loader, measured: Measured) -> LoadRun:
    """The figures of a measured process."""
    facts = measured.facts
    return LoadRun(
        loader=loader,
        seconds=measured.seconds,
        cpu_seconds=measured.cpu_seconds,
        weights_bytes=facts["weights_bytes"],
        host_bytes=measured.growth_bytes,
        device_allocated_bytes=facts.get("allocated_peak_bytes"),
        device_reserved_bytes=facts.get("reserved_peak_bytes"),
        device_kept_bytes=facts.get("reserved_bytes"),
        device_used_bytes=measured.device_bytes,
    )


def _drop_cached(folder: Path) -> None:
    for path in (*folder.glob("*.pt"), *folder.glob("*.safetensors")):
        if resident := evict(path):
            raise EnvironmentNotReady(
                f"{resident} bytes of {path} stay in the page cache",
                hint="another program has it mapped; stop that, or copy the file elsewhere",
            )


MEANING: dict[Loader, str] = {
    "stock": "upstream as it is, made to run",
    "cpu-first": "the published fix: on the CPU first",
    "stream": "the kit's rewrite of upstream",
    "native": "the kit's own engine",
}


@dataclass(frozen=True)
class Comparison:
    """All runs of one checkpoint on one device, "cpu" or "cuda".

    Attributes:
        rewrites: digest of each loader's rewritten upstream tree.
        convert_seconds: what the native loader's directory took to make, once.
    """

    runs: Sequence[LoadRun]
    checkpoint: Path
    device: str
    precision: Precision
    upstream_commit: str
    rewrites: Mapping[Loader, str]
    convert_seconds: float

    @property
    def checkpoint_bytes(self) -> int:
        """Of the checkpoint's files."""
        return sum(path.stat().st_size for path in self.checkpoint.glob("*.pt"))

    def of(self, loader: Loader) -> list[LoadRun]:
        """The runs of one loader."""
        return [run for run in self.runs if run.loader == loader]


def table(found: Comparison) -> str:
    """The runs as Markdown: medians and bests of time, peaks of memory in units of 10^9 bytes."""
    on_gpu = found.device == "cuda"
    heads = ["loader", "seconds median / best", "host memory, private"]
    heads += ["GPU: live tensors", "GPU: torch's pool", "GPU: NVML"] if on_gpu else []
    heads += ["of the checkpoint"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for loader in LOADERS:
        runs = found.of(loader)
        seconds = [run.seconds for run in runs]
        cells = [loader, f"{statistics.median(seconds):.1f} / {min(seconds):.1f}"]
        cells.append(_gb(host_peak(runs)))
        if on_gpu:
            cells += [_gb(device_peak(runs)), _gb(_pool_peak(runs)), _used(runs)]
        peak = device_peak(runs) if on_gpu else host_peak(runs)
        cells.append(f"{peak / found.checkpoint_bytes:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def host_peak(runs: Sequence[LoadRun]) -> int:
    """The most private host memory of any run, in bytes."""
    return max(run.host_bytes for run in runs)


def device_peak(runs: Sequence[LoadRun]) -> int:
    """The most that torch's live tensors held of the GPU in any run, in bytes."""
    return max(run.device_allocated_bytes or 0 for run in runs)


def write_picture(found: Comparison, path: Path) -> None:
    """Bars of memory and time by loader, as PNG.

    Raises:
        EnvironmentNotReady: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentNotReady(
            "pictures need the package matplotlib", hint="in the kit's clone: make setup"
        ) from error
    names = [f"{loader}\n{MEANING[loader]}" for loader in LOADERS]
    panels = {"host memory, private, GB": [host_peak(found.of(x)) / 1e9 for x in LOADERS]}
    if found.device == "cuda":
        vram = {"VRAM, live tensors, GB": [device_peak(found.of(x)) / 1e9 for x in LOADERS]}
        panels = vram | panels
    panels["seconds, median"] = [
        statistics.median(run.seconds for run in found.of(x)) for x in LOADERS
    ]
    figure = Figure(figsize=(10, 1.9 * len(panels) + 0.6), layout="constrained")
    figure.suptitle(
        f"Loading {found.checkpoint_bytes / 1e9:.2f} GB of checkpoint as {found.precision} "
        f"on {found.device}"
    )
    for panel, (title, values) in zip(
        figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        colors = ["#8f8f8f", "#c9a14a", "#3b6ea8", "#3f8f5f"]
        bars = panel.barh(names, values, color=colors)
        panel.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.set_title(title, loc="left", fontsize=9)
        panel.tick_params(labelsize=8)
    figure.savefig(path, format="png", dpi=120)


def write_receipt(found: Comparison, path: Path) -> None:
    """Everything that was measured, and what it was measured of, as JSON."""
    content = {
        "kind": "loaders",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kit": kit.__version__,
        "upstream_commit": found.upstream_commit,
        "rewrites": dict(found.rewrites),
        "machine": _machine(found.device),
        "precision": found.precision,
        "checkpoint_bytes": found.checkpoint_bytes,
        "convert_seconds": found.convert_seconds,
        "runs": [asdict(run) for run in found.runs],
    }
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def _machine(device: str) -> dict[str, Any]:
    gpus = nvml.gpus() if device == "cuda" else ()
    known = () if isinstance(gpus, Unavailable) else gpus
    return {
        "device": device,
        "gpus": [asdict(gpu) for gpu in known],
        "simulated": any(gpu.simulated for gpu in known),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _pool_peak(runs: Sequence[LoadRun]) -> int:
    return max(run.device_reserved_bytes or 0 for run in runs)


def _used(runs: Sequence[LoadRun]) -> str:
    """NVML's peak, or why there is none."""
    known = [run.device_used_bytes for run in runs if isinstance(run.device_used_bytes, int)]
    return _gb(max(known)) if known else next(str(run.device_used_bytes) for run in runs)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"
