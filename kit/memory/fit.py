"""The inverse of the plan: what can be served in a given amount of memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kit.memory.limits import DEFAULT_CONTEXT
from kit.memory.plan import Device, Engine, Plan, plan_serving
from kit.memory.plan_line import Pool
from kit.memory.shape import ModelShape, Precision
from kit.memory.torch_build import TorchBuild

CONTEXTS = (32768, 16384, 8192, 4096, 2048, 1024, 512)
STEP = 512
"""The longest context that fits is found to so many tokens."""
# More than anybody asks of one card; the search needs an end.
MOST_SEQUENCES = 64
PRECISIONS: tuple[Precision, ...] = ("bf16", "int8", "int4")
"""Those to choose from, the best one first. fp32 gives nothing more for checkpoints that are served
in bf16 by upstream's own script; it is planned where somebody asks for it."""


@dataclass(frozen=True)
class Option:
    """Something that fits: as many sequences as there is room for."""

    precision: str
    plan: Plan

    @property
    def peak_bytes(self) -> int:
        """In the pool that was to be fitted."""
        return self.plan.peak_bytes(Pool.DEVICE if self.plan.device == "cuda" else Pool.HOST)


@dataclass(frozen=True)
class Fitting:
    """What to fit into how much.

    Attributes:
        room_bytes: of VRAM, or of RAM for a device ``cpu``.
        ranks: processes that upstream's code shares the model among.
        contexts: those to try, the longest first.
        least_sequences: at once.
    """

    room_bytes: int
    device: Device
    build: TorchBuild
    engine: Engine = "native"
    ranks: int = 1
    contexts: Sequence[int] = CONTEXTS
    least_sequences: int = 1

    def option(self, precision: str, shape: ModelShape, context: int, max_sequences: int) -> Option:
        """Just that, whether or not it fits."""
        plan = plan_serving(
            shape,
            context=context,
            max_sequences=max_sequences,
            device=self.device,
            build=self.build,
            engine=self.engine,
            ranks=self.ranks,
        )
        return Option(precision, plan)


def options(fitting: Fitting, shapes: Mapping[str, ModelShape]) -> tuple[Option, ...]:
    """All that fits, the best first.

    A precision of more bits is better, then a longer context, then more sequences. But a context
    shorter than the kit's default comes after all others, whatever its precision.

    Args:
        fitting: what to fit.
        shapes: of the model by precision, the best one first.
    """
    found = [
        option
        for precision, shape in shapes.items()
        for context in _all_contexts(fitting, precision, shape)
        if (option := _fullest(fitting, precision, shape, context))
    ]
    usual = min(DEFAULT_CONTEXT, *(shape.max_context for shape in shapes.values()))
    return tuple(sorted(found, key=lambda option: option.plan.context < usual))


def smallest(fitting: Fitting, shapes: Mapping[str, ModelShape]) -> Option:
    """What takes the least of all that was to be tried."""
    tried = [
        fitting.option(precision, shape, _contexts(fitting, shape)[-1], fitting.least_sequences)
        for precision, shape in shapes.items()
    ]
    return min(tried, key=lambda option: option.peak_bytes)


def _all_contexts(fitting: Fitting, precision: str, shape: ModelShape) -> list[int]:
    """Those to try, and the longest that fits, which may lie between two of them."""
    contexts = _contexts(fitting, shape)
    if len(contexts) == 1:
        return [*contexts]
    longest = _most(
        contexts[-1] // STEP,
        contexts[0] // STEP,
        lambda steps: _fits(fitting, precision, shape, steps * STEP, fitting.least_sequences),
    )
    return sorted({longest * STEP, *contexts} - {0}, reverse=True)


def _contexts(fitting: Fitting, shape: ModelShape) -> tuple[int, ...]:
    """Those that the model was made for; at least its own."""
    possible = tuple(context for context in fitting.contexts if context <= shape.max_context)
    return possible or (shape.max_context,)


def _fullest(fitting: Fitting, precision: str, shape: ModelShape, context: int) -> Option | None:
    """With the most sequences that fit; None: not even the least do."""
    least = fitting.least_sequences
    if not _fits(fitting, precision, shape, context, least):
        return None
    most = max(least, MOST_SEQUENCES if fitting.engine == "native" else 1)
    sequences = _most(least, most, lambda n: _fits(fitting, precision, shape, context, n))
    return fitting.option(precision, shape, context, sequences)


def _fits(
    fitting: Fitting, precision: str, shape: ModelShape, context: int, sequences: int
) -> bool:
    option = fitting.option(precision, shape, context, sequences)
    return option.peak_bytes <= fitting.room_bytes


def _most(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest number from ``low`` to ``high`` for which it still holds, as it does for ``low``.

    What holds for a number holds for all smaller ones.
    """
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
