"""Commands that are printed for pasting."""

import shlex
from os import PathLike


def command(words: str, *arguments: str | PathLike[str]) -> str:
    """A command for a POSIX shell: ``words`` as they are, every argument quoted where it must be.

    Capital words such as ``CHECKPOINT``, which the reader replaces, need no quotes.
    """
    return " ".join((words, *(shlex.quote(str(each)) for each in arguments)))
