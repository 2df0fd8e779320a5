"""The inverse of the plan: what can be served in a given amount of memory, and on which cards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.errors import UsageError
from kit.memory.plan.line import Device, Engine, Plan, Pool
from kit.memory.plan.native import kv_positions
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.shape import Architecture, ModelShape, Precision
from kit.memory.plan.torch_build import CUDA_BUILD, TorchBuild
from kit.units import GIB, MIB

DEFAULT_CONTEXT = 4096
DEFAULT_KV_BYTES = 13 * GIB // 4
"""The KV cache's share by default: iFlytekSpark-13B in bf16 then stays within 30 GiB."""
DEFAULT_SEQUENCES = 8


def serving_limits(
    shape: ModelShape, context: int | None = None, max_sequences: int | None = None
) -> tuple[int, int]:
    """Context and concurrent sequences to serve with: as asked for, else what fits the defaults.

    Raises:
        UsageError: more context than the model was made for, or none.
    """
    chosen = min(DEFAULT_CONTEXT, shape.max_context) if context is None else context
    if not 2 <= chosen <= shape.max_context:
        raise UsageError(
            f"a context of {chosen} tokens is not possible: the model was made for "
            f"2 to {shape.max_context}",
            hint=f"--context {min(DEFAULT_CONTEXT, shape.max_context)}",
        )
    if max_sequences is None:
        per_token = 2 * shape.layers * shape.hidden * shape.dtype_bytes
        per_sequence = per_token * kv_positions(shape, chosen)
        max_sequences = max(1, min(DEFAULT_SEQUENCES, DEFAULT_KV_BYTES // per_sequence))
    elif max_sequences < 1:
        raise UsageError("at least one sequence must fit", hint="--max-sequences 1")
    return chosen, max_sequences


CONTEXTS = (32768, 16384, 8192, 4096, 2048, 1024, 512)
STEP = 512
"""The longest context that fits is found to so many tokens."""
# More than anybody asks of one card; the search needs an end.
TRIED_SEQUENCES = 64
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
    most = max(least, TRIED_SEQUENCES if fitting.engine == "native" else 1)
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


DRIVER_BYTES = 512 * MIB
"""What the driver keeps of a card: 450 to 540 MiB less in CUDA than in nvidia-smi were seen."""


@dataclass(frozen=True)
class Card:
    """A GPU. ``memory_mib`` is what nvidia-smi shows as its total, with ECC as it is delivered."""

    name: str
    memory_mib: int

    @property
    def usable_bytes(self) -> int:
        """What CUDA programs can have of it, while nobody else does."""
        return self.memory_mib * MIB - DRIVER_BYTES


CARDS = (
    Card("RTX 3060, 4070", 12282),
    Card("RTX 4080, 5080", 16303),
    Card("A10", 23028),
    Card("RTX 3090, 4090", 24564),
    Card("RTX 5090", 32607),
    Card("V100 32 GB", 32768),
    Card("A100 40 GB", 40960),
    Card("L20, L40S", 46068),
    Card("RTX A6000", 49140),
    Card("A100 80 GB", 81920),
    Card("H100 80 GB", 81559),
    Card("H200", 143771),
)


@dataclass(frozen=True)
class CardOptions:
    """What fits a card that nobody else uses: the best of each precision, by its name."""

    card: Card
    best: dict[str, Option]


def card_options(model: Architecture) -> tuple[CardOptions, ...]:
    """What fits each card."""
    shapes: dict[str, ModelShape] = {each: model.at(each) for each in PRECISIONS}
    rows = []
    for card in CARDS:
        fitting = Fitting(card.usable_bytes, "cuda", CUDA_BUILD)
        best: dict[str, Option] = {}
        for option in options(fitting, shapes):
            best.setdefault(option.precision, option)
        rows.append(CardOptions(card, best))
    return tuple(rows)


def describe(option: Option | None) -> str:
    """Context and concurrency of what fits."""
    return f"{option.plan.context} x {option.plan.max_sequences}" if option else "–"


def record(row: CardOptions) -> dict[str, Any]:
    """A row as JSON."""
    best = {
        precision: {
            "context": option.plan.context,
            "max_sequences": option.plan.max_sequences,
            "peak_bytes": option.peak_bytes,
        }
        for precision, option in row.best.items()
    }
    return {"name": row.card.name, "usable_bytes": row.card.usable_bytes, "best": best}


def markdown_table(rows: tuple[CardOptions, ...]) -> str:
    """The table of docs/memory.md."""
    lines = [
        "| card | usable | bf16 | int8 | int4 |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [describe(row.best.get(precision)) for precision in PRECISIONS]
        size = f"{row.card.usable_bytes / GIB:.1f} GiB"
        lines.append(f"| {row.card.name} | {size} | {' | '.join(cells)} |")
    return "\n".join(lines)
