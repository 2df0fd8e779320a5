"""All paths' timelines over each other, as a picture: VRAM above, host RAM below."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import EnvironmentNotReady
from kit.memory.plan.line import Engine, Pool
from kit.proof.simulate.ledger import Moment, Stage
from kit.proof.simulate.report import MEANING, outside_bytes
from kit.proof.simulate.run import Simulated
from kit.units import GIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS: dict[Engine, str] = {
    "stock": "#b5534a",
    "cpu-first": "#c9a14a",
    "megatron": "#3b6ea8",
    "native": "#3f8f5f",
}
_BUDGET_COLOR = "#555555"
_SHARES = {
    Stage.BUILD: 1.0,
    Stage.LOAD: 1.6,
    Stage.MOVE: 0.8,
    Stage.PROMPT: 1.6,
    Stage.DECODE: 0.8,
}
"""How wide a stage is drawn. It says nothing of time, which a simulation does not know."""


def write_picture(all_found: Sequence[Simulated], budget_bytes: int, path: Path) -> None:
    """Draw the paths as SVG or PNG, by the file's name.

    Raises:
        EnvironmentNotReady: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentNotReady(
            "pictures need the package matplotlib", hint="in the kit's clone: make setup"
        ) from error
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kit", "font.size": 10}):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw(above, all_found, Pool.DEVICE, "VRAM, GiB")
        _draw(below, all_found, Pool.HOST, "host RAM, GiB")
        label = f"budget {budget_bytes / GIB:.0f} GiB"
        above.axhline(budget_bytes / GIB, color=_BUDGET_COLOR, linestyle="--", linewidth=1)
        above.text(0.03, budget_bytes / GIB, label, va="bottom", fontsize=9, color=_BUDGET_COLOR)
        above.legend(loc="upper left", fontsize=9, framealpha=0.95)
        _name_stages(above, below)
        figure.suptitle(_title(all_found[0]), fontsize=11)
        try:
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=110, metadata=metadata)
        except (OSError, ValueError) as error:
            raise EnvironmentNotReady(
                f"the picture cannot be written: {error}", hint="name a .png or .svg file elsewhere"
            ) from error


def _title(found: Simulated) -> str:
    job = found.job
    return (
        f"{job.model.parameters / 1e9:.1f} billion parameters in {job.precision}, "
        f"{job.context} tokens: simulated, upstream's and the kit's real code on tensors without "
        "data"
    )


def _draw(panel: "Axes", all_found: Sequence[Simulated], pool: Pool, label: str) -> None:
    highest = 0.0
    for found in all_found:
        places, values = _line(found, pool)
        peak = max(values)
        name = f"{found.job.engine} ({MEANING[found.job.engine]}): peak {peak:.1f}"
        color = _COLORS[found.job.engine]
        panel.plot(places, values, color=color, linewidth=1.8, label=name)
        panel.fill_between(places, values, color=color, alpha=0.07)
        highest = max(highest, peak)
    panel.set_ylim(0, highest * 1.12)
    panel.set_ylabel(label)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _line(found: Simulated, pool: Pool) -> tuple[list[float], list[float]]:
    places: list[float] = []
    values: list[float] = []
    last = 0
    for stage, (begin, end) in _spans().items():
        outside = outside_bytes(found, pool, stage)
        moments = [moment for moment in found.moments if moment.stage is stage]
        sizes = [_size(moment, pool) for moment in moments] or [last]
        for index, size in enumerate(sizes):
            places.append(begin + (end - begin) * index / max(1, len(sizes) - 1))
            values.append((size + outside) / GIB)
        if len(sizes) == 1:
            places.append(end)
            values.append((sizes[0] + outside) / GIB)
        last = sizes[-1]
    return places, values


def _size(moment: Moment, pool: Pool) -> int:
    return moment.reserved_bytes if pool is Pool.DEVICE else moment.host_bytes


def _spans() -> dict[Stage, tuple[float, float]]:
    spans, place = {}, 0.0
    for stage, share in _SHARES.items():
        spans[stage] = (place, place + share)
        place += share
    return spans


def _name_stages(above: "Axes", below: "Axes") -> None:
    spans = _spans()
    for panel in (above, below):
        for begin, _ in spans.values():
            panel.axvline(begin, color="#aaaaaa", linewidth=0.6, linestyle=":")
    below.set_xlim(0, max(end for _, end in spans.values()))
    below.set_xticks([(begin + end) / 2 for begin, end in spans.values()], list(spans))
    below.tick_params(axis="x", length=0)
