"""What a comparison of loaders found: a table, a picture, and a receipt as JSON."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import kit
from kit.bench.loaders import LOADERS, Loader, LoadRun
from kit.errors import EnvironmentNotReady
from kit.memory import nvml
from kit.memory.unavailable import Unavailable
from kit.weights.record import Precision

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
