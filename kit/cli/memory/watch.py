"""`kit memory watch`."""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.text import Text

from kit.cli import options as option
from kit.cli.wiring import wiring
from kit.memory.plan import Pool
from kit.memory.timeline import Run, Sample
from kit.settings import Settings
from kit.units import format_gib

if TYPE_CHECKING:
    from kit.memory.timeline import Timeline
    from kit.proof.recorder import Recorder
    from kit.runtime.protocol import Running, Runtime


_BAR_COLUMNS = 58
_LABEL_COLUMNS = 10
# Piped, a line a second is a log that can be read afterwards.
_LINE_SECONDS = 1.0
_PRIVATE, _SHARED, _MAPPED, _OUTSIDE = "blue", "magenta", "cyan", "green"
_PLAN, _BUDGET = "┊", "┃"


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


def watch(
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Where the timeline is kept.",
            show_default="below the state folder",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="End after this time.")
    ] = None,
    png: Annotated[Path | None, option.Png] = None,
    html: Annotated[Path | None, option.Html] = None,
    instance: Annotated[str | None, option.Instance] = None,
) -> None:
    """Watch the memory of the service: that which runs, or the next that `kit up` starts.

    Looks ten times a second until the service ends or Ctrl-C, keeps the timeline, and says where
    the peak came from.
    """
    from kit.cli.render import Terminal
    from kit.proof.explain import explain
    from kit.proof.receipt import TIMELINES, new_path
    from kit.proof.recorder import recording
    from kit.runtime.client import Client, base_url
    from kit.service.status import await_service, run_of_service

    settings = Settings.from_environ()
    with Terminal() as terminal:
        runtimes = wiring(context).runtimes(settings)
        service = await_service(runtimes, terminal, seconds)
        run = run_of_service(service, terminal)
    runtime, running = service.runtime, service.running
    path = output or new_path(settings.state_dir, TIMELINES, run, ".jsonl")
    client = Client(base_url(running.spec.host, running.spec.port))
    with (
        Live(run) as live,
        recording(path, run, runtime, client, on_sample=live.show) as recorder,
    ):
        ended = _wait(recorder, seconds)
    if ended:
        print(_end(runtime, running, recorder))
    timeline = recorder.timeline()
    for line in explain(timeline):
        print(line)
    print(f"timeline: {path}")
    for picture in draw(timeline, png, html):
        print(f"drawn: {picture}")


_DOWN_SECONDS = 3.0
"""`kit down` forgets a service a moment after its process has ended; a dead one is remembered."""


def _wait(recorder: "Recorder", seconds: float | None) -> bool:
    """Until the service has ended, the time is over, or Ctrl-C; whether it has ended."""
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        while not recorder.ended.wait(0.1):
            if deadline is not None and time.monotonic() >= deadline:
                return False
    except KeyboardInterrupt:
        return False
    return True


def _end(runtime: "Runtime", started: "Running", recorder: "Recorder") -> str:
    """How the service ended."""
    from kit.runtime.ready import cause_of_death

    now = runtime.status()
    deadline = time.monotonic() + _DOWN_SECONDS
    while now is not None and not now.alive and time.monotonic() < deadline:
        time.sleep(0.1)
        now = runtime.status()
    if now is None or (now.alive and now.restarts == started.restarts):
        return "the service was stopped"
    why = cause_of_death(runtime, now, recorder.lived)
    again = "; the engine has started it again" if now.restarts > started.restarts else ""
    return f"{why.message}{again}\nhint: {why.hint}"


def draw(timeline: "Timeline", png: Path | None, html: Path | None) -> tuple[Path, ...]:
    """Write the pictures that are asked for; returns them.

    Raises:
        EnvironmentNotReady: matplotlib is not installed, or a file cannot be written.
    """
    from kit.errors import EnvironmentNotReady
    from kit.proof.picture import write_html, write_png

    try:
        if png is not None:
            write_png(timeline, png)
        if html is not None:
            write_html(timeline, html)
    except OSError as error:
        raise EnvironmentNotReady(
            f"the picture cannot be written: {error}", hint="name another place"
        ) from error
    return tuple(path for path in (png, html) if path is not None)


def explain(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A timeline (JSON lines).", show_default="the newest one"
        ),
    ] = None,
    png: Annotated[Path | None, option.Png] = None,
    html: Annotated[Path | None, option.Html] = None,
) -> None:
    """Say where the memory peak of a kept timeline came from, in words and numbers."""
    from kit.memory.timeline import read_timeline
    from kit.proof.explain import explain as in_words
    from kit.proof.receipt import latest_timeline

    path = file or latest_timeline(Settings.from_environ().state_dir)
    timeline = read_timeline(path)
    for line in in_words(timeline):
        print(line)
    print(f"timeline: {path}")
    for picture in draw(timeline, png, html):
        print(f"drawn: {picture}")
