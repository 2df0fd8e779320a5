"""`kit memory watch` and `kit memory explain`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import options as option
from kit.cli.wiring import wiring
from kit.settings import Settings

if TYPE_CHECKING:
    from kit.memory.timeline import Timeline
    from kit.proof.recorder import Recorder
    from kit.runtime.protocol import Running, Runtime


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
    from kit.cli.memory.live import Live
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
