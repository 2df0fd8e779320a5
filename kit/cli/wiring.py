"""What commands share: settings with the flags applied, and the runtimes that they act on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import typer

from kit.settings import Settings

if TYPE_CHECKING:
    from kit.runtime.protocol import Runtime, RuntimeName


@dataclass(frozen=True)
class Wiring:
    """Handed to every command as its context's object.

    Attributes:
        server_command: the program to start as the server; None is the kit's own.
    """

    server_command: Sequence[str] | None = None

    def runtimes(self, settings: Settings) -> "dict[RuntimeName, Runtime]":
        """Every runtime that `kit up` may choose from. They keep their state in one folder."""
        from kit.containers.runtime import ContainerRuntime
        from kit.runtime.local import SERVER_COMMAND, LocalRuntime

        command = self.server_command or SERVER_COMMAND
        local = LocalRuntime(settings.state_dir, server_command=command)
        return {"local": local, "container": ContainerRuntime(settings.state_dir)}

    def runtime(self, settings: Settings) -> "Runtime":
        """The runtime of the service that was started; the local one where none was."""
        from kit.runtime.state import FILE_NAME, read

        state = read(settings.state_dir / FILE_NAME)
        return self.runtimes(settings)[state.runtime if state else "local"]


def wiring(context: typer.Context) -> Wiring:
    """The wiring of the running command."""
    return cast(Wiring, context.obj)
