"""Without weights: say what is missing, and offer to fetch it where somebody can be asked."""

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from kit.service.bring_up import up
from kit.service.missing_weights import WEIGHTS, WeightsMissing, lines_of, look_for

if TYPE_CHECKING:
    from kit.cli.terminal import Terminal
    from kit.runtime.protocol import Runtime, RuntimeName
    from kit.service.intent import UpOptions
    from kit.service.report import UpReport


def up_or_offer(
    options: "UpOptions", runtimes: "Mapping[RuntimeName, Runtime]", terminal: "Terminal"
) -> "UpReport":
    """`kit up`; where it lacks the weights, they are shown, and on a terminal fetched on request.

    Raises:
        WeightsMissing: nobody could be asked, or said no.
    """
    try:
        return up(options, runtimes, terminal)
    except WeightsMissing as error:
        terminal.say("")
        for line in lines_of(look_for(options.settings), convert=error.convert):
            terminal.say(line)
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        terminal.pause()
        if not typer.confirm("\nFetch them now?", default=False, err=True):
            raise
        _fetch(convert=error.convert)
        return up(options, runtimes, terminal)


def _fetch(*, convert: bool) -> None:
    """As `kit weights fetch` does it: the licence is shown and asked for, then all is checked."""
    from kit.cli.weights.fetch import fetch

    mirror = os.environ.get("KIT_WEIGHTS_MIRROR") or None
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the report
        fetch(WEIGHTS, mirror=mirror, convert=convert)
