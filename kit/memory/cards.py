"""What iFlytekSpark-13B can be served with on common cards."""

from dataclasses import dataclass
from typing import Any

from kit.memory.fit import PRECISIONS, Fitting, Option, options
from kit.memory.shape import Architecture, ModelShape
from kit.memory.torch_build import CUDA_BUILD
from kit.units import GIB, MIB

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
