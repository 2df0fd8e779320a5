"""Show a licence and ask for its acceptance."""

import sys
from collections.abc import Callable

import typer

from kit.errors import EnvironmentNotReady
from kit.weights.licence import How, Terms


def asker(accepted: bool, command: str) -> Callable[[Terms], How]:
    """What ``require_acceptance`` asks with.

    Args:
        accepted: whether the command line says so already.
        command: what to run where nobody can be asked.
    """

    def ask(terms: Terms) -> How:
        show(terms)
        if accepted:
            return "option"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise EnvironmentNotReady(
                f"the licence has not been accepted: {terms.licence.title}",
                hint=f"read it at {terms.licence.url}, then: {command} --accept-license",
            )
        if not typer.confirm("Do you accept it?", default=False, err=True):
            raise EnvironmentNotReady(
                "the licence was not accepted, so nothing was fetched",
                hint=f"questions about it: see {terms.licence.url}",
            )
        return "terminal"

    return ask


def show(terms: Terms) -> None:
    """Print title, summary and where the text is, on stderr."""
    licence = terms.licence
    again = " (its text has changed since you accepted it)" if terms.earlier else ""
    lines = [f"Licence: {licence.title}{again}", *(f"  - {line}" for line in licence.summary)]
    lines.append(f"  The text: {licence.url}")
    if terms.text_path is not None:
        lines.append(f"  Read from there just now into {terms.text_path}")
    print("\n".join(lines), file=sys.stderr)
