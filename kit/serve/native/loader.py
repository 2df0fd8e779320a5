"""A converted directory becomes a model: built on the meta device, every tensor assigned once."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.memory.probes import cgroup, proc
from kit.memory.unavailable import Unavailable
from kit.models.spark import SparkConfig, SparkForCausalLM
from kit.models.spark.rotary_spark import SparkRotaryEmbedding
from kit.serve.engine import Progress
from kit.serve.native.quantised import Int4Linear, quantise_linears
from kit.serve.native.staging import Ring, stage
from kit.units import MIB

_STEP_BYTES = MIB // 2
"""A larger request is cut by the kernel: it would read only the start (mm/readahead.c)."""


DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


def load_model(
    directory: Path,
    device: torch.device,
    dtype: DTypeName,
    progress: Progress,
    *,
    staged: bool | None = None,
) -> SparkForCausalLM:
    """Load the model without ever holding it twice.

    Nothing is initialised: modules are built on the meta device. On the CPU the parameters are
    the memory-mapped file itself, so that loading takes no private memory, and the kernel reads
    it from the disk meanwhile; on a GPU each tensor is filled through a ring of pinned buffers. A
    dtype other than the files' is made tensor by tensor, on the device.

    Args:
        directory: what ``kit weights convert`` made.
        device: where the parameters will be.
        dtype: of the parameters; ``auto`` is the files' own.
        progress: told how much of the files has been taken.
        staged: copy through the ring rather than map; None does so on GPUs.

    Raises:
        EnvironmentNotReady: not a converted directory.
        IntegrityError: a file is damaged, or tensors are missing, left over or of a wrong shape.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files or not (directory / "config.json").is_file():
        raise EnvironmentNotReady(
            f"{directory} holds no converted weights (config.json and *.safetensors)",
            hint="make it with: kit weights convert CHECKPOINT DIRECTORY",
        )
    config = SparkConfig.from_pretrained(directory)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = SparkForCausalLM(config)
        quantise_linears(model, config)
    wanted = dict(model.named_parameters(remove_duplicate=True))
    total = sum(path.stat().st_size for path in files)
    done = 0
    staged = device.type != "cpu" if staged is None else staged
    if not staged:
        read_ahead(files)
    with Ring(device) if staged else nullcontext() as ring:
        for path in files:
            for name, tensor in _read(path, ring):
                _require_fit(wanted.pop(name, None), name, tensor, path)
                _assign(model, name, _cast(tensor, dtype))
                done += tensor.nbytes
                progress("weights", min(done / total, 1.0))
    _require_all_assigned(wanted, directory)
    model.tie_weights()
    model.model.rotary_emb = SparkRotaryEmbedding(config, device)
    model.requires_grad_(False)
    model.train(False)
    return model


def _read(path: Path, ring: Ring | None) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a file: through the ring, or mapped. A packed one, which is copied, then has
    a mapping of its own: when that goes, its pages no longer count as the process's.
    """
    try:
        if ring:
            yield from stage(path, ring)
            return
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                if name.endswith(".weight_packed"):
                    with safe_open(path, framework="pt") as for_this_one:
                        yield name, for_this_one.get_tensor(name)
                else:
                    yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(
            f"{path} cannot be read: {error}",
            hint=f"remove {path.parent} and convert the checkpoint again",
        ) from error


def _cast(tensor: torch.Tensor, dtype: DTypeName) -> torch.Tensor:
    if dtype == "auto" or not tensor.is_floating_point():
        return tensor
    return tensor.to(getattr(torch, dtype))


def _require_fit(
    parameter: nn.Parameter | None, name: str, tensor: torch.Tensor, path: Path
) -> None:
    if parameter is None or parameter.shape != tensor.shape:
        why = "unexpected" if parameter is None else f"expected {list(parameter.shape)}"
        raise IntegrityError(
            f"{path.name}: tensor {name} {list(tensor.shape)} does not fit the model ({why})",
            hint=f"{path.parent} mixes files of different models; convert the checkpoint again",
        )


def _assign(model: SparkForCausalLM, name: str, tensor: torch.Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if isinstance(owner, Int4Linear):
        tensor = owner.laid_out(leaf, tensor)
    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))


def _require_all_assigned(wanted: dict[str, nn.Parameter], directory: Path) -> None:
    missing = sorted(set(wanted) - {"lm_head.weight"})
    if missing:
        raise IntegrityError(
            f"{directory} lacks {len(missing)} tensors, the first is {missing[0]}",
            hint="convert the checkpoint again",
        )


def read_ahead(files: Sequence[Path]) -> threading.Thread | None:
    """Begin to read ``files`` in their order, in a thread that nobody has to wait for.

    None where they are larger than the memory that is free: they would drive each other out.
    """
    total_bytes = sum(path.stat().st_size for path in files)
    if not hasattr(os, "posix_fadvise") or total_bytes > _free_bytes():
        return None
    thread = threading.Thread(target=_advise, args=(files,), name="read-ahead", daemon=True)
    thread.start()
    return thread


def _advise(files: Sequence[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError), path.open("rb") as file:
            for offset in range(0, path.stat().st_size, _STEP_BYTES):
                os.posix_fadvise(file.fileno(), offset, _STEP_BYTES, os.POSIX_FADV_WILLNEED)


def _free_bytes() -> int:
    """What the page cache can take; 0 where that is not known."""
    available, group = proc.available_ram_bytes(), cgroup.memory_limit()
    if isinstance(available, Unavailable) or isinstance(group, Unavailable):
        return 0
    return available if group is None else min(available, group.free_bytes)
