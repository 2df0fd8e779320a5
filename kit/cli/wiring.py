"""What commands share: settings with the flags applied, and the runtime that they act on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import typer

from kit.settings import Settings

if TYPE_CHECKING:
    from kit.stack.local import LocalRuntime
    from kit.stack.runtime import Runtime, RuntimeName


@dataclass(frozen=True)
class Wiring:
    """Handed to every command as its context's object.

    Attributes:
        server_command: the program to start as the server; None is the kit's own.
    """

    server_command: Sequence[str] | None = None

    def local_runtime(self, settings: Settings) -> "LocalRuntime":
        """The runtime that keeps its state in ``settings.state_dir``."""
        from kit.stack.local import SERVER_COMMAND, LocalRuntime

        command = self.server_command or SERVER_COMMAND
        return LocalRuntime(settings.state_dir, server_command=command)

    def runtimes(self, settings: Settings) -> "dict[RuntimeName, Runtime]":
        """Every runtime that `kit up` may choose from."""
        return {"local": self.local_runtime(settings)}


def wiring(context: typer.Context) -> Wiring:
    """The wiring of the running command."""
    return cast(Wiring, context.obj)
