"""The Python interpreter, and what is installed beside it."""

import sys

from kit.doctor.facts import Facts, Interpreter
from kit.doctor.request import Request
from kit.errors import KitError
from kit.runtime.packages import require_native_packages


def look(request: Request, facts: Facts) -> Interpreter:
    """This interpreter, which also runs the local server. Imports nothing."""
    return Interpreter(
        version=sys.version_info[:3],
        executable=sys.executable,
        virtual=sys.prefix != sys.base_prefix,
        lacking=_lacking(),
    )


def _lacking() -> KitError | None:
    try:
        require_native_packages()
    except KitError as error:
        return error
    return None
