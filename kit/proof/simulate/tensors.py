"""Tensors without data: torch's fake mode, with a ledger of what they would take.

On a fake tensor every operation gives shapes, types and devices, and no number. Devices that do not
go together are refused, as on a GPU. A value that the code reads (``item``, ``tolist``) does not
exist: a zero is given, and the line that asked is noted, since there a host waits for its GPU.
"""

import ctypes
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from kit.errors import EnvironmentNotReady
from kit.memory.plan.allocator import OutOfPool
from kit.proof.simulate.ledger import Ledger, Place
from kit.proof.simulate.operations import Recall, attention_on_gpu

aten = torch.ops.aten
_MAKES_FAKE = {aten.lift.default, aten.lift_fresh.default}
"""What torch.tensor does with the real tensor that it has made."""
_NO_KERNEL = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten._unsafe_view.default,
    aten.detach_.default,
    torch.ops.prim.device.default,
}
_READS_WHAT_IT_RETURNS = {
    aten.embedding.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.gather.default,
}
_WRITES_WHAT_IT_IS_GIVEN = {aten.index_put_.default, aten.scatter_.src, aten.scatter_add_.default}
_ONLY_WRITES = {aten.fill_.Scalar, aten.zero_.default, aten.copy_.default}
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
_CUDA, _META = 1, 14
"""Of c10::DeviceType (c10/core/DeviceType.h), which ONNX models store: they never change."""


class _Fake(FakeTensorMode):
    """torch's, for machines without a GPU, whatever ``torch.cuda`` is made to say."""

    @property
    def avoid_device_init(self) -> bool:
        return True


class Watch(TorchDispatchMode):
    """Sees every operation below Python, and tells the ledger whose bytes come and go.

    Attributes:
        meta_is_real: tensors on torch's own meta device are left alone, as those are that code
            makes there by itself; torch.load makes fake ones of them.
    """

    def __init__(self, ledger: Ledger, fake: FakeTensorMode) -> None:
        super().__init__()
        self.ledger = ledger
        self.meta_is_real = True
        self._recall = Recall(fake)
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("generator", None)  # there are no numbers, nor random ones
        if func is torch.ops.prim.device.default and is_without_data(args[0]):
            return args[0].fake_device
        if func is aten.scaled_dot_product_attention.default:
            with self:
                return attention_on_gpu(*args, **kwargs)
        if _is_composite(func):  # they come whole in inference mode: see them as a GPU does
            with self:
                return func.decompose(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return self._read(args[0])
        if kwargs.get("pin_memory"):
            return self._pinned(func, args, kwargs)
        if func is aten._pin_memory.default:
            shape, dtype = args[0].shape, args[0].dtype
            return self._pinned(torch.empty, (shape,), {"dtype": dtype, "pin_memory": True})
        return self._run(func, args, kwargs)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation, counted."""
        if func is aten._to_copy.default and _is_meta(kwargs.get("device")):
            kwargs["device"] = torch.device("cuda:0")  # see _guard_like_meta
        given = list(_tensors((*args, *kwargs.values())))
        if self._all_real(func, given, kwargs):
            with fake_tensor.unset_fake_temporarily():
                return func(*args, **kwargs)  # what is real stays so, until it meets what is not
        if func is aten.copy_.default and not is_without_data(args[1]):
            result = args[0]  # there is nothing to copy to
        elif all(is_without_data(tensor) for tensor in given):
            result = self._recall.run(func, args, kwargs, _gives(func))
        else:
            result = func(*args, **kwargs)
        made = list(_tensors((result,)))
        if not _is_view(func):
            for tensor in made:
                self.adopt(tensor)
        self._count(func, given, made)
        return result

    def adopt(self, tensor: torch.Tensor, place: Place | None = None) -> None:
        """Count a tensor's bytes, unless they are known, until nothing holds them any more."""
        place = place or _place(tensor.device)
        storage = tensor.untyped_storage()
        key = storage._cdata
        if place is None or key in self._known:
            return
        size = storage.nbytes()
        try:
            block = self.ledger.take(place, size)
        except OutOfPool as error:
            raise torch.OutOfMemoryError(f"simulated: out of memory: {error}") from error

        def gone(_: object) -> None:
            del self._known[key]
            self.ledger.give(place, size, block)

        self._known[key] = weakref.ref(storage, gone)

    def _all_real(self, func: Any, given: list[torch.Tensor], kwargs: Mapping[str, Any]) -> bool:
        """Whether only real tensors take part: of the host, or on torch's own meta device."""
        if func in _MAKES_FAKE or any(is_without_data(tensor) for tensor in given):
            return False
        if _is_meta(device := kwargs.get("device")):
            return self.meta_is_real
        return bool(given) and device in (None, torch.device("cpu"))

    def _pinned(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Pinned memory is small and seen by other threads as bytes: it is real, but not pinned."""
        kwargs["pin_memory"] = False
        with fake_tensor.unset_fake_temporarily():
            made: torch.Tensor = func(*args, **kwargs)
        self.adopt(made, Place.PINNED)
        return made

    def _read(self, tensor: torch.Tensor) -> bool | int | float:
        """What stands for a value that the host asks for."""
        self.ledger.step.reads[_asked_from()] += 1
        if tensor.dtype == torch.bool:
            return False
        return 0.0 if tensor.dtype.is_floating_point else 0

    def _count(self, func: Any, given: list[torch.Tensor], made: list[torch.Tensor]) -> None:
        if func in _NO_KERNEL or _is_view(func, but_written=True):
            return
        if any(tensor.device.type == "cuda" for tensor in (*given, *made)):
            self.ledger.step.kernels += 1
            self.ledger.step.bytes_moved += _bytes_moved(func, given, made)


@contextmanager
def without_data(ledger: Ledger) -> Iterator[Watch]:
    """Inside, new tensors have no data, GPU or not, and ``ledger`` counts them.

    Raises:
        EnvironmentNotReady: this build of torch cannot.
    """
    if not torch.cuda._is_compiled():
        _guard_like_meta()
    with ExitStack() as stack:
        stack.enter_context(_set(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0))  # else some are real
        stack.enter_context(_set(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(_set(FakeTensor, "is_meta", property(_claims_meta)))
        fake = stack.enter_context(_Fake(allow_non_fake_inputs=True))
        stack.enter_context(_set(torch.utils, "swap_tensors", _forgetful_swap(fake)))
        yield stack.enter_context(Watch(ledger, fake))


def _claims_meta(tensor: FakeTensor) -> bool:
    """What ``is_meta`` should say; it looks below the device that the tensor pretends to have."""
    return tensor.fake_device.type == "meta"


def _forgetful_swap(fake: FakeTensorMode) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """nn.Module.to swaps fake parameters, which the mode's weak memo of them would forbid."""
    swap = torch.utils.swap_tensors

    def forgetful(one: torch.Tensor, other: torch.Tensor) -> None:
        fake.fake_tensor_converter.meta_converter.tensor_memo.clear()
        swap(one, other)

    return forgetful


def is_without_data(tensor: torch.Tensor) -> bool:
    """Whether it is one of these."""
    return isinstance(tensor, FakeTensor)


@contextmanager
def with_data() -> Iterator[None]:
    """Inside, new tensors are real again."""
    with _disable_current_modes():
        yield


@contextmanager
def _set(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _guard_like_meta() -> None:
    """Let a build of torch without CUDA switch between CUDA devices, by doing nothing.

    Indexing and others switch devices in C++, below every mode. With a CUDA build the fake mode
    puts a guard there that does nothing (c10/core/impl/DeviceGuardImplInterface.cpp,
    ``ensureCUDADeviceGuardSet``). Without one there is no guard for CUDA at all; that of the meta
    device does nothing, too. But it names its own device where "cuda" has no index.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        guards = (ctypes.c_void_p * (_META + 1)).in_dll(library, _GUARDS)
    except (OSError, ValueError) as error:
        raise EnvironmentNotReady(
            f"torch {torch.__version__} cannot stand in for a GPU: {error}",
            hint="install the build of torch with CUDA, which needs no GPU for this",
        ) from error
    guards[_CUDA] = guards[_CUDA] or guards[_META]


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Those among the arguments of an operation, or in lists among them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _is_meta(device: object) -> bool:
    return isinstance(device, torch.device) and device.type == "meta"


def _place(device: torch.device) -> Place | None:
    return {"cuda": Place.GPU, "cpu": Place.HOST}.get(device.type)


@cache
def _is_composite(func: Any) -> bool:
    return func.namespace == "aten" and bool(func._can_decompose())


@cache
def _gives(func: Any) -> str:
    """What an operation returns: ``new`` tensors, a ``view`` of its first argument, or ``self``."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    if func is aten._unsafe_view.default:  # its schema does not say so
        return "view"
    if not any(aliases):
        return "new"
    return "self" if aliases[0].is_write else "view"


@cache
def _is_view(func: Any, *, but_written: bool = False) -> bool:
    """Whether everything that an operation returns is an input's memory.

    With ``but_written`` not, if the operation writes to it.
    """
    aliases = [returned.alias_info for returned in func._schema.returns]
    return bool(aliases) and all(
        alias is not None and not (but_written and alias.is_write) for alias in aliases
    )


def _bytes_moved(func: Any, given: list[torch.Tensor], made: list[torch.Tensor]) -> int:
    """Bytes that an operation reads and writes on the GPU, each tensor once."""
    if func in _READS_WHAT_IT_RETURNS:
        return 2 * _on_gpu(made) + _on_gpu(given[1:])
    if func in _WRITES_WHAT_IT_IS_GIVEN:
        return _on_gpu(given[1:]) + _on_gpu(given[-1:])
    if func in _ONLY_WRITES:
        return _on_gpu(given)
    written = [tensor for tensor in made if all(tensor is not each for each in given)]
    in_place = [tensor for tensor in made if any(tensor is each for each in given)]
    return _on_gpu(given) + _on_gpu(written) + _on_gpu(in_place)


def _on_gpu(tensors: Iterable[torch.Tensor]) -> int:
    """A tensor that repeats its memory counts as much as it has."""
    return sum(
        min(tensor.nbytes, tensor.untyped_storage().nbytes())
        for tensor in tensors
        if tensor.device.type == "cuda"
    )


def _asked_from() -> str:
    """The line outside of torch and of this file that asks for a value."""
    torch_root = str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_stack()):
        if frame.filename != __file__ and not frame.filename.startswith(torch_root):
            return f"{Path(frame.filename).name}:{frame.name}"
    return "torch"
