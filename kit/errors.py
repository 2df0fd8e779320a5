"""Every error a user can meet, and the exit code it ends the program with.

    KitError                     1  a check or command found something wrong
    ├── UsageError               2  the command line or a setting is wrong
    ├── EnvironmentNotReady      3  the machine lacks something: memory, disk, a free port, weights
    ├── IntegrityError           4  checksum mismatch, damaged file, upstream drift
    │   └── UnsafePickle         4  a checkpoint's pickle would call code
    ├── BudgetExceeded           5  a memory peak passed its budget, or could not be measured
    └── ServiceError             6  the service did not start, died, or is unhealthy

0 is success and 130 an interrupt (Ctrl-C). The CLI prints ``error: …`` and ``hint: …`` for these;
a path that may not be used (PermissionError) ends like EnvironmentNotReady. Any other exception
that escapes is a bug and keeps its traceback.
"""


def printable(text: str, most: int = 300) -> str:
    """Somebody else's words for a message: one line, bounded, nothing in it that moves a cursor."""
    line = _without_controls(text[: most + 1], keep="")
    return line if len(line) <= most else line[: most - 1] + "…"


def _without_controls(text: str, keep: str = "\n") -> str:
    return "".join(char if char.isprintable() or char in keep else " " for char in text)


class KitError(Exception):
    """An error with a remedy. ``hint`` says what to do next: a command or a concrete step.

    Neither holds a control character, whatever name of a file, a tensor or a server is in it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        self.message = _without_controls(message)
        self.hint = _without_controls(hint)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint)


class UsageError(KitError):
    """The command line or a setting is wrong."""

    exit_code = 2


class EnvironmentNotReady(KitError):
    """The machine lacks something the command needs."""

    exit_code = 3


class IntegrityError(KitError):
    """Data is not what it should be: checksum mismatch, damaged file, drift."""

    exit_code = 4


class UnsafePickle(IntegrityError):
    """A checkpoint's pickle asks for code to be called."""


class BudgetExceeded(KitError):
    """A memory peak passed its budget, or was promised and could not be measured."""

    exit_code = 5


class ServiceError(KitError):
    """The service did not start, died, or is unhealthy."""

    exit_code = 6


def _rebuild(cls: type[KitError], message: str, hint: str) -> KitError:
    return cls(message, hint=hint)
