"""A model built without weights, which then come from the checkpoint one by one.

The file is mapped, never read whole. To a GPU a tensor crosses in pieces, cast on the way; on the
CPU one that already has the right type stays mapped. Pages that have been copied are let go, so
that the host holds no more than one piece, and the device nothing but the weights.

Only tensors are read, as ``checkpoints.py`` does: no object that a file asks for is made.
"""

import ctypes
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from .checkpoints import load_tensors as open_weights

__all__ = ["empty_weights", "open_weights", "stream_weights"]

PIECE_BYTES = 16 * 2**20


def progress(fraction: float) -> None:
    """Is told the share of the weights in place, up to 1.0; who loads may put another here."""


@contextmanager
def empty_weights(args: Any, config: Any) -> Iterator[None]:
    """Modules made inside get parameters without memory, on torch's meta device.

    But not where no weights will come (``--from-pretrained`` is not given), and not where
    DeepSpeed cuts every parameter as it is made (a pipeline, ZeRO 3): they are made as ever.

    Args:
        args: upstream's arguments.
        config: upstream's transformer configuration.
    """
    if args.from_pretrained is None or _is_cut(args):
        yield
        return
    before = [(settings, settings.use_cpu_initialization) for settings in (args, config)]
    for settings, _ in before:
        settings.use_cpu_initialization = True  # else upstream names the GPU itself
    try:
        with torch.device("meta"):  # no number is drawn there, but weights are told how they split
            yield
    finally:  # modules made later, as LoRA's are, come from no file
        for settings, value in before:
            settings.use_cpu_initialization = value


def _is_cut(args: Any) -> bool:
    pipeline = args.deepspeed and not args.no_pipeline_parallel
    return bool(pipeline or args.zero_stage == 3)


def stream_weights(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Fill ``model``, built inside ``empty_weights``, from a checkpoint's ``language_model``.

    Every parameter keeps its type and gets its place on DeepSpeed's device. A model that has
    memory for its weights already is filled as upstream fills it.

    ``state``'s tensors must be mapped from a file, as ``open_weights`` returns them: their pages
    are dropped from memory once they are copied.

    Raises:
        RuntimeError: tensors are missing, left over, or of another shape, or no numbers.
    """
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.load_state_dict(state)
        return
    device = torch.device(get_accelerator().current_device_name())
    sources = dict(_flat(state))
    parameters = dict(model.named_parameters())
    _require_same(sources, parameters)
    total, done = sum(source.nbytes for source in sources.values()), 0
    for name, source in sources.items():
        old = parameters[name]
        new = nn.Parameter(_placed(source, old.dtype, device), requires_grad=old.requires_grad)
        new.__dict__.update(old.__dict__)  # how it is split over ranks
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)
        done += source.nbytes
        progress(done / total)
    _remake_rotary(model)
    _require_filled(model)


def _flat(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield prefix + name, value


def _require_same(
    sources: Mapping[str, torch.Tensor], parameters: Mapping[str, nn.Parameter]
) -> None:
    missing, unknown = sorted(parameters.keys() - sources), sorted(sources.keys() - parameters)
    if missing or unknown:
        raise RuntimeError(
            f"the checkpoint does not fit the model: {len(missing)} tensors are missing"
            f" ({', '.join(missing[:3])}), {len(unknown)} are left over"
            f" ({', '.join(unknown[:3])})"
        )
    for name, source in sources.items():
        if source.shape != parameters[name].shape:
            raise RuntimeError(
                f"the checkpoint does not fit the model: {name} is {list(source.shape)}, "
                f"expected {list(parameters[name].shape)}"
            )
        if not source.is_floating_point():
            raise RuntimeError(f"the checkpoint does not fit the model: {name} is {source.dtype}")


def _placed(source: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type == "cpu" and source.dtype == dtype:
        return source
    target = torch.empty(source.shape, dtype=dtype, device=device)
    count = PIECE_BYTES // source.itemsize
    pieces, places = torch.split(source.reshape(-1), count), torch.split(target.view(-1), count)
    for number, (piece, place) in enumerate(zip(pieces, places, strict=True), start=1):
        if number < len(pieces):
            _advise(pieces[number], mmap.MADV_WILLNEED)
        place.copy_(piece)
        _advise(piece, mmap.MADV_DONTNEED)
    return target


def _advise(mapped: torch.Tensor, advice: int) -> None:
    """Tell the kernel about a tensor's whole pages (madvise(2)).

    With MADV_DONTNEED they leave this process; read again, they come back from the file.
    """
    start = mapped.data_ptr()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + mapped.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _remake_rotary(model: nn.Module) -> None:
    """The rotary embedding's frequencies are in no checkpoint: compute them again."""
    for module in model.modules():
        if hasattr(module, "inv_freq_float"):
            made = type(module)(2 * module.inv_freq.numel())  # type: ignore[operator]
            module.inv_freq_float, module.inv_freq = made.inv_freq_float, made.inv_freq


def _require_filled(model: nn.Module) -> None:
    tensors = (*model.named_parameters(), *model.named_buffers())
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise RuntimeError(f"{len(empty)} tensors of the model stay empty, such as {empty[0]}")
