"""Tensors on the pretended card: wrappers around tensors of this process's memory."""

import math
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from pretended_card.pool import FOLDER, pool

_DEVICE = torch.device("cuda:0")
_CPU = torch.device("cpu")


class _Block:
    """What one storage takes of the pool, until nobody has it any more."""

    def __init__(self, nbytes: int) -> None:
        self._size = pool.take(nbytes) if nbytes else 0

    def __del__(self) -> None:
        if getattr(self, "_size", 0):
            pool.give(self._size)


_blocks: "WeakValueDictionary[int, _Block]" = WeakValueDictionary()


class OnCard(torch.Tensor):
    """A tensor on the card; ``inner`` holds its numbers."""

    inner: torch.Tensor
    block: _Block

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnCard":
        torch.cuda.init()  # as the first tensor on a GPU does
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=_DEVICE,
            requires_grad=False,
        )
        self.inner = inner
        key = inner.untyped_storage()._cdata
        block = _blocks.get(key)
        if block is None:
            block = _blocks[key] = _Block(inner.untyped_storage().nbytes())
        self.block = block
        return self  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"OnCard({self.inner!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Functions ask for C++ code of the card before they come to the dispatcher: they are
        given what is in the wrappers already here, all but those that say where a tensor is.
        """
        if func is torch.Tensor.tolist:  # refused by C++ for every subclass
            return args[0].cpu().tolist()
        if func is torch._has_compatible_shallow_copy_type:  # a module that is moved to the card
            return False
        if func is torch.Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if func not in _PLACES and func.__name__ not in ("__get__", "__set__"):
            return _run(func, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class CardStorage(torch.UntypedStorage):
    """What a file holds, once torch.load has brought it to the card."""

    @property
    def device(self) -> torch.device:
        """Not where it is, but where torch.load's tensors are to be."""
        return _DEVICE


def load_to_card(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    """As :func:`torch.serialization.register_package` asks for it."""
    if not location.startswith("cuda"):
        return None
    moved = CardStorage(storage.nbytes())
    moved.copy_(storage)
    return moved


_rebuild_tensor = torch._utils._rebuild_tensor


def rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any) -> torch.Tensor:
    """In the place of ``torch._utils._rebuild_tensor``, for what was loaded to the card: C++ gives
    an empty tensor its storage and shape, which a wrapper cannot take on later.
    """
    if not isinstance(storage._untyped_storage, CardStorage):
        return _rebuild_tensor(storage, offset, size, stride)
    with _disable_current_modes():
        empty = torch.empty((0,), dtype=storage.dtype)
        return OnCard(empty.set_(storage._untyped_storage, offset, size, stride))


class _Made(type(torch.Generator)):  # type: ignore[misc]
    """Makes a generator of the device that is asked for; the C++ class knows the CPU's only."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        made: torch.Generator = _Generator()
        if torch.device(device).type == "cuda":
            _card_generators[made._cdata] = made
        return made

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Generator)


_Generator = torch.Generator
_card_generators: "WeakValueDictionary[int, torch.Generator]" = WeakValueDictionary()
"""By the address of what C++ knows: an operation is given another Python object."""


class Generator(torch.Generator, metaclass=_Made):
    """In the place of ``torch.Generator``, which is C++ throughout."""


class Moves(TorchDispatchMode):
    """Makes tensors on the card of those that are brought there, or made in C++."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Factories(TorchFunctionMode):
    """Makes new tensors on the card where the card is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        pinned = given.pop("pin_memory", False)
        place = given.get("device")
        if place is None or torch.device(place).type != "cuda" or OnCard in types:
            return func(*args, **given)
        if pinned:
            raise RuntimeError("Only dense CPU tensors can be pinned")
        return _run(func, args, {**given, "device": torch.device(place)})


_PLACES = {
    torch.Tensor.to,
    torch.Tensor.cpu,
    torch.Tensor.cuda,
    torch.Tensor.type,
    torch.Tensor.is_pinned,
    torch.Tensor.untyped_storage,
    torch.Tensor.requires_grad_,
    torch.Tensor.__repr__,
}
_MIXED = (
    "copy_",
    "_to_copy",
    "index",
    "index_put",
    "index_put_",
    "_index_put_impl_",
    "set_",
    "__getitem__",
    "__setitem__",
)
"""Operations that take a tensor of another device beside their own."""
_NEW = ("empty", "empty_strided", "zeros", "ones", "full")
"""Operations whose first argument is the shape of a tensor that is made."""


def _bytes(args: Any, dtype: torch.dtype | None) -> int:
    shape = args[0] if isinstance(args[0], (tuple, list)) else [n for n in args if type(n) is int]
    return math.prod(shape) * (dtype or torch.get_default_dtype()).itemsize


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do on this process's memory what is asked of the card, and wrap what comes of it."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    name = func.__name__.split(".")[0]
    if name in ("pin_memory", "_pin_memory"):  # all of this process's memory will do
        return args[0].clone()
    places = [value for value in (*args, kwargs.get("device")) if isinstance(value, torch.device)]
    on_card = any(isinstance(tensor, OnCard) for tensor in tensors)
    to_card = places[0].type == "cuda" if places else _stays_on_card(name, args, on_card)
    if on_card or to_card:
        require_present()
        _require_one_device(name, tensors, kwargs, copies=bool(places))
    if to_card and name in _NEW:
        pool.require_room(_bytes(args, kwargs.get("dtype")))
    plain = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    inner_args, inner_kwargs = tree_map(_inner, (args, plain))
    with _disable_current_modes():
        result = func(*inner_args, **inner_kwargs)
    if name == "_to_copy" and result is inner_args[0]:
        result = result.clone()
    if not to_card:
        return result
    wrappers = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, OnCard)}

    def outer(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnCard):
            return value
        known = wrappers.get(id(value))
        return OnCard(value) if known is None else known

    return tree_map(outer, result)


def _stays_on_card(name: str, args: Any, on_card: bool) -> bool:
    """What is copied goes where its target is; all else is where its tensors are."""
    return isinstance(args[0], OnCard) if name == "copy_" else on_card


def _inner(value: Any) -> Any:
    if isinstance(value, torch.device):
        return _CPU
    return value.inner if isinstance(value, OnCard) else value


def _require_one_device(
    name: str, tensors: list[torch.Tensor], kwargs: dict[str, Any], *, copies: bool
) -> None:
    if copies or name in _MIXED:
        return
    if any(not isinstance(t, OnCard) and t.dim() > 0 for t in tensors):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! (in {name})"
        )
    generator = kwargs.get("generator")
    if generator is not None and generator._cdata not in _card_generators:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def require_present() -> None:
    if (FOLDER / "lost").exists():
        raise torch.AcceleratorError(
            "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously "
            "reported at some other API call"
        )
