"""One model, loaded once in a process of its own and measured: what `loading` compares.

Usage: python -m kit.bench.load_once JSON; see :class:`Job`. Speaks with the measuring process as
:mod:`kit.bench.fresh_process` says. Everything that loading needs is imported and started before
it counts: torch, upstream's modules, the process group, the CUDA context. On the CPU every page of
the weights is used once, so that mapped ones count as loaded.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kit.bench.fresh_process import run_job
from kit.bench.loaders import Job
from kit.serve.megatron.upstream import import_upstream, initialise
from kit.serve.megatron.upstream import load_model as load_upstream
from kit.serve.native.loader import load_model


def main() -> None:
    """Prepare, load when told to, say what torch saw."""
    out = _quiet()
    job = Job(**json.loads(sys.argv[1]))
    device = torch.device(job.device)
    if device.type == "cuda":
        torch.zeros(1, device=device)
    with tempfile.TemporaryDirectory() as folder:
        load = _loader(job, device, Path(folder) / "rendezvous")
        kept: list[torch.nn.Module] = []

        def run() -> None:
            kept.append(load())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            else:
                _touch(kept[0])

        run_job(run, lambda: _facts(kept[0], device), out)


def _quiet() -> Any:
    """Upstream's prints, and gloo's below Python, go nowhere; returns the way to the measurer."""
    out = os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    return out


def _loader(job: Job, device: torch.device, rendezvous: Path) -> Callable[[], torch.nn.Module]:
    if job.tree is None:
        return lambda: load_model(Path(job.directory), device, job.dtype, lambda *_: None)
    script = import_upstream(Path(job.tree))
    initialise(script, job.arguments, rendezvous)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return lambda: load_upstream(script)


def _touch(model: torch.nn.Module) -> None:
    """Use one element of every page, so that what is only mapped is read."""
    for parameter in model.parameters():
        parameter.view(-1)[:: 4096 // parameter.itemsize].sum()


def _facts(model: torch.nn.Module, device: torch.device) -> Mapping[str, Any]:
    facts = {"weights_bytes": sum(parameter.nbytes for parameter in model.parameters())}
    if device.type == "cuda":
        facts["allocated_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        facts["reserved_peak_bytes"] = torch.cuda.max_memory_reserved(device)
        facts["reserved_bytes"] = torch.cuda.memory_reserved(device)
    return facts


if __name__ == "__main__":
    main()
