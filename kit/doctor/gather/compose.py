"""Docker Compose."""

from kit.containers.compose import ComposeProgram, find_compose
from kit.doctor.facts import Facts
from kit.doctor.request import Request


def look(request: Request, facts: Facts) -> ComposeProgram:
    """The program that `kit up` would call.

    Raises:
        EnvironmentNotReady: there is none that the kit can use.
    """
    return find_compose(request.environ)
