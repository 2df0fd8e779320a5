"""How progress is shown: live on a terminal, plain lines where the output is piped."""

from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.text import Text

# Piped, a line per quarter: enough to see that it goes on, few enough for a log.
_STEPS = 4
_SPINNER_COLUMNS = 3


class Terminal:
    """Shows messages and progress on stderr. A context manager; a :class:`Listener`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = ExitStack()
        self._status: Status | None = None
        self._shown: tuple[str, int] | None = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.close()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, soft_wrap=True)

    def progress(self, phase: str, fraction: float | None) -> None:
        """Show what is under way; piped, a line per phase and quarter."""
        text = f"{phase} {fraction:.0%}" if fraction else phase
        if self._console.is_interactive:
            self._status = self._status or self._live.enter_context(self._console.status(""))
            self._status.update(Text(text[: self._console.width - _SPINNER_COLUMNS]))
            return
        step = (phase, int((fraction or 0.0) * _STEPS))
        if step != self._shown:
            self._shown = step
            self.say(text)

    def pause(self) -> None:
        """Take what moves off the screen, so that a question can be asked."""
        self._live.close()
        self._status = None
