"""A timeline while it is recorded: live on a terminal, a line a second where piped."""

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.text import Text

from kit.memory.plan.line import Pool
from kit.memory.timeline import Run, Sample
from kit.units import format_gib

if TYPE_CHECKING:
    pass


_PRIVATE, _SHARED, _MAPPED, _OUTSIDE = "blue", "magenta", "cyan", "green"
_PLAN, _BUDGET = "┊", "┃"
_BAR_COLUMNS = 58


_LABEL_COLUMNS = 10


# Piped, a line a second is a log that can be read afterwards.
_LINE_SECONDS = 1.0


class Live:
    """Shows samples as they come; a context manager."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._console = Console(highlight=False, markup=False)
        self._live = RichLive(console=self._console, refresh_per_second=8, transient=True)
        self._phases: list[tuple[str, float]] = []
        self._peaks: dict[Pool, int] = {}
        self._printed: tuple[str, float] | None = None

    def __enter__(self) -> "Live":
        if self._console.is_interactive:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, sample: Sample) -> None:
        """The present sample."""
        for pool in (Pool.HOST, Pool.DEVICE):
            self._peaks[pool] = max(self._peaks.get(pool, 0), _size(sample, pool))
        if not self._phases or self._phases[-1][0] != sample.phase:
            self._phases.append((sample.phase, sample.seconds))
        if self._console.is_interactive:
            self._live.update(self.screen(sample))
        elif self._is_due(sample):
            self._printed = (sample.phase, sample.seconds)
            self._console.print(self.line(sample), soft_wrap=True)

    def line(self, sample: Sample) -> str:
        """The sample in one line."""
        words = (
            f"{sample.seconds:7.1f} s  {sample.phase:<9} host RAM {format_gib(sample.host_bytes)}"
        )
        if sample.device_bytes is not None:
            words += f", VRAM {format_gib(sample.device_bytes)}"
        return words

    def screen(self, sample: Sample) -> Group:
        """Everything, 80 columns wide: phase, each pool with its plan and budget, phases so far."""
        run = self._run
        head = f"{run.model}, {run.engine} engine on {run.device}"
        lines = [
            Text(f"{head:<{_BAR_COLUMNS}} {sample.seconds:>9.1f} s", "bold"),
            _labelled("phase", Text(sample.phase)),
            *self._pool(sample, Pool.HOST, "host RAM"),
        ]
        if run.device == "cpu":
            lines.append(_labelled("VRAM", Text("none: no GPU in use")))
        elif sample.device_bytes is None:
            lines.append(_labelled("VRAM", Text("not told yet")))
        else:
            lines += self._pool(sample, Pool.DEVICE, "VRAM")
        lines.append(_labelled("so far", Text(self._so_far(sample))))
        lines.append(Text("Ctrl-C ends it", "dim"))
        return Group(*lines)

    def _pool(self, sample: Sample, pool: Pool, label: str) -> list[Text]:
        parts = _parts(sample, pool)
        words = Text(", ").join(Text(f"{name} {format_gib(size)}", c) for name, size, c in parts)
        return [
            _labelled(label, self._bar(pool, [(size, color) for _, size, color in parts])),
            _labelled("", Text(self._figures(sample, pool))),
            _labelled("", words),
        ]

    def _bar(self, pool: Pool, parts: list[tuple[int, str]]) -> Text:
        """Parts side by side; where the plan and the budget are is marked."""
        marks = [(self._run.planned_bytes, _PLAN), (self._run.budget_bytes, _BUDGET)]
        known = [(sizes[pool.value], mark) for sizes, mark in marks if pool.value in sizes]
        whole = max(self._peaks[pool], *(size for size, _ in known), 1)
        bar = Text()
        for size, color in parts:
            bar.append("█" * round(size / whole * _BAR_COLUMNS), color)
        cells = bar.plain.ljust(_BAR_COLUMNS + 1)[: _BAR_COLUMNS + 1]
        for size, mark in known:
            at = round(size / whole * _BAR_COLUMNS)
            cells = cells[:at] + mark + cells[at + 1 :]
        return Text(cells, spans=bar.spans)

    def _figures(self, sample: Sample, pool: Pool) -> str:
        words = [
            f"{format_gib(_size(sample, pool))} now",
            f"{format_gib(self._peaks[pool])} at most",
        ]
        if planned := self._run.planned_bytes.get(pool.value):
            words.append(f"{_PLAN} plan {format_gib(planned)}")
        if budget := self._run.budget_bytes.get(pool.value):
            words.append(f"{_BUDGET} budget {format_gib(budget)}")
        return ", ".join(words)

    def _so_far(self, sample: Sample) -> str:
        ends = [*(begin for _, begin in self._phases[1:]), sample.seconds]
        spans = [
            f"{phase} {end - begin:.1f} s"
            for (phase, begin), end in zip(self._phases, ends, strict=True)
        ]
        return " > ".join(spans[-4:])

    def _is_due(self, sample: Sample) -> bool:
        if self._printed is None or self._printed[0] != sample.phase:
            return True
        return sample.seconds - self._printed[1] >= _LINE_SECONDS


def _parts(sample: Sample, pool: Pool) -> list[tuple[str, int, str]]:
    """What the pool's memory is made of: name, bytes, color."""
    if pool is Pool.HOST:
        return [
            ("private", sample.private_bytes, _PRIVATE),
            ("shared", sample.shared_bytes, _SHARED),
            ("mapped files", sample.mapped_bytes, _MAPPED),
        ]
    size = sample.device_bytes or 0
    inside = min(sample.pool_bytes or 0, size)
    return [("torch's pool", inside, _PRIVATE), ("CUDA context", size - inside, _OUTSIDE)]


def _size(sample: Sample, pool: Pool) -> int:
    return (sample.device_bytes or 0) if pool is Pool.DEVICE else sample.host_bytes


def _labelled(label: str, text: Text) -> Text:
    return Text.assemble(f"{label:<{_LABEL_COLUMNS}}", text, no_wrap=True, overflow="ellipsis")
