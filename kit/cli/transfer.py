"""How moving files is shown: a bar on a terminal, else a line now and then."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kit.units import format_gib
from kit.weights.fetch.transfer import Watch

# Piped, a line so often: hours of download stay a readable log.
_LINE_S = 15.0


class TransferView:
    """Shows progress, rate and time left on stderr, and notices. A context manager."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_interactive,
        )
        self._task: TaskID | None = None
        self._first = (0.0, 0)  # what an earlier run has left is no part of this one's rate
        self._shown_at = 0.0
        self._over_at: int | None = None  # the total of which the last line said 100 %

    def __enter__(self) -> "TransferView":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def watch(self) -> Watch:
        """To be handed to what moves the files."""
        return Watch(self._progress, self.say)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def _progress(self, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if self._task is None:
            self._task = self._bar.add_task(self._phase, total=None, completed=done_bytes)
            self._first, self._shown_at = (now, done_bytes), now
        elif done_bytes < self._first[1]:
            self._first = (now, done_bytes)  # it had to start over
        self._bar.update(self._task, completed=done_bytes, total=total_bytes or None)
        over = done_bytes == total_bytes != self._over_at
        if self._bar.disable and (now - self._shown_at >= _LINE_S or over):
            self._shown_at, self._over_at = now, total_bytes if over else None
            self.say(f"{self._phase}: {self._line(done_bytes, total_bytes, now)}")

    def _line(self, done_bytes: int, total_bytes: int, now: float) -> str:
        began, before = self._first
        rate = (done_bytes - before) / max(now - began, 1e-3)
        moved = done_bytes != before or done_bytes < total_bytes
        text = format_gib(done_bytes)
        if total_bytes:
            text += f" of {format_gib(total_bytes)} ({done_bytes / total_bytes:.0%})"
        if moved:  # else an earlier run had done it all
            text += f", {format_gib(int(rate))}/s"
        if rate > 0 and total_bytes > done_bytes:
            text += f", {_duration((total_bytes - done_bytes) / rate)} left"
        return text


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
