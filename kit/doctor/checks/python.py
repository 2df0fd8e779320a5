"""Area ``python``: the interpreter that runs the kit and the local server."""

from kit.doctor.check import check, known
from kit.doctor.facts import Facts
from kit.doctor.finding import Evidence, Finding, dotted, failure, passed, warning
from kit.memory.unavailable import Unavailable

SUPPORTED = ((3, 11), (3, 14))
"""The kit's own floor, and the newest Python that torch 2.13 has wheels for."""


@check("python.version", "a Python that torch has packages for", reads=["interpreter"])
def version(facts: Facts) -> Finding:
    """From 3.11 to the newest with wheels."""
    interpreter = known(facts.interpreter)
    text = f"Python {dotted(interpreter.version)}"
    oldest, newest = SUPPORTED
    if not oldest <= interpreter.version[:2] <= newest:
        expected = f"{dotted(oldest)} to {dotted(newest)}"
        return warning(
            f"{text} may have no packages of torch",
            Evidence(interpreter.executable, text, expected),
            remedy=f"set up again with one: make clean setup PYTHON=python{dotted(oldest)}",
        )
    return passed(text)


@check(
    "python.environment",
    "an environment of the kit's own",
    reads=["interpreter", "machine"],
)
def environment(facts: Facts) -> Finding:
    """A virtual environment, or a container's Python."""
    interpreter = known(facts.interpreter)
    if interpreter.virtual:
        return passed("a virtual environment")
    if not isinstance(facts.machine, Unavailable) and facts.machine.container:
        return passed("a container's own Python")
    return warning(
        "the kit shares its packages with the whole system",
        Evidence(interpreter.executable, "no virtual environment", "a virtual environment"),
        remedy="in the kit's clone: make setup, then .venv/bin/kit",
    )


@check("python.packages", "what the native engine imports", reads=["interpreter", "serving"])
def packages(facts: Facts) -> Finding:
    """Needed by the local process, not by a container."""
    lacking = known(facts.interpreter).lacking
    if lacking is None:
        return passed("everything that the native engine imports")
    local = not isinstance(facts.serving, Unavailable) and facts.serving.runtime == "local"
    say = failure if local else warning
    seen = Evidence("importlib", lacking.message.rpartition(": ")[2], "installed")
    return say(lacking.message, seen, remedy=lacking.hint)
