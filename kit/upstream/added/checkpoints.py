"""Checkpoints as they are, of a training too: their tensors are read, nothing else is made.

A training leaves its arguments, its optimizer's options and what else it likes beside the weights.
``torch.load`` refuses such a file, or builds every object that it asks for, which is to run the
file. Here each of them becomes an ``Unread``, whatever it was.
"""

import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

_MAP_NORESERVE = 0x4000
"""Of Linux's <asm-generic/mman.h>; Python's mmap module has it from 3.13 on."""
_READ = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): torch._utils._rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""The only things of a file's choice that are called: what tensors and their dicts are made of."""


class Unread:
    """Stands for an object that was not made; takes whatever a pickle does to one."""

    def __new__(cls, *arguments: Any, **named: Any) -> "Unread":
        """A pickle calls the object's class, or a function that returns one."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """What it would have been made of is dropped."""

    def __setstate__(self, state: object) -> None:
        """Its attributes are dropped."""

    def __setitem__(self, key: object, value: object) -> None:
        """Entries of what was a dict are dropped."""

    def append(self, item: object) -> None:
        """Items of what was a list or a set are dropped."""

    extend = add = append

    def __call__(self, *arguments: Any, **named: Any) -> "Unread":
        """What an unread thing makes is unread."""
        return self

    def __hash__(self) -> int:
        """It may have been a key."""
        return id(self)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if isinstance(dtype := getattr(torch, name, None), torch.dtype) and module == "torch":
            return dtype
        return _READ.get((module, name), Unread)


_PICKLE = SimpleNamespace(__name__="pickle", Unpickler=_Unpickler)


def load_tensors(path: str, map_location: object = None, *, mapped: bool = True) -> dict[str, Any]:
    """A checkpoint's content, its tensors on the CPU, whatever device was asked for.

    Args:
        mapped: they stay in the file until they are used; else they are read now.

    Raises:
        RuntimeError: it is no checkpoint, or in the format of a torch before 1.6.
    """
    if not zipfile.is_zipfile(path):
        raise RuntimeError(f"{path} is not a checkpoint that torch 1.6 or later has saved")
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise RuntimeError(f"{path} is a TorchScript program, not a checkpoint")
    ours: dict[str, Any] = {"weights_only": False, "pickle_module": _PICKLE}
    with _mapped_without_reserve():
        content = torch.load(path, map_location="cpu", mmap=mapped, **ours)
    if not isinstance(content, dict):
        raise RuntimeError(f"{path} is not a checkpoint: it holds a {type(content).__name__}")
    return content


@contextmanager
def _mapped_without_reserve() -> Iterator[None]:
    """torch maps a file so that it could be written to. Linux takes that for a claim on memory, and
    refuses it where the file is larger than RAM and swap (vm.overcommit_memory, proc(5)), though
    pages that are only read are the file's own. MAP_NORESERVE says that it is no claim.
    """
    from_file = torch.UntypedStorage.from_file
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE

    def map_file(path: str, shared: bool, nbytes: int) -> torch.UntypedStorage:
        with Path(path).open("rb") as file:
            memory = mmap.mmap(file.fileno(), nbytes, flags=flags)
        return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()

    torch.UntypedStorage.from_file = map_file  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.UntypedStorage.from_file = from_file  # type: ignore[method-assign]
