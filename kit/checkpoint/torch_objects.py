"""What torch's pickles are made of, as plain data: storages, tensors, and the calls that name them.

Source of the formats: ``torch/_utils.py`` (``_rebuild_*``) and ``torch/serialization.py``
(persistent ids) of torch 1.6 to 2.13.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


class _Opaque:
    """Stands for every object that is not read."""

    def __repr__(self) -> str:
        return "OPAQUE"


OPAQUE: Final = _Opaque()


@dataclass(frozen=True)
class Global:
    """The dotted name of a class or function that the pickle mentions. Never imported."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A torch storage: ``numel`` elements of one type in the archive's member ``data/<key>``.

    Attributes:
        kind: torch's class for it, such as ``torch.FloatStorage``.
    """

    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor as the pickle describes it: a view of a storage; offset and stride in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def text(value: object) -> str:
    """``value`` if it is text. Raises TypeError."""
    if type(value) is not str:
        raise TypeError("text expected")
    return value


def storage(persistent_id: Any) -> Storage:
    """The storage of ``("storage", class, key, device, element count)``. Raises ValueError."""
    tag, kind, key, _, numel = persistent_id
    if tag != "storage" or not isinstance(kind, Global):
        raise ValueError("a storage expected")
    return Storage(kind.name, text(key), _count(numel))


def keep_text_keys(target: dict[str, Any], key: object, value: object) -> None:
    """Set an item; keys that are not text are dropped.

    No tensor has such a key, and hashing a hostile one (nested tuples) can take for ever.
    """
    if type(key) is str:
        target[key] = value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("a count expected")
    return value


def _counts(value: object) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > 8:
        raise ValueError("a shape expected")
    return tuple(_count(item) for item in value)


def _tensor(arguments: Any) -> TensorRef:
    viewed, offset, shape, stride, *_ = arguments
    if not isinstance(viewed, Storage) or len(shape) != len(stride):
        raise ValueError("a view of a storage expected")
    return TensorRef(viewed, _count(offset), _counts(shape), _counts(stride))


def _first(arguments: Any) -> Any:
    return arguments[0]


def _ordered_dict(arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in arguments[0] if arguments else ():
        keep_text_keys(result, key, value)
    return result


def _unread(_: object) -> _Opaque:
    return OPAQUE


CALLS: dict[str, Callable[[Any], Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Size": _first,
    "collections.OrderedDict": _ordered_dict,
    # What training writes beside the tensors: random states, sets, the model type in its arguments.
    **dict.fromkeys(
        (
            "torch.device",
            "builtins.set",
            "builtins.frozenset",
            "__builtin__.set",
            "__builtin__.frozenset",
            "_codecs.encode",
            "numpy.dtype",
            "numpy.core.multiarray._reconstruct",
            "numpy.core.multiarray.scalar",
            "numpy.core.numeric._frombuffer",
            "numpy._core.multiarray._reconstruct",
            "numpy._core.multiarray.scalar",
            "numpy._core.numeric._frombuffer",
            "megatron.core.enums.ModelType",
        ),
        _unread,
    ),
}
"""Everything a checkpoint's pickle may call, and what stands for the result."""
