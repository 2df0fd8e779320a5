"""What torch's pickles are made of, as plain data: storages, tensors, and the calls that name them.

Source of the formats: ``torch/_utils.py`` (``_rebuild_*``) and ``torch/serialization.py``
(persistent ids) of torch 1.6 to 2.13.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    viewed, offset, shape, stride = arguments[:4]  # a hostile rest may be long
    if not isinstance(viewed, Storage) or len(shape) != len(stride):
        raise ValueError("a view of a storage expected")
    return TensorRef(viewed, _count(offset), _counts(shape), _counts(stride))


def _typed_tensor(arguments: Any) -> TensorRef:
    """A tensor whose type is named beside its storage of bytes: fp8, and what came later."""
    untyped, dtype = _tensor(arguments), arguments[6]
    if not isinstance(dtype, Global):
        raise ValueError("a type expected")
    return replace(untyped, storage=replace(untyped.storage, kind=dtype.name))


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
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
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
            "builtins.bytearray",
            "builtins.complex",
            "builtins.range",
            "builtins.slice",
            "__builtin__.bytearray",
            "__builtin__.complex",
            "__builtin__.slice",
            "__builtin__.xrange",
            "collections.Counter",
            "collections.defaultdict",
            "collections.deque",
            "datetime.date",
            "datetime.datetime",
            "datetime.time",
            "datetime.timedelta",
            "datetime.timezone",
            "decimal.Decimal",
            "fractions.Fraction",
            "torch._utils._rebuild_device_tensor_from_numpy",
            "torch._utils._rebuild_meta_tensor_no_storage",
            "torch._utils._rebuild_nested_tensor",
            "torch._utils._rebuild_qtensor",
            "torch._utils._rebuild_sparse_tensor",
            "torch._utils._rebuild_wrapper_subclass",
            "torch._tensor._rebuild_from_type_v2",
            "torch.serialization._get_layout",
            "types.SimpleNamespace",
            "uuid.UUID",
        ),
        _unread,
    ),
}
"""What a checkpoint's pickle may call by name, and what stands for the result."""

GETATTR = ("builtins.getattr", "__builtin__.getattr")
"""How older protocols name a class within a class."""

_CLASS = re.compile(r"(?P<package>[A-Za-z_]\w*)(\.\w+)*\.[A-Z]\w*")
_PATH = re.compile(r"pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path")
_PYTHON_2 = ("__builtin__", "commands", "copy_reg", "exceptions", "popen2")
_ATTACKS = frozenset(
    (
        *("os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "multiprocessing"),
        *("asyncio", "commands", "popen2", "pty", "socket", "shutil", "webbrowser", "ctypes"),
        *("_ctypes", "importlib", "imp", "runpy", "code", "codeop", "marshal", "pip", "pydoc"),
        *("idlelib", "pickle", "_pickle", "dill", "cloudpickle", "joblib", "bdb", "pdb"),
        *("cProfile", "profile", "timeit", "trace"),
    )
)
"""Packages that attacks by pickle call, as picklescan and fickling list them."""


def is_attack(name: str) -> bool:
    """Whether a name is of a package that no training state needs, but attacks do."""
    return name.split(".", 1)[0] in _ATTACKS


def is_passed_over(name: str) -> bool:
    """Whether an object made by a call of this name is passed over, as data beside the weights.

    Enumerations, configurations and other classes of any package (nothing of them is built), and
    paths; never a function, nor what is of Python's own library and not among ``CALLS``.
    """
    if _PATH.fullmatch(name):
        return True
    named = _CLASS.fullmatch(name)
    if named is None or is_attack(name):
        return False
    return named["package"] not in sys.stdlib_module_names and named["package"] not in _PYTHON_2
